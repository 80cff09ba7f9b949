package swarm

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// TestSplit cuts runs so that every part is legal and they make up the run.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := spaceFor(blob.BlockSize<<rapid.IntRange(0, 7).Draw(t, "piece"), rapid.Int64Range(1, 4<<20).Draw(t, "size"))
		first := rapid.Uint32Range(0, g.Blocks()-1).Draw(t, "first")
		r := blob.Run{First: first, Count: rapid.Uint32Range(0, g.Blocks()-first).Draw(t, "count")}
		at := r.First
		for _, p := range split(g, r, blob.MaxBuffer) {
			if p.First != at || p.Empty() || p.Count > blob.MaxBuffer || g.PiecesOf(p).Count != 1 {
				t.Fatalf("part %s of %s at %d", p, r, at)
			}
			at = p.End()
		}
		if at != r.End() {
			t.Fatalf("parts end at %d of %s", at, r)
		}
		if pieces := g.PiecesOf(r); r.Count <= blob.MaxBuffer && pieces.Count == 1 && len(split(g, r, blob.MaxBuffer)) != 1 {
			t.Fatalf("a small run is cut: %s", r)
		}
	})
}

// TestMeter follows rate and latency.
func TestMeter(t *testing.T) {
	var m meter
	if m.depth() != 16 || m.p95() != 0 {
		t.Errorf("new: depth %d, p95 %s", m.depth(), m.p95())
	}
	for i := range 100 {
		m.received(time.Duration(i+1) * time.Millisecond)
	}
	// The last 64 latencies are 37..100 ms.
	if m.p95() != 97*time.Millisecond || m.rtt != time.Millisecond {
		t.Errorf("p95 %s, rtt %s", m.p95(), m.rtt)
	}
	if m.depth() != 64 {
		t.Errorf("depth %d without a rate", m.depth())
	}
	total := int64(0)
	for range 100 {
		total += 100 << 20 / 10
		m.tick(total, 100*time.Millisecond, 64)
	}
	if m.rate < 99<<20 || m.rate > 101<<20 {
		t.Errorf("rate %.0f", m.rate)
	}
	for range 100 { // little is asked: that does not make the peer slow
		m.tick(total, 100*time.Millisecond, 1)
	}
	if m.rate < 99<<20 {
		t.Errorf("rate %.0f after idling", m.rate)
	}
	m.rtt = 10 * time.Millisecond
	if m.n = 1000; m.depth() != 128 { // 2 × 100 MiB/s × 10 ms = 2 MiB
		t.Errorf("depth %d at 100 MiB/s and 10 ms", m.depth())
	}
	m.rtt = time.Second
	if m.depth() != 512 {
		t.Errorf("depth %d at 100 MiB/s and 1 s", m.depth())
	}
}

// TestBook goes through the life of addresses.
func TestBook(t *testing.T) {
	b := newBook()
	b.jitter = func() float64 { return 0.5 } // no jitter
	at := time.Unix(1000, 0)
	a := netip.MustParseAddrPort("192.0.2.1:1")
	for _, bad := range []string{"192.0.2.1:0", "0.0.0.0:1", "224.0.0.1:1"} {
		if b.add(netip.MustParseAddrPort(bad), at) {
			t.Errorf("%s was taken", bad)
		}
	}
	if !b.add(a, at) || b.add(a, at) {
		t.Error("an address is new once")
	}
	if got := b.due(at, 9); !slices.Equal(got, []netip.AddrPort{a}) || len(b.due(at, 9)) != 0 || b.count(dialing) != 1 {
		t.Errorf("due %v", got)
	}
	var waits []time.Duration
	for range 8 {
		b.failed(a, at)
		waits = append(waits, b.next().Sub(at))
		if at = b.next(); len(b.due(at.Add(-1), 1)) != 0 || len(b.due(at, 1)) != 1 {
			t.Fatal("not due when it should be")
		}
	}
	want := []time.Duration{500e6, 1e9, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}
	if d := cmp.Diff(want, waits); d != "" {
		t.Errorf("backoff %s", d)
	}
	b.joined(a)
	b.failed(a, at)
	if b.next() != at.Add(minBackoff) {
		t.Error("a connection does not reset the backoff")
	}
	for range maxFails {
		b.due(b.next(), 1)
		b.failed(a, at)
	}
	if len(b.entries) != 0 {
		t.Error("an address that always fails is kept")
	}
	b.add(a, at)
	b.ban(a)
	b.failed(a, at)
	b.joined(a)
	b.alias(a, [20]byte{1}, at)
	if b.add(a, at) || len(b.due(at.Add(time.Hour), 9)) != 0 {
		t.Error("a banned address is dialled")
	}
	other := netip.MustParseAddrPort("192.0.2.2:1")
	b.alias(other, [20]byte{2}, at)
	if e := b.entries[other]; !e.known || e.peer != [20]byte{2} || len(b.due(at, 9)) != 0 {
		t.Errorf("alias %+v", e)
	}
	for i := range maxAddrs + 10 {
		b.add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1), at)
	}
	if len(b.entries) > maxAddrs {
		t.Errorf("%d addresses", len(b.entries))
	}
}

// TestAvailability compares with a naive count.
func TestAvailability(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const peers = 3
		n := rapid.Uint32Range(1, 150).Draw(t, "pieces")
		a := newAvailability(n)
		var offered [peers]set
		for i := range offered {
			offered[i] = newSet(n)
		}
		trusted := make(map[uint32]bool)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "trust") {
				p, yes := rapid.Uint32Range(0, n-1).Draw(t, "piece"), rapid.Bool().Draw(t, "yes")
				a.trust(p, yes)
				trusted[p] = yes
				continue
			}
			i := rapid.IntRange(0, peers-1).Draw(t, "peer")
			s := newSet(n)
			if rapid.Bool().Draw(t, "all") {
				s.fill(n)
			}
			for _, p := range rapid.SliceOf(rapid.Uint32Range(0, n-1)).Draw(t, "set") {
				s.add(p)
			}
			a.update(offered[i], s)
			offered[i] = s
		}
		for p := range n {
			want := trusted[p] && (offered[0].has(p) || offered[1].has(p) || offered[2].has(p))
			if a.has(blob.Run{First: p, Count: 1}) != want {
				t.Fatalf("piece %d: %v, want %v", p, !want, want)
			}
		}
	})
	a := newAvailability(4)
	if n := testing.AllocsPerRun(100, func() { a.has(blob.Run{First: 0, Count: 4}) }); n != 0 {
		t.Errorf("Has allocates %v times", n)
	}
}

// TestOutbox serves short chains first, bounds the queue and detects a flood.
func TestOutbox(t *testing.T) {
	o := newOutbox()
	block := func(piece, i uint32) request { return request{piece, i * blockSize, blockSize} }
	for i := range uint32(8) {
		o.request(block(0, i))
	}
	o.request(block(5, 3))
	o.flushRequests()
	o.request(block(7, 1))
	o.request(block(7, 2))
	o.flushRequests()
	if !o.cancel(block(0, 2)) || o.cancel(block(0, 2)) || !o.cancel(block(7, 2)) {
		t.Error("cancel")
	}
	o.send(peerwire.AppendKeepAlive)
	var got []request
	for {
		control, j, err := o.next(blob.MaxBuffer)
		if err != nil {
			t.Fatal(err)
		}
		if (len(control) == 4) != (len(got) == 0) {
			t.Errorf("control %x at %d", control, len(got))
		}
		if j.kind == noJob {
			break
		}
		got = append(got, j.request)
	}
	want := []request{block(5, 3), block(7, 1), block(0, 0), block(0, 1), block(0, 3), block(0, 4), block(0, 5), block(0, 6), block(0, 7)}
	if !slices.Equal(got, want) {
		t.Errorf("served %v\nwant %v", got, want)
	}
	n := 0
	for o.request(block(0, uint32(n))) {
		n++
	}
	o.flushRequests()
	if n != maxRequests || len(o.dropRequests()) != n || len(o.dropRequests()) != 0 {
		t.Errorf("%d requests were queued", n)
	}
	for range 3 {
		o.send(func(b []byte) []byte { return append(b, make([]byte, maxControl)...) })
	}
	if _, _, err := o.next(blob.MaxBuffer); err != errFlood {
		t.Errorf("flood: %v", err)
	}
}

// TestFifo is a queue, and reuses its memory under steady load.
func TestFifo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f fifo
		var naive []request
		for i := range uint32(rapid.IntRange(0, 3000).Draw(t, "steps")) {
			r := request{piece: i}
			switch rapid.IntRange(0, 4).Draw(t, "do") {
			case 0:
				f.push(r, r)
				naive = append(naive, r, r)
			case 1:
				if gone := rapid.Uint32Range(0, i).Draw(t, "piece"); f.remove(request{piece: gone}) {
					k := slices.Index(naive, request{piece: gone})
					naive = slices.Delete(naive, k, k+1)
				} else if slices.Contains(naive, request{piece: gone}) {
					t.Fatalf("request %d was not found", gone)
				}
			default:
				if f.len() > 0 {
					if got := f.pop(); got != naive[0] {
						t.Fatalf("popped %v, want %v", got, naive[0])
					}
					naive = naive[1:]
				}
			}
			if f.len() != len(naive) {
				t.Fatalf("length %d, want %d", f.len(), len(naive))
			}
		}
	})
	var f fifo
	for range 100 {
		f.push(request{})
	}
	for range 100_000 {
		f.push(request{})
		f.pop()
	}
	if cap(f.q) > 8*maxRequests {
		t.Errorf("capacity %d after steady load", cap(f.q))
	}
}

// fakeStore has all hashes of a blob, and nothing else that proofs need.
type fakeStore struct {
	Store
	geo    blob.Geometry
	leaves []blob.Hash
}

func (s fakeStore) Geometry() blob.Geometry { return s.geo }

func (s fakeStore) Leaves(p uint32) ([]blob.Hash, bool) {
	r := s.geo.PieceBlocks(p)
	return s.leaves[r.First:r.End()], true
}

func (s fakeStore) Root(p uint32) (blob.Hash, blob.Trust) {
	l, _ := s.Leaves(p)
	return s.geo.PieceRoot(l), blob.Direct
}

// TestLookup answers every hash request that BEP 52 allows as a naive tree over all leaves does, and rejects
// what does not exist.
func TestLookup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := blob.Geometry{
			Size:        rapid.Int64Range(1, 100).Draw(t, "blocks") * blockSize,
			PieceLength: blob.BlockSize << rapid.IntRange(0, 5).Draw(t, "piece"),
		}
		st := fakeStore{geo: g}
		for i := range g.Blocks() {
			st.leaves = append(st.leaves, blob.Hash{1, byte(i)})
		}
		root := g.RootOfLeaves(st.leaves)
		c := Config{Name: root, Root: root, Store: st}
		_, files, err := layOut(&c)
		if err != nil {
			t.Fatal(err)
		}
		tor := &Torrent{named: map[blob.Hash]*file{root: files[0]}}
		// rows[k] is layer k of the whole tree, with pads.
		width := blob.Width(g.Blocks())
		rows := [][]blob.Hash{slices.Concat(st.leaves, make([]blob.Hash, int(width)-len(st.leaves)))}
		for w := width; w > 1; w /= 2 {
			below := rows[len(rows)-1]
			row := make([]blob.Hash, w/2)
			for i := range row {
				row[i] = blob.Fold(below[2*i:2*i+2], 0, 2)
			}
			rows = append(rows, row)
		}
		layer := blob.Layer(g.BlocksPerPiece())
		base := rapid.SampledFrom([]int{0, layer}).Draw(t, "base")
		if base >= len(rows)-1 {
			base = 0
		}
		length := 1 << rapid.IntRange(0, len(rows)-1-base).Draw(t, "length")
		index := rapid.IntRange(0, len(rows[base])/length-1).Draw(t, "index") * length
		r := peerwire.HashRange{Root: root, Base: uint32(base), Index: uint32(index), Length: uint32(length)}
		if top := len(rows) - 2 - base; top > 0 && rapid.Bool().Draw(t, "prove") {
			r.Proof = uint32(rapid.IntRange(1, top).Draw(t, "proof"))
		}
		got, uncles, ok := tor.lookup(r)
		if base == 0 && index >= int(g.Blocks()) || base > 0 && index >= int(g.Pieces()) {
			if ok {
				t.Fatalf("%+v is beyond the end and answered", r)
			}
			return
		}
		if base > 0 && g.Pieces() == 1 {
			return
		}
		if !ok {
			t.Fatalf("%+v rejected", r)
		}
		if d := cmp.Diff(rows[base][index:index+length], got); d != "" {
			t.Fatalf("%+v: %s", r, d)
		}
		var want []blob.Hash
		at := index / length
		for k := base + blob.Layer(uint32(length)); r.Proof > 0 && k <= base+int(r.Proof); k++ {
			want = append(want, rows[k][at^1])
			at /= 2
		}
		if !slices.Equal(want, uncles) || len(uncles) != r.Uncles() {
			t.Fatalf("%+v: %d uncles, want %d (%d by the wire)", r, len(uncles), len(want), r.Uncles())
		}
		r.Proof = uint32(len(rows))
		if _, _, ok := tor.lookup(r); ok {
			t.Fatal("a proof above the root was given")
		}
	})
}

// TestPartRevoke takes a block away from readers while it changes hands, under the race detector.
func TestPartRevoke(t *testing.T) {
	f := &flight{t: &Torrent{geo: spaceFor(1<<18, 1<<20)}}
	pt := newPart(f, blob.Run{Count: 2}, make([]byte, 2*blockSize))
	p := &peer{}
	if pt.begin(0, p) == nil || pt.begin(0, p) != nil || pt.begin(1, p) == nil {
		t.Fatal("a block is lent once")
	}
	if !pt.release(0, false) || pt.release(0, true) {
		t.Error("release")
	}
	if pt.finish(1) || pt.begin(1, p) != nil {
		t.Error("finish")
	}
	if got := pt.absentBlocks(nil); !slices.Equal(got, []uint32{0}) {
		t.Errorf("absent %v", got)
	}
	var wg sync.WaitGroup
	var lent int
	for range 2 {
		wg.Go(func() {
			if pt.close() {
				lent++ // once, so no race
			}
		})
	}
	wg.Wait()
	if lent != 1 || pt.begin(0, p) != nil || pt.waits() {
		t.Errorf("closed %d times", lent)
	}
}
