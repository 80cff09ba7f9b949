package swarm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// read is the reader goroutine of a peer: what concerns only this connection (blocks, requests, hashes) it
// does itself, the rest are events for the loop.
func (p *peer) read() {
	defer p.t.wg.Done()
	err := p.readAll()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		p.close("closed by the peer")
	default:
		p.close("%v", err)
	}
	p.t.post(peerGone{p})
}

func (p *peer) readAll() error {
	for {
		if !p.rd.Buffered() {
			p.out.flushRequests()
		}
		m, err := p.rd.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// An interrupt that came after its block: see part.revoke.
			p.conn.SetReadDeadline(time.Time{})
			continue
		}
		if err != nil {
			return err
		}
		p.heard.Store(now().UnixNano())
		if err := p.handle(m); err != nil {
			return err
		}
	}
}

// handle does what a message asks for. An error means that the peer broke the protocol.
func (p *peer) handle(m peerwire.Message) error {
	if m.ID == peerwire.Extended && m.Ext == extRuns && p.ext {
		return p.ran(m)
	}
	switch m.ID {
	case peerwire.Piece:
		return p.receive(m)
	case peerwire.Request:
		return p.requested(request{m.Piece, m.Begin, m.Length})
	case peerwire.Cancel:
		r := request{m.Piece, m.Begin, m.Length}
		if p.out.cancel(r) && p.fast {
			p.out.reject(r)
		}
	case peerwire.Reject:
		return p.rejected(m)
	case peerwire.HashRequest:
		p.hashesAsked(m.Range)
	case peerwire.Hashes:
		return p.hashesCame(m)
	case peerwire.HashReject:
		return p.hashesRejected(m.Range)
	default:
		return p.told(m)
	}
	return nil
}

// chatterLimit is how many messages without payload a peer may send in a minute, besides two per piece: each
// costs the loop some time, and an honest peer sends a HAVE per piece in its life.
const chatterLimit = 10_000

// told passes on what the loop has to know.
func (p *peer) told(m peerwire.Message) error {
	n := p.t.geo.Pieces()
	if p.chatter++; p.chatter > chatterLimit+2*int(n) {
		at := now()
		if at.Sub(p.quietAt) < time.Minute {
			return fmt.Errorf("%w: %d messages without payload in a minute", blob.ErrInvalid, p.chatter)
		}
		p.chatter, p.quietAt = 0, at
	}
	switch m.ID {
	case peerwire.Bitfield:
		have := newSet(n)
		if err := peerwire.ParseBitfield(have, n, m.Data); err != nil {
			return err
		}
		p.t.post(peerHas{p, have})
	case peerwire.HaveAll, peerwire.HaveNone:
		have := newSet(n)
		if m.ID == peerwire.HaveAll && n > 0 {
			have.fill(n)
		}
		p.t.post(peerHas{p, have})
	case peerwire.Have:
		if m.Piece >= n {
			return fmt.Errorf("%w: have of piece %d of %d", blob.ErrInvalid, m.Piece, n)
		}
		p.t.post(peerGot{p, m.Piece})
	case peerwire.AllowedFast:
		if m.Piece < n && p.fast {
			p.t.post(peerAllows{p, m.Piece})
		}
	case peerwire.Choke, peerwire.Unchoke:
		p.t.post(peerChokes{p, m.ID == peerwire.Choke})
	case peerwire.Interested, peerwire.NotInterested:
		p.t.post(peerWants{p, m.ID == peerwire.Interested})
	case peerwire.Port:
		p.dhtSaid(m.UDPPort)
	case peerwire.Extended:
		switch {
		case !p.ext:
			return nil
		case m.Ext != 0:
			return p.extended(m)
		}
		h, err := peerwire.ParseExtendedHandshake(m.Data)
		if err != nil {
			return err
		}
		p.metadata.ext = h.Messages[peerwire.MetadataName]
		if id := h.Messages[peerwire.RunsName]; id != 0 && p.fast {
			p.runsID.Store(uint32(id)) // before the loop hears of it: its first run may be in the next message
		}
		p.t.post(peerSays{p, h})
	}
	return nil
}

// blockOf is the block that an extent of a piece names; false when it is not exactly one block.
func (p *peer) blockOf(piece, begin, length uint32) (uint32, bool) {
	g := p.t.geo
	if piece >= g.Pieces() || begin%blockSize != 0 || int64(begin) >= g.PieceLength {
		return 0, false
	}
	b := piece*g.BlocksPerPiece() + begin/blockSize
	return b, g.isBlock(b) && int(length) == g.BlockLen(b)
}

// receive takes the payload of a piece message: straight into the buffer of the part that wants it, or
// nowhere.
func (p *peer) receive(m peerwire.Message) error {
	block, ok := p.blockOf(m.Piece, m.Begin, m.Length)
	if !ok {
		return fmt.Errorf("%w: piece %d+%d of %d bytes is not a block", blob.ErrInvalid, m.Piece, m.Begin, m.Length)
	}
	pt, known := p.answered(block, true)
	if !known && (p.fast || p.strays >= maxRequests) {
		return fmt.Errorf("%w: block %d was not asked for", blob.ErrInvalid, block)
	}
	if !known {
		// Without BEP 6 a choke drops requests silently, and blocks that were on their way still come.
		p.strays++
	}
	p.down.Add(int64(m.Length))
	p.t.down.Add(int64(m.Length))
	if f := p.t.node.opts.OnBytes; f != nil {
		f(p.addr, int(m.Length), 0)
	}
	if pt == nil {
		return nil
	}
	buf := pt.begin(block, p)
	for got := 0; got < len(buf); {
		n, err := p.rd.Payload(buf[got:])
		got += n
		if got == len(buf) {
			break
		}
		broken := !errors.Is(err, os.ErrDeadlineExceeded)
		if !broken {
			p.conn.SetReadDeadline(time.Time{})
		}
		if !pt.release(block, broken) {
			if broken {
				return err
			}
			return nil // Next discards the rest
		}
	}
	if buf != nil && pt.finish(block) {
		pt.complete()
	}
	return nil
}

// rejected notes that a request will not be answered (BEP 6).
func (p *peer) rejected(m peerwire.Message) error {
	block, ok := p.blockOf(m.Piece, m.Begin, m.Length)
	if !ok || !p.fast {
		return fmt.Errorf("%w: reject of what was not asked for", blob.ErrInvalid)
	}
	pt, known := p.answered(block, false)
	if !known {
		return fmt.Errorf("%w: reject of block %d, which was not asked for", blob.ErrInvalid, block)
	}
	if pt != nil {
		p.t.post(peerRejected{p, pt})
	}
	return nil
}

// requested queues a block for the peer, or says that it will not come. libtorrent 2.0 pads the last file of a
// v2 torrent to whole blocks in its mind and asks for the last block in full length, so a request may exceed
// the end of the last piece of a file, and v1 peers ask for pad files: zeros follow, see upload.
func (p *peer) requested(r request) error {
	g := p.t.geo
	if r.piece >= g.Pieces() || int64(r.begin) >= g.wireLen(r.piece) || int64(r.begin)+int64(r.length) > g.PieceLength {
		return fmt.Errorf("%w: request of %d+%d in piece %d of %d", blob.ErrInvalid, r.begin, r.length, r.piece, g.Pieces())
	}
	p.lastReq.Store(now().UnixNano())
	if (p.serving.Load() || p.allowedNow(r.piece)) && p.t.cfg.Store.PieceComplete(r.piece) && p.out.request(r) {
		return nil
	}
	if p.fast {
		p.out.reject(r)
	}
	return nil
}
