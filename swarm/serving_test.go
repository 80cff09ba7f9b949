package swarm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// raw is a connection to a node on which the test speaks itself.
type raw struct {
	net.Conn
	*peerwire.Reader
}

func dialRaw(t *testing.T, n *swarm.Node, id byte) raw {
	t.Helper()
	c, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	h := peerwire.Handshake{Reserved: peerwire.Abilities, InfoHash: key, PeerID: [20]byte{id}}
	if _, err := c.Write(peerwire.AppendHandshake(nil, h)); err != nil {
		t.Fatal(err)
	}
	if h, err := peerwire.ReadHandshake(c); err != nil || h.PeerID != n.PeerID() {
		t.Fatalf("handshake %+v, %v", h, err)
	}
	return raw{c, peerwire.NewReader(c, 1)}
}

// next reads until a message with this id.
func (r raw) next(t *testing.T, id peerwire.ID) peerwire.Message {
	t.Helper()
	for {
		m, err := r.Next()
		if err != nil {
			t.Fatalf("waiting for %s: %v", id, err)
		}
		if m.ID == id {
			return m
		}
	}
}

// TestServing speaks to a seed byte by byte: what it offers, serves, rejects and cuts off.
func TestServing(t *testing.T) {
	g := blob.GeometryFor(600_000)
	data := swarmtest.Random(g.Size, 20)
	n := newNode(t, swarm.Options{})
	whole := seed(t, g, data)
	add(t, n, whole, blob.Hash{})
	c := dialRaw(t, n, 1)
	if m, err := c.Next(); err != nil || m.ID != peerwire.HaveAll {
		t.Fatalf("first message %+v, %v", m, err)
	}
	h, err := peerwire.ParseExtendedHandshake(c.next(t, peerwire.Extended).Data)
	if err != nil || h.Client != "pantala" || h.Port != n.Addr().Port() || h.Queue != 512 {
		t.Errorf("extended handshake %+v, %v", h, err)
	}
	c.next(t, peerwire.Unchoke)

	// The last block, and the same one asked as libtorrent does: in full length.
	last := int(g.Size - 2*g.PieceLength - 4*blob.BlockSize)
	for _, length := range []int{last, blob.BlockSize} {
		c.Write(peerwire.AppendRequest(nil, 2, 4*blob.BlockSize, uint32(length)))
		m := c.next(t, peerwire.Piece)
		got := make([]byte, m.Length)
		if _, err := c.Payload(got); err != nil || int(m.Length) != length {
			t.Fatalf("%d bytes: %+v, %v", length, m, err)
		}
		if want := append(bytes.Clone(data[g.Size-int64(last):]), make([]byte, length-last)...); !bytes.Equal(got, want) {
			t.Error("the last block differs")
		}
	}
	// Odd extents within a piece are served too (BEP 3 does not forbid them).
	c.Write(peerwire.AppendRequest(nil, 1, 1000, 777))
	m := c.next(t, peerwire.Piece)
	got := make([]byte, m.Length)
	if _, err := c.Payload(got); err != nil || !bytes.Equal(got, data[g.PieceLength+1000:g.PieceLength+1777]) {
		t.Errorf("odd extent: %+v, %v", m, err)
	}

	// Hashes: leaves, under the name of the torrent only.
	r := peerwire.HashRange{Root: name, Index: 16, Length: 16}
	c.Write(peerwire.AppendHashRequest(nil, r))
	m = c.next(t, peerwire.Hashes)
	leaves := make([]blob.Hash, 16)
	peerwire.CopyHashes(leaves, m.Data)
	if root, _ := whole.Root(1); g.PieceRoot(leaves) != root || m.Range != r {
		t.Error("leaves of piece 1 do not fold to its root")
	}
	for name, r := range map[string]peerwire.HashRange{
		"other root":   {Root: blob.Hash{5}, Length: 16},
		"beyond":       {Root: name, Index: 64, Length: 16},
		"middle layer": {Root: name, Base: 2, Length: 4},
		"proof":        {Root: name, Length: 16, Proof: 4},
	} {
		c.Write(peerwire.AppendHashRequest(nil, r))
		if m := c.next(t, peerwire.HashReject); m.Range != r {
			t.Errorf("%s: rejected %+v", name, m.Range)
		}
	}

	// More requests than the queue takes: every one is answered, by a block or a reject.
	var b []byte
	for i := range uint32(2000) {
		b = peerwire.AppendRequest(b, 0, i%16*blob.BlockSize, blob.BlockSize)
	}
	go c.Write(b)
	blocks, rejects := 0, 0
	for blocks+rejects < 2000 {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch m.ID {
		case peerwire.Piece:
			blocks++
		case peerwire.Reject:
			rejects++
		}
	}
	if blocks < 512 || rejects == 0 {
		t.Errorf("%d blocks and %d rejects", blocks, rejects)
	}

	// A cancel of what is not queued any more is nothing; a request outside the blob ends the connection.
	c.Write(peerwire.AppendCancel(nil, 0, 0, blob.BlockSize))
	c.Write(peerwire.AppendRequest(nil, 3, 0, blob.BlockSize))
	if m, err := c.Next(); err == nil {
		t.Errorf("after a request outside: %+v", m)
	}
}

// TestPartialSeed offers and serves complete pieces only.
func TestPartialSeed(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 21)
	s := empty(t, g)
	put := func(r blob.Run) {
		off, n := g.Bytes(r)
		if err := s.Put(r, data[off:off+n], blob.Direct); err != nil {
			t.Fatal(err)
		}
	}
	put(g.PieceBlocks(1))
	put(blob.Run{First: 32, Count: 8}) // half of piece 2
	n := newNode(t, swarm.Options{})
	add(t, n, s, blob.Hash{})
	c := dialRaw(t, n, 1)
	if m := c.next(t, peerwire.Bitfield); !bytes.Equal(m.Data, []byte{0x40}) {
		t.Errorf("bitfield %x", m.Data)
	}
	c.next(t, peerwire.Unchoke)
	c.Write(peerwire.AppendRequest(nil, 2, 0, blob.BlockSize))
	if m := c.next(t, peerwire.Reject); m.Piece != 2 {
		t.Errorf("rejected %+v", m)
	}
	put(blob.Run{First: 40, Count: 8})
	if m := c.next(t, peerwire.Have); m.Piece != 2 {
		t.Errorf("have %+v", m)
	}
	c.Write(peerwire.AppendRequest(nil, 2, 0, blob.BlockSize))
	if m := c.next(t, peerwire.Piece); m.Piece != 2 {
		t.Errorf("piece %+v", m)
	}
	// Have nothing, and have a piece, as a peer says it: the node becomes interested.
	c.Write(peerwire.AppendHave(peerwire.AppendBare(nil, peerwire.HaveNone), 0))
	c.next(t, peerwire.Interested)
}

// TestDuplicate drops the second connection of a peer id, and strangers without a handshake.
func TestDuplicate(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	n := newNode(t, swarm.Options{})
	tor := add(t, n, seed(t, g, swarmtest.Random(g.Size, 22)), blob.Hash{})
	first := dialRaw(t, n, 1)
	first.next(t, peerwire.Unchoke)
	second := dialRaw(t, n, 1)
	if m, err := second.Next(); err == nil {
		t.Errorf("the second connection got %+v", m)
	}
	if len(tor.Peers()) != 1 {
		t.Errorf("peers %+v", tor.Peers())
	}
	self, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	self.SetDeadline(time.Now().Add(20 * time.Second))
	self.Write(binary.BigEndian.AppendUint64(nil, 0x474554202f204854)) // "GET / HT"
	if _, err := self.Read(make([]byte, 1)); err == nil {
		t.Error("an HTTP client got an answer")
	}
	first.Write(peerwire.AppendRequest(nil, 0, 0, 1))
	first.next(t, peerwire.Piece)
}

// TestRandomFrames sends well-formed frames with random content, on many connections: whatever they are, the
// node goes on serving others, and nothing of it reaches its store.
func TestRandomFrames(t *testing.T) {
	g := blob.GeometryFor(3<<20 + 7)
	data := swarmtest.Random(g.Size, 23)
	n := newNode(t, swarm.Options{})
	whole := seed(t, g, data)
	s := empty(t, g)
	s.TakeRoots(whole, blob.Claimed)
	tor := add(t, n, s, blob.Hash{})
	rng := rand.New(rand.NewPCG(1, 2))
	small := func() uint32 { return rng.Uint32N(1 << (1 + rng.Uint32N(20))) }
	for i := range 150 {
		c := dialRaw(t, n, byte(i+1))
		var b []byte
		for range 1 + rng.IntN(200) {
			r := peerwire.HashRange{Root: name, Base: small() % 8, Length: 1 << (small() % 10), Proof: small() % 20}
			r.Index = small() / r.Length * r.Length
			switch rng.IntN(18) {
			case 0:
				b = peerwire.AppendHave(b, small()%16)
			case 1:
				b = peerwire.AppendRequest(b, small()%13, small()%(256<<10), 1+small()%(16<<10))
			case 2:
				b = peerwire.AppendCancel(b, small(), small(), small())
			case 3:
				b = peerwire.AppendHashRequest(b, r)
			case 4:
				b = peerwire.AppendBare(b, peerwire.ID(rng.IntN(4)))
			case 5:
				b = peerwire.AppendAllowedFast(b, small())
			case 6:
				b = peerwire.AppendSuggest(b, small())
			case 7:
				b = peerwire.AppendBare(b, peerwire.HaveAll+peerwire.ID(rng.IntN(2)))
			case 8:
				b = peerwire.AppendExtended(b, uint8(rng.IntN(2)), []byte("d1:pi1e1:v3:\x1b[1e"))
			case 9:
				b = append(b, 0, 0, 0, 2, byte(24+rng.IntN(200)), 1)
			case 10:
				b = peerwire.AppendBitfield(b, []uint64{rng.Uint64() & (1<<13 - 1)}, 13)
			case 11: // the rest ends the connection, mostly
				if rng.IntN(20) == 0 {
					b = peerwire.AppendHashReject(b, r)
				}
			case 12:
				if rng.IntN(20) == 0 {
					b = peerwire.AppendReject(b, small(), small(), small())
				}
			case 14:
				b = peerwire.AppendExtendedHandshake(b, peerwire.ExtendedHandshake{Messages: map[string]uint8{peerwire.RunsName: 1}})
			case 15:
				run := peerwire.Run{Class: uint8(small()), Flags: uint8(small()), Tag: small(), Block: small() % 200, Count: 1 + small()%20, Millis: small()}
				b = peerwire.AppendRun(b, peerwire.RunsID, run)
			case 16:
				b = peerwire.AppendRunCancel(b, peerwire.RunsID, small())
			case 17:
				b = peerwire.AppendRanges(b, peerwire.RunsID, small()%2 == 0, []blob.Run{{First: small() % 200, Count: 1 + small()%30}})
			case 13:
				if rng.IntN(20) == 0 {
					length := small() % (16 << 10)
					b = append(peerwire.AppendPieceHeader(b, small()%13, small(), length), make([]byte, length)...)
				}
			}
		}
		c.Write(b)
		c.Close()
	}
	a := newNode(t, swarm.Options{})
	add(t, a, whole, blob.Hash{})
	tor.AddPeers(a.Addr())
	if err := fill(deadline(t), tor, s); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Bytes(), data) {
		t.Error("bytes differ")
	}
	if _, refused := s.Counts(); refused != 0 {
		t.Errorf("%d blocks were refused", refused)
	}
}

// TestChatter ends a connection that says too much.
func TestChatter(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	n := newNode(t, swarm.Options{})
	add(t, n, seed(t, g, swarmtest.Random(g.Size, 24)), blob.Hash{})
	c := dialRaw(t, n, 1)
	var b []byte
	for range 20_000 {
		b = peerwire.AppendHave(b, 1)
	}
	go c.Write(b)
	for {
		_, err := c.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection is still open")
		}
		if err != nil {
			return
		}
	}
}

// TestAllowedFast: a foreign peer that finds all slots taken may have a few pieces, each about twice.
func TestAllowedFast(t *testing.T) {
	g := blob.GeometryFor(64 * 256 << 10)
	data := swarmtest.Random(g.Size, 38)
	n := newNode(t, swarm.Options{UploadSlots: 1})
	add(t, n, seed(t, g, data), blob.Hash{})
	foreign := func(id byte) raw {
		c := dialRaw(t, n, id)
		c.Write(peerwire.AppendExtendedHandshake(peerwire.AppendBare(nil, peerwire.HaveNone), peerwire.ExtendedHandshake{Client: "x"}))
		return c
	}
	foreign(1).next(t, peerwire.Unchoke)
	p := foreign(2)
	var allowed []uint32
	for len(allowed) < 10 {
		allowed = append(allowed, p.next(t, peerwire.AllowedFast).Piece)
	}
	var other uint32
	for slices.Contains(allowed, other) {
		other++
	}
	p.Write(peerwire.AppendRequest(nil, other, 0, blob.BlockSize))
	if m := p.next(t, peerwire.Reject); m.Piece != other {
		t.Errorf("rejected %+v", m)
	}
	got := 0
	for range 2*16*10 + 5 {
		p.Write(peerwire.AppendRequest(nil, allowed[3], blob.BlockSize, blob.BlockSize))
		m, err := p.Next()
		if err == nil && m.ID == peerwire.Reject {
			break
		}
		b := make([]byte, m.Length)
		if _, err := p.Payload(b); err != nil || m.ID != peerwire.Piece {
			t.Fatal(err)
		}
		off := int64(allowed[3])*g.PieceLength + blob.BlockSize
		if !bytes.Equal(b, data[off:off+blob.BlockSize]) {
			t.Fatal("bytes differ")
		}
		got++
	}
	if got != 2*16*10 {
		t.Errorf("%d blocks came", got)
	}
}
