package swarm_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// dialOurs is dialRaw by a peer that names our extension. It returns once the node has named it, too.
func dialOurs(t *testing.T, n *swarm.Node, id byte) raw {
	t.Helper()
	c := dialRaw(t, n, id)
	c.Write(peerwire.AppendExtendedHandshake(nil, peerwire.ExtendedHandshake{Messages: map[string]uint8{peerwire.RunsName: peerwire.RunsID}}))
	h, err := peerwire.ParseExtendedHandshake(c.next(t, peerwire.Extended).Data)
	if err != nil || h.Messages[peerwire.RunsName] != peerwire.RunsID {
		t.Fatalf("handshake %+v, %v", h, err)
	}
	return c
}

func (r raw) ask(run peerwire.Run) { r.Write(peerwire.AppendRun(nil, peerwire.RunsID, run)) }

// got is a message of our extension: the op, and for data the payload.
type got struct {
	peerwire.Run
	payload []byte
	data    []byte
}

// ours reads until a message of our extension.
func (r raw) ours(t *testing.T) got {
	t.Helper()
	for {
		m := r.next(t, peerwire.Extended)
		if m.Ext != peerwire.RunsID {
			continue
		}
		g := got{Run: m.Run, data: bytes.Clone(m.Data)}
		if m.Run.Op == peerwire.OpData {
			g.payload = make([]byte, m.Length)
			if _, err := r.Payload(g.payload); err != nil {
				t.Fatal(err)
			}
		}
		return g
	}
}

// op reads messages of our extension until one with this op.
func (r raw) op(t *testing.T, op peerwire.Op) got {
	t.Helper()
	for {
		if g := r.ours(t); g.Op == op {
			return g
		}
	}
}

func put(t *testing.T, s *swarmtest.MemStore, data []byte, r blob.Run) {
	t.Helper()
	off, n := s.Geometry().Bytes(r)
	if err := s.Put(r, data[off:off+n], blob.Direct); err != nil {
		t.Fatal(err)
	}
}

// TestRunsServed speaks our extension to a node byte by byte: what it has, what it waits for, cancels, refuses and
// expires.
func TestRunsServed(t *testing.T) {
	g := blob.Geometry{Size: 1<<20 - 1000, PieceLength: 256 << 10}
	data := swarmtest.Random(g.Size, 40)
	s := empty(t, g)
	put(t, s, data, blob.Run{First: 0, Count: 3})
	n := newNode(t, swarm.Options{UploadLimit: 160 << 10}) // one block at a time
	tor := add(t, n, s, blob.Hash{})
	c := dialOurs(t, n, 1)

	if h := c.op(t, peerwire.OpHave); !h.Whole || peerwire.Ranges(h.data) != 1 || peerwire.Range(h.data, 0) != (blob.Run{First: 0, Count: 3}) {
		t.Errorf("snapshot %+v %x", h.Run, h.data)
	}
	c.ask(peerwire.Run{Tag: 1, Block: 1, Count: 2})
	for b := uint32(1); b < 3; b++ {
		d := c.op(t, peerwire.OpData)
		last := map[bool]uint8{true: peerwire.DataLast}[b == 2]
		if d.Tag != 1 || d.Block != b || d.Flags != last || !bytes.Equal(d.payload, data[b*blob.BlockSize:][:blob.BlockSize]) {
			t.Errorf("block %d: %+v", b, d.Run)
		}
	}

	// What is not there is refused, unless it may wait.
	c.ask(peerwire.Run{Tag: 2, Block: 3, Count: 1})
	if r := c.op(t, peerwire.OpReject); r.Tag != 2 || r.Reason != peerwire.ReasonAbsent {
		t.Errorf("absent: %+v", r.Run)
	}
	c.ask(peerwire.Run{Tag: 3, Block: 2, Count: 3, Class: 3, Flags: peerwire.RunWait})
	if d := c.op(t, peerwire.OpData); d.Block != 2 || d.Flags != 0 {
		t.Errorf("the part that is there: %+v", d.Run)
	}
	until(t, "the rest to be parked", func() bool { return tor.Parked() == 1 })
	put(t, s, data, blob.Run{First: 4, Count: 1}) // not the next one
	put(t, s, data, blob.Run{First: 3, Count: 1})
	for b := uint32(3); b < 5; b++ {
		if d := c.op(t, peerwire.OpData); d.Tag != 3 || d.Block != b {
			t.Errorf("block %d: %+v", b, d.Run)
		}
	}

	// A cancel, and a deadline.
	c.ask(peerwire.Run{Tag: 4, Block: 8, Count: 1, Class: 3, Flags: peerwire.RunWait})
	c.Write(peerwire.AppendRunCancel(nil, peerwire.RunsID, 4))
	if r := c.op(t, peerwire.OpReject); r.Tag != 4 || r.Reason != peerwire.ReasonCancelled {
		t.Errorf("cancelled: %+v", r.Run)
	}
	c.ask(peerwire.Run{Tag: 5, Block: 8, Count: 1, Class: 3, Flags: peerwire.RunWait, Millis: 50})
	if r := c.op(t, peerwire.OpReject); r.Tag != 5 || r.Reason != peerwire.ReasonDeadline {
		t.Errorf("expired: %+v", r.Run)
	}
	if tor.Parked() != 0 {
		t.Errorf("%d are parked", tor.Parked())
	}

	// The last block is short, and comes as it is.
	put(t, s, data, blob.Run{First: g.Blocks() - 1, Count: 1})
	c.ask(peerwire.Run{Tag: 6, Block: g.Blocks() - 1, Count: 1})
	if d := c.op(t, peerwire.OpData); int(d.Bytes) != g.BlockLen(g.Blocks()-1) || len(d.payload) != int(d.Bytes) {
		t.Errorf("last block: %+v", d.Run)
	}

	// Hashes wait too; those of a complete piece that nobody knows do not.
	r := peerwire.HashRange{Root: name, Index: 16, Length: 16}
	c.Write(peerwire.AppendHashRequest(nil, r))
	put(t, s, data, g.PieceBlocks(1))
	if m := c.next(t, peerwire.Hashes); m.Range != r {
		t.Errorf("hashes %+v", m.Range)
	}

	// Beyond the blob, across pieces, and a tag in use end the connection.
	for i, bad := range []peerwire.Run{{Block: g.Blocks(), Count: 1}, {Block: 15, Count: 2}, {Tag: 9, Block: 40, Count: 1}} {
		c := dialOurs(t, n, byte(10+i))
		c.ask(peerwire.Run{Tag: 9, Block: 40, Count: 1, Class: 3, Flags: peerwire.RunWait})
		c.ask(bad)
		for {
			if _, err := c.Next(); err != nil {
				break
			}
		}
	}
	until(t, "nothing to be parked for who is gone", func() bool { return tor.Parked() == 0 })
}

// TestRunsBounded: more than 512 runs of one peer are refused, and a node that is closed forgets them.
func TestRunsBounded(t *testing.T) {
	g := blob.GeometryFor(32 << 20)
	n := newNode(t, swarm.Options{})
	tor := add(t, n, empty(t, g), blob.Hash{})
	c := dialOurs(t, n, 1)
	var b []byte
	for i := range uint32(600) {
		b = peerwire.AppendRun(b, peerwire.RunsID, peerwire.Run{Tag: i, Block: i, Count: 1, Class: 3, Flags: peerwire.RunWait})
	}
	go c.Write(b)
	for range 600 - 512 {
		if r := c.op(t, peerwire.OpReject); r.Reason != peerwire.ReasonBusy || r.Millis == 0 {
			t.Errorf("rejected %+v", r.Run)
		}
	}
	until(t, "512 parked runs", func() bool { return tor.Parked() == 512 })
	c.Close()
	until(t, "none", func() bool { return tor.Parked() == 0 })
}

// TestRunsAndChoke: without a slot, what somebody is blocked on is served, and what a plan wants, but no download.
func TestRunsAndChoke(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 41)
	n := newNode(t, swarm.Options{UploadSlots: 1, UploadLimit: 160 << 10})
	tor := add(t, n, seed(t, g, data), blob.Hash{})
	first := dialOurs(t, n, 1)
	first.next(t, peerwire.Unchoke)
	first.Write(peerwire.AppendBare(nil, peerwire.Interested))
	until(t, "it to be interested", func() bool { ps := tor.Peers(); return len(ps) == 1 && ps[0].Interested })
	c := dialOurs(t, n, 2)
	c.ask(peerwire.Run{Tag: 1, Block: 0, Count: 1, Class: 3})
	if r := c.op(t, peerwire.OpReject); r.Tag != 1 || r.Reason != peerwire.ReasonChoked {
		t.Errorf("bulk: %+v", r.Run)
	}
	for class := range uint8(2) {
		c.ask(peerwire.Run{Tag: 2, Block: 5, Count: 1, Class: class})
		if d := c.op(t, peerwire.OpData); d.Block != 5 {
			t.Errorf("class %d: %+v", class, d.Run)
		}
	}
	c.ask(peerwire.Run{Tag: 3, Block: 6, Count: 1, Class: 3, Flags: peerwire.RunWait})
	if d := c.op(t, peerwire.OpData); d.Block != 6 {
		t.Errorf("planned: %+v", d.Run)
	}
}

// TestForeignPeers: who does not name the extension sees none of it, is sent what it asks for in BEP 3, and has a
// fifth of the slots.
func TestForeignPeers(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 42)
	s := empty(t, g)
	put(t, s, data, blob.Run{First: 0, Count: 5})
	put(t, s, data, g.PieceBlocks(1))
	n := newNode(t, swarm.Options{UploadSlots: 10})
	tor := add(t, n, s, blob.Hash{})
	interested := func(tor *swarm.Torrent) (n int) {
		for _, p := range tor.Peers() {
			if p.Interested {
				n++
			}
		}
		return n
	}
	ours := dialOurs(t, n, 100)
	ours.op(t, peerwire.OpHave)
	var foreign []raw
	for i := range 4 {
		c := dialRaw(t, n, byte(i+1))
		c.Write(peerwire.AppendBare(nil, peerwire.Interested))
		// Whoever has a slot before it is known to be interested gives way to one that is: one after the other, then.
		until(t, "it to be interested", func() bool { return interested(tor) == i+1 })
		// Runs from somebody who did not name the extension are passed over.
		c.Write(peerwire.AppendRun(nil, peerwire.RunsID, peerwire.Run{Tag: 1, Block: 0, Count: 1}))
		c.Write(peerwire.AppendRunCancel(nil, peerwire.RunsID, 1))
		foreign = append(foreign, c)
	}
	put(t, s, data, g.PieceBlocks(2))
	put(t, s, data, blob.Run{First: 48, Count: 2})
	ours.op(t, peerwire.OpHave) // a delta: the others have been told by now, if at all
	served := 0
	for _, c := range foreign {
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		for {
			m, err := c.Next()
			if err != nil {
				break
			}
			switch {
			case m.ID == peerwire.Unchoke:
				served++
				c.Write(peerwire.AppendRequest(nil, 1, 0, blob.BlockSize))
			case m.ID == peerwire.Extended && m.Ext != 0:
				t.Errorf("a foreign peer was sent %+v", m)
			case m.ID == peerwire.Piece:
				if m.Piece != 1 || m.Length != blob.BlockSize {
					t.Errorf("a foreign peer was sent %+v", m)
				}
			}
		}
	}
	if served != 2 {
		t.Errorf("%d foreign peers have a slot of 10", served)
	}
}

// TestPartialHolders: a reader gets a block of a piece that nobody has whole, and several blocks that no single
// peer has.
func TestPartialHolders(t *testing.T) {
	g := blob.Geometry{Size: 4 << 20, PieceLength: 1 << 20}
	data := swarmtest.Random(g.Size, 43)
	whole := seed(t, g, data)
	tor, s := leecher(t, g, data)
	var holders []*swarmtest.MemStore
	for i := range uint32(2) {
		h := empty(t, g)
		h.TakeRoots(whole, blob.Claimed)
		leaves, _ := whole.Leaves(1)
		if err := h.SetLeaves(1, leaves); err != nil {
			t.Fatal(err)
		}
		n := newNode(t, swarm.Options{})
		add(t, n, h, blob.Hash{})
		tor.AddPeers(n.Addr())
		off, size := g.Bytes(blob.Run{First: 64 + 4*i, Count: 4})
		if err := h.Put(blob.Run{First: 64 + 4*i, Count: 4}, data[off:off+size], blob.Claimed); err != nil {
			t.Fatal(err)
		}
		holders = append(holders, h)
	}
	run := blob.Run{First: 65, Count: 6}
	await(t, tor, run)
	if tor.Has(blob.Run{First: 64, Count: 9}) || tor.Has(blob.Run{First: 0, Count: 1}) {
		t.Error("blocks that nobody has count as available")
	}
	if err := fetch(deadline(t), tor, s, run); err != nil {
		t.Fatal(err)
	}
	if !s.Has(run) || holders[0].PieceComplete(1) {
		t.Error("not there")
	}
	// More comes, and is told.
	off, size := g.Bytes(blob.Run{First: 72, Count: 1})
	if err := holders[1].Put(blob.Run{First: 72, Count: 1}, data[off:off+size], blob.Claimed); err != nil {
		t.Fatal(err)
	}
	await(t, tor, blob.Run{First: 72, Count: 1})
	if err := fetch(deadline(t), tor, s, blob.Run{First: 72, Count: 1}); err != nil {
		t.Fatal(err)
	}
}

// TestUrgentBeforeBulk: at a seeder whose uplink is busy with a planned download, single blocks come at once.
func TestUrgentBeforeBulk(t *testing.T) {
	g := blob.GeometryFor(16 << 20)
	data := swarmtest.Random(g.Size, 44)
	n := newNode(t, swarm.Options{UploadLimit: 2 << 20})
	add(t, n, seed(t, g, data), blob.Hash{})
	c := dialOurs(t, n, 1)
	for i := range uint32(32) {
		c.ask(peerwire.Run{Tag: i, Block: 16 * i, Count: 16, Class: 3})
	}
	c.op(t, peerwire.OpData)
	c.ask(peerwire.Run{Tag: 100, Block: 900, Count: 1, Class: 0})
	for i := 0; ; i++ {
		d := c.op(t, peerwire.OpData)
		if d.Tag == 100 {
			break
		}
		if i > 30 { // 512 blocks of bulk are queued; some were under way
			t.Fatal("an urgent block waits behind bulk")
		}
	}
}
