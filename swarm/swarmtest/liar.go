package swarmtest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// Lies say what a Liar does wrong. The zero value is an honest, plain seed.
type Lies struct {
	Corrupt     func(block uint32) bool // flip a byte of these blocks
	BadLeaves   bool                    // answer hash requests with other hashes
	NoLeaves    bool                    // reject hash requests
	DeafLeaves  bool                    // do not answer hash requests
	StallAfter  int                     // after so many blocks send no more of them; 0: never
	StallMid    bool                    // when stalling, do it in the middle of a block
	HangUpAfter int                     // close the connection after so many blocks; 0: never
	Reject      bool                    // reject every request (BEP 6)
	Choke       bool                    // never unchoke
	Unasked     bool                    // send a block that nobody asked for after the handshake
	Truncated   bool                    // send a frame that breaks BEP 3 after the handshake
	Flood       bool                    // ask for everything over and over and read nothing
	NoFast      bool                    // do not speak BEP 6
	Delay       time.Duration           // before every block
	ID          [20]byte                // peer id; zero: "-LI0000-liar" and the port
}

// Liar is a peer that serves a blob, badly. It listens on loopback.
type Liar struct {
	geo    blob.Geometry
	data   []byte
	leaves []blob.Hash
	lies   Lies
	ln     net.Listener
	wg     sync.WaitGroup
	blocks atomic.Int64
	conns  atomic.Int64

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// NewLiar starts a liar for data.
func NewLiar(g blob.Geometry, data []byte, lies Lies) *Liar {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	l := &Liar{geo: g, data: data, lies: lies, ln: ln, open: make(map[net.Conn]struct{})}
	for b := range g.Blocks() {
		l.leaves = append(l.leaves, blob.Leaf(l.block(b)))
	}
	if l.lies.ID == ([20]byte{}) {
		copy(l.lies.ID[:], "-LI0000-liar")
		binary.BigEndian.PutUint16(l.lies.ID[18:], l.Addr().Port())
	}
	l.wg.Go(l.accept)
	return l
}

// Addr is where it listens.
func (l *Liar) Addr() netip.AddrPort { return l.ln.Addr().(*net.TCPAddr).AddrPort() }

// Blocks is how many blocks it has sent, right or wrong.
func (l *Liar) Blocks() int { return int(l.blocks.Load()) }

// Conns is how many connections it has accepted.
func (l *Liar) Conns() int { return int(l.conns.Load()) }

// Dial opens a connection to a node, and lies there.
func (l *Liar) Dial(to netip.AddrPort, key [20]byte) error {
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	if !l.keep(c) {
		return net.ErrClosed
	}
	hello := peerwire.Handshake{Reserved: l.reserved(), InfoHash: key, PeerID: l.lies.ID}
	if _, err := c.Write(peerwire.AppendHandshake(nil, hello)); err != nil {
		return err
	}
	l.wg.Go(func() {
		defer l.drop(c)
		if _, err := peerwire.ReadHandshake(c); err == nil {
			l.serve(c)
		}
	})
	return nil
}

// HangUp closes the connections that are open.
func (l *Liar) HangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Close()
	}
}

// Close stops it.
func (l *Liar) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.ln.Close()
	l.HangUp()
	l.wg.Wait()
}

func (l *Liar) accept() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return
		}
		l.conns.Add(1)
		if !l.keep(c) {
			return
		}
		l.wg.Go(func() {
			defer l.drop(c)
			h, err := peerwire.ReadHandshake(c)
			if err != nil {
				return
			}
			h.Reserved, h.PeerID = l.reserved(), l.lies.ID
			if _, err := c.Write(peerwire.AppendHandshake(nil, h)); err == nil {
				l.serve(c)
			}
		})
	}
}

func (l *Liar) reserved() peerwire.Reserved {
	r := peerwire.Abilities
	r[5] = 0 // no BEP 10
	if l.lies.NoFast {
		r[7] &^= 0x04
	}
	return r
}

func (l *Liar) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return false
	}
	l.open[c] = struct{}{}
	return true
}

func (l *Liar) drop(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	c.Close()
}

// block is the payload of one block.
func (l *Liar) block(b uint32) []byte {
	off := int64(b) * blob.BlockSize
	return l.data[off : off+int64(l.geo.BlockLen(b))]
}

// serve answers messages until the connection ends.
func (l *Liar) serve(c net.Conn) {
	n := l.geo.Pieces()
	all := make([]uint64, (n+63)/64)
	for p := range n {
		all[p/64] |= 1 << (p % 64)
	}
	out := peerwire.AppendBitfield(nil, all, n)
	switch {
	case l.lies.Unasked:
		out = append(peerwire.AppendPieceHeader(out, 0, 0, uint32(len(l.block(0)))), l.block(0)...)
	case l.lies.Truncated:
		out = append(out, 0, 0, 0, 3, byte(peerwire.Request), 1, 2)
	case l.lies.Flood:
		l.flood(c, out)
		return
	}
	if !l.lies.Choke {
		out = peerwire.AppendBare(out, peerwire.Unchoke)
	}
	if _, err := c.Write(out); err != nil {
		return
	}
	rd := peerwire.NewReader(c, int(n))
	for sent := 0; ; {
		m, err := rd.Next()
		if err != nil {
			return
		}
		switch m.ID {
		case peerwire.Request:
			if l.lies.StallAfter > 0 && sent >= l.lies.StallAfter {
				if l.lies.StallMid && sent == l.lies.StallAfter {
					sent++
					b := l.block(m.Piece*l.geo.BlocksPerPiece() + m.Begin/blob.BlockSize)
					c.Write(append(peerwire.AppendPieceHeader(nil, m.Piece, m.Begin, m.Length), b[:len(b)/2]...))
				}
				continue
			}
			if l.lies.HangUpAfter > 0 && sent >= l.lies.HangUpAfter {
				return
			}
			sent++
			err = l.answer(c, m)
		case peerwire.HashRequest:
			err = l.answerHashes(c, m.Range)
		}
		if err != nil {
			return
		}
	}
}

func (l *Liar) answer(c net.Conn, m peerwire.Message) error {
	if l.lies.Reject {
		_, err := c.Write(peerwire.AppendReject(nil, m.Piece, m.Begin, m.Length))
		return err
	}
	time.Sleep(l.lies.Delay)
	b := m.Piece*l.geo.BlocksPerPiece() + m.Begin/blob.BlockSize
	out := append(peerwire.AppendPieceHeader(nil, m.Piece, m.Begin, m.Length), l.block(b)...)
	if l.lies.Corrupt != nil && l.lies.Corrupt(b) {
		out[len(out)-1] ^= 1
	}
	l.blocks.Add(1)
	_, err := c.Write(out)
	return err
}

func (l *Liar) answerHashes(c net.Conn, r peerwire.HashRange) error {
	switch {
	case l.lies.DeafLeaves:
		return nil
	case l.lies.NoLeaves || r.Base != 0:
		_, err := c.Write(peerwire.AppendHashReject(nil, r))
		return err
	}
	base := make([]blob.Hash, r.Length)
	if int(r.Index) < len(l.leaves) {
		copy(base, l.leaves[r.Index:])
	}
	if l.lies.BadLeaves {
		base[0][0] ^= 1
	}
	uncles, err := blob.Prove(l.leaves, 0, blob.Width(l.geo.Blocks()), r.Index, r.Length, r.Uncles())
	if err != nil {
		uncles = nil // a tree narrower than the range needs none
	}
	_, err = c.Write(peerwire.AppendHashes(nil, r, base, uncles))
	return err
}

// flood asks without end and does not read.
func (l *Liar) flood(c net.Conn, out []byte) {
	out = peerwire.AppendBare(out, peerwire.Interested)
	for {
		if _, err := c.Write(out); err != nil {
			return
		}
		out = out[:0]
		for i := range uint32(1000) {
			out = peerwire.AppendRequest(out, i%l.geo.Pieces(), 0, uint32(min(blob.BlockSize, l.geo.Size)))
		}
	}
}
