package swarm_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// member is one node of a planned swarm.
type member struct {
	node  *swarm.Node
	tor   *swarm.Torrent
	store *swarmtest.MemStore

	mu         sync.Mutex
	complaints []relay.Complaint
}

func (m *member) complained(why relay.Reason, of *member) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.complaints {
		if c.Reason == why && c.Parent == of.node.PeerID() {
			return true
		}
	}
	return false
}

// join adds a node with this store; whole gives it roots.
func join(t testing.TB, s, whole *swarmtest.MemStore, o swarm.Options, edit ...func(*swarm.Config)) *member {
	t.Helper()
	if s != whole {
		s.TakeRoots(whole, blob.Claimed)
	}
	m := &member{node: newNode(t, o), store: s}
	c := swarm.Config{Keys: [][20]byte{key}, Name: name, Store: s, OnComplaints: func(cs []relay.Complaint) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.complaints = append(m.complaints, cs...)
	}}
	for _, e := range edit {
		e(&c)
	}
	tor, err := m.node.Add(c)
	if err != nil {
		t.Fatal(err)
	}
	m.tor = tor
	return m
}

// below tells a node whom to take each stripe from, best first.
func (m *member) below(gen int64, stripes ...[]*member) {
	a := relay.Assignment{Gen: gen, Stripes: len(stripes)}
	for _, s := range stripes {
		var ps []relay.Parent
		for _, p := range s {
			ps = append(ps, relay.Parent{ID: p.node.PeerID()})
			m.tor.AddPeers(p.node.Addr())
		}
		a.Parents = append(a.Parents, ps)
	}
	m.tor.SetAssignment(a)
}

// complete fetches everything as a node in the background does: in order, some pieces of each lane at a time,
// whether somebody has them yet or not.
func (m *member) complete(ctx context.Context) error {
	g := m.store.Geometry()
	ctx, cancel := context.WithCancelCause(blob.WithClass(ctx, blob.Background))
	defer cancel(nil)
	for !m.store.Complete() {
		var wg sync.WaitGroup
		var lanes [relay.MaxStripes]chan struct{}
		for i := range lanes {
			lanes[i] = make(chan struct{}, 8)
		}
		for p := range g.Pieces() {
			if m.store.PieceComplete(p) {
				continue
			}
			lane, ok := m.tor.Planned(p)
			if !ok && !m.tor.Has(g.PieceBlocks(p)) {
				continue
			}
			lanes[lane] <- struct{}{}
			wg.Go(func() {
				defer func() { <-lanes[lane] }()
				if ctx.Err() == nil {
					_ = fetch(ctx, m.tor, m.store, g.PieceBlocks(p)) // once more, else
				}
			})
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return fmt.Errorf("pieces %x: %w", m.store.Pieces(), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func completeAll(t *testing.T, data []byte, ms ...*member) {
	t.Helper()
	var wg sync.WaitGroup
	for i, m := range ms {
		wg.Go(func() {
			if err := m.complete(deadline(t)); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i, m := range ms {
		if !bytes.Equal(m.store.Bytes(), data) {
			t.Errorf("node %d: bytes differ", i)
		}
	}
}

// TestRelayChain: one node takes everything from the seeder, the second from the first, and so on. The seeder sends
// everything once, and the last node has blocks long before the first one has all.
func TestRelayChain(t *testing.T) {
	g := blob.GeometryFor(32 << 20)
	data := swarmtest.Random(g.Size, 30)
	whole := seed(t, g, data)
	top := join(t, whole, whole, swarm.Options{UploadLimit: 32 << 20})
	chain := []*member{top}
	early := make(chan bool, 1)
	for i := range 4 {
		s := empty(t, g)
		m := join(t, s, whole, swarm.Options{})
		if i == 3 {
			first := chain[1].store
			s.OnBlocks(func(blob.Run) {
				select {
				case early <- !first.Complete():
				default:
				}
			})
		}
		m.below(1, []*member{chain[len(chain)-1]})
		chain = append(chain, m)
	}
	completeAll(t, data, chain[1:]...)
	if !<-early {
		t.Error("the last node got its first block only when the first node was complete")
	}
	for i, m := range chain[:4] {
		if up := m.tor.Stats().Uploaded; up > g.Size+g.Size/50 {
			t.Errorf("node %d uploaded %.3f of the blob", i, float64(up)/float64(g.Size))
		}
	}
	if up := chain[4].tor.Stats().Uploaded; up != 0 {
		t.Errorf("the last node uploaded %d bytes", up)
	}
}

// TestRelayCutThrough: a block reaches the end of a chain though its piece is complete nowhere but at the seeder,
// and asks for it were made before anybody had it.
func TestRelayCutThrough(t *testing.T) {
	g := blob.Geometry{Size: 4 << 20, PieceLength: 1 << 20}
	data := swarmtest.Random(g.Size, 31)
	whole := seed(t, g, data)
	half := empty(t, g)
	top := join(t, half, whole, swarm.Options{})
	leaves, _ := whole.Leaves(1)
	if err := half.SetLeaves(1, leaves); err != nil {
		t.Fatal(err)
	}
	mid, low := join(t, empty(t, g), whole, swarm.Options{}), join(t, empty(t, g), whole, swarm.Options{})
	mid.below(1, []*member{top})
	low.below(1, []*member{mid})
	done := make(chan error, 2)
	for _, m := range []*member{mid, low} {
		go func() { done <- fetch(blob.WithClass(deadline(t), blob.Background), m.tor, m.store, g.PieceBlocks(1)) }()
	}
	until(t, "both to be asked", func() bool { return top.tor.Parked() > 0 && mid.tor.Parked() > 0 })
	run := g.PieceBlocks(1)
	for at := run.First; at < run.End(); at++ {
		if at == run.First+blob.MaxBuffer+2 {
			one := blob.Run{First: run.First, Count: 1}
			until(t, "the first blocks at the end of the chain", func() bool { return low.store.Has(one) })
			if mid.store.PieceComplete(1) || half.PieceComplete(1) {
				t.Fatal("the piece is complete already")
			}
		}
		off := int64(at) * blob.BlockSize
		if err := half.Put(blob.Run{First: at, Count: 1}, data[off:off+blob.BlockSize], blob.Claimed); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	until(t, "no run to be parked", func() bool { return top.tor.Parked()+mid.tor.Parked() == 0 })
}

// TestRelayStripes: six nodes in two trees, each passing on one stripe to at most two others.
func TestRelayStripes(t *testing.T) {
	g := blob.GeometryFor(24<<20 + 777)
	data := swarmtest.Random(g.Size, 32)
	whole := seed(t, g, data)
	top := join(t, whole, whole, swarm.Options{UploadLimit: 48 << 20})
	ms := make([]*member, 6)
	for i := range ms {
		ms[i] = join(t, empty(t, g), whole, swarm.Options{})
	}
	// Stripe 0: 0 → 2, 4; 2 → 1, 3; 4 → 5. Stripe 1: 1 → 3, 5; 3 → 0, 2; 5 → 4.
	p := func(s *member, backup ...*member) []*member { return append([]*member{s}, backup...) }
	ms[0].below(1, p(top), p(ms[3], ms[1]))
	ms[1].below(1, p(ms[2], ms[0]), p(top))
	ms[2].below(1, p(ms[0]), p(ms[3], ms[1]))
	ms[3].below(1, p(ms[2], ms[0]), p(ms[1]))
	ms[4].below(1, p(ms[0]), p(ms[5], ms[1]))
	ms[5].below(1, p(ms[4], ms[0]), p(ms[1]))
	completeAll(t, data, ms...)
	if up := top.tor.Stats().Uploaded; up > g.Size+g.Size/50 {
		t.Errorf("the seeder uploaded %.3f of the blob", float64(up)/float64(g.Size))
	}
	// Who passes on nothing would show here; how much each does depends on who was slow and got replaced.
	total := int64(0)
	for _, m := range ms {
		total += m.tor.Stats().Uploaded
	}
	if total < 4*g.Size {
		t.Errorf("the nodes uploaded %.3f of the blob to each other, want 5", float64(total)/float64(g.Size))
	}
}

// TestRelayHelped: a parent that has everything sends it slowly. Another node, which has it too and nothing to do,
// sends the last of what the parent owes.
func TestRelayHelped(t *testing.T) {
	g := blob.GeometryFor(16 << 20)
	data := swarmtest.Random(g.Size, 38)
	whole := seed(t, g, data)
	source := join(t, whole, whole, swarm.Options{})
	parent := join(t, empty(t, g), whole, swarm.Options{UploadLimit: 4 << 20})
	helper := join(t, empty(t, g), whole, swarm.Options{})
	child := join(t, empty(t, g), whole, swarm.Options{})
	child.below(1, []*member{parent})
	child.tor.AddPeers(helper.node.Addr())
	until(t, "the child is connected to both", func() bool { return len(child.tor.Peers()) == 2 })
	parent.below(1, []*member{source})
	helper.below(1, []*member{source})
	completeAll(t, data, parent, helper, child)
	var helped int64
	for _, p := range child.tor.Peers() {
		if p.ID == helper.node.PeerID() {
			helped = p.Downloaded
		}
	}
	if helped < 1<<20 {
		t.Errorf("%d bytes came from the helper", helped)
	}
	t.Logf("%d of %d bytes came from the helper", helped, g.Size)
}

// TestRelayParentDies: a parent disappears half-way; its child goes on from the backup.
func TestRelayParentDies(t *testing.T) {
	g := blob.GeometryFor(24 << 20)
	data := swarmtest.Random(g.Size, 33)
	whole := seed(t, g, data)
	top := join(t, whole, whole, swarm.Options{UploadLimit: 16 << 20})
	a, b := join(t, empty(t, g), whole, swarm.Options{}), join(t, empty(t, g), whole, swarm.Options{})
	c := join(t, empty(t, g), whole, swarm.Options{})
	a.below(1, []*member{top})
	b.below(1, []*member{a, top})
	c.below(1, []*member{b, a})
	ctx, stop := context.WithCancel(deadline(t))
	go func() { _ = a.complete(ctx) }()
	defer stop()
	done := make(chan error, 2)
	for _, m := range []*member{b, c} {
		go func() { done <- m.complete(deadline(t)) }()
	}
	until(t, "some of it", func() bool { return c.tor.Stats().Downloaded > 4<<20 })
	stop()
	a.node.Close()
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(b.store.Bytes(), data) || !bytes.Equal(c.store.Bytes(), data) {
		t.Error("bytes differ")
	}
	if !b.complained(relay.Lost, a) {
		t.Errorf("complaints %+v", b.complaints)
	}
}

// TestRelayLiar: what a parent sends wrong travels no further, and the tracker hears of it.
func TestRelayLiar(t *testing.T) {
	g := blob.GeometryFor(4 << 20)
	data := swarmtest.Random(g.Size, 34)
	whole := seed(t, g, data)
	wrong := bytes.Clone(data)
	for p := int64(0); p < g.Size; p += g.PieceLength {
		wrong[p+100] ^= 1
	}
	// The liar believes in its own bytes, and has the roots and leaves of the right ones.
	lies := swarmtest.NewSeed(g, wrong)
	t.Cleanup(func() { lies.Close() })
	liar := join(t, whole, whole, swarm.Options{}, func(c *swarm.Config) {
		c.Store = lyingStore{lies, whole}
	})
	top := join(t, whole, whole, swarm.Options{})
	mid, low := join(t, empty(t, g), whole, swarm.Options{}), join(t, empty(t, g), whole, swarm.Options{})
	mid.below(1, []*member{liar, top})
	low.below(1, []*member{mid, top})
	completeAll(t, data, mid, low)
	until(t, "a complaint", func() bool { return mid.complained(relay.Liar, liar) })
	if _, refused := low.store.Counts(); refused != 0 {
		t.Errorf("%d wrong blocks travelled on", refused)
	}
}

// lyingStore has the bytes of one store and the hashes of another.
type lyingStore struct {
	*swarmtest.MemStore
	hashes *swarmtest.MemStore
}

func (s lyingStore) Root(p uint32) (blob.Hash, blob.Trust) { return s.hashes.Root(p) }
func (s lyingStore) Leaves(p uint32) ([]blob.Hash, bool)   { return s.hashes.Leaves(p) }

// TestRelayReassigned: a new assignment moves what waits at the old parent.
func TestRelayReassigned(t *testing.T) {
	g := blob.GeometryFor(2 << 20)
	data := swarmtest.Random(g.Size, 35)
	whole := seed(t, g, data)
	top, hollow := join(t, whole, whole, swarm.Options{}), join(t, empty(t, g), whole, swarm.Options{})
	m := join(t, empty(t, g), whole, swarm.Options{})
	m.below(1, []*member{hollow})
	done := make(chan error, 1)
	go func() { done <- m.complete(deadline(t)) }()
	until(t, "runs to be parked", func() bool { return hollow.tor.Parked() > 0 })
	m.below(2, []*member{top})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	until(t, "the old parent to be rid of them", func() bool { return hollow.tor.Parked() == 0 })
	m.tor.SetAssignment(relay.Assignment{Gen: 3})
	until(t, "no plan", func() bool { _, ok := m.tor.Planned(0); return !ok })
}

// TestRelayWanted: a node that does not fetch by itself hears what its children wait for.
func TestRelayWanted(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 36)
	whole := seed(t, g, data)
	wanted := make(chan blob.Run, 1000)
	lazy := join(t, empty(t, g), whole, swarm.Options{}, func(c *swarm.Config) {
		c.OnWanted = func(r blob.Run) { wanted <- r }
	})
	top := join(t, whole, whole, swarm.Options{})
	lazy.below(1, []*member{top})
	m := join(t, empty(t, g), whole, swarm.Options{})
	m.below(1, []*member{lazy})
	done := make(chan error, 1)
	go func() { done <- m.complete(deadline(t)) }()
	for {
		select {
		case r := <-wanted:
			for at := r.First; at < r.End(); at++ {
				one := blob.Run{First: at, Count: 1}
				if lazy.store.Has(one) {
					continue
				}
				if err := fetch(blob.WithClass(deadline(t), blob.Background), lazy.tor, lazy.store, one); err != nil {
					t.Fatal(err)
				}
			}
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			if lazy.tor.Stats().Uploaded < g.Size {
				t.Error("somebody else delivered")
			}
			return
		}
	}
}

// TestRelayRoot: only the root of the blob is known, as from a magnet link. The piece layer travels down the chain
// as the blocks do, so that each parent can prove what it passes on, and the seeder sends everything once.
func TestRelayRoot(t *testing.T) {
	g := blob.GeometryFor(6<<20 + 4)
	data := swarmtest.Random(g.Size, 37)
	whole := seed(t, g, data)
	rooted := func(c *swarm.Config) { c.Root = whole.TreeRoot(); c.Name = c.Root }
	none := empty(t, g)
	top := join(t, whole, none, swarm.Options{}, rooted)
	chain := []*member{top}
	for range 3 {
		m := join(t, empty(t, g), none, swarm.Options{}, rooted)
		m.below(1, []*member{chain[len(chain)-1], top})
		chain = append(chain, m)
	}
	completeAll(t, data, chain[1:]...)
	if up := top.tor.Stats().Uploaded; up > g.Size+g.Size/50 {
		t.Errorf("the seeder uploaded %.3f of the blob", float64(up)/float64(g.Size))
	}
	for i, m := range chain {
		for p := range g.Pieces() {
			if _, trust := m.store.Root(p); trust < blob.Direct {
				t.Errorf("node %d: root of piece %d is %v", i, p, trust)
			}
		}
	}
}
