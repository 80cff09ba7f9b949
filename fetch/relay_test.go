package fetch

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// planned is a source of peers that knows of a plan: pieces of lane 0 and 1 in turn.
type planned struct {
	*script
	lanes int // 0: no plan

	mu   sync.Mutex
	busy [2]int // transfers under way, by lane
	most [2]int
}

func (p *planned) Planned(piece uint32) (int, bool) {
	return int(piece) % 2, p.lanes > 0 && int(piece)%2 < p.lanes
}

func (p *planned) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	lane, ok := p.Planned(p.geo.PieceOf(r.First))
	if ok {
		p.mu.Lock()
		p.busy[lane]++
		p.most[lane] = max(p.most[lane], p.busy[lane])
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.busy[lane]--
		}()
	}
	return p.script.Fetch(ctx, r, into)
}

// TestPlannedComesFromPeers: what somebody is to pass on is asked of peers, though nobody has it yet, and never of the
// origin; the rest, for which this node is the head, is read there.
func TestPlannedComesFromPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(4 << 20)
		store := open(t, data, blockio.Options{})
		claim(t, store, data)
		peers := &planned{script: source(data), lanes: 1}
		peers.has = func(blob.Run) bool { return false }
		origin := source(data)
		b := start(t, Options{}, Config{Store: store, Peers: peers, Origin: origin, Fill: FillEager})
		<-b.Completed()
		for p := range peers.geo.Pieces() {
			first := peers.geo.PieceBlocks(p).First
			from, other := peers.script, origin
			if p%2 == 1 {
				from, other = origin, peers.script
			}
			if from.asked[first] != 1 || other.asked[first] != 0 {
				t.Errorf("piece %d: %d from peers, %d from the origin", p, peers.asked[first], origin.asked[first])
			}
		}
	})
}

// TestLanesDoNotWaitForEachOther: while everything of one lane stands still, the other one is completed, and no lane
// has more transfers than its share of memory allows.
func TestLanesDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(24 << 20)
		store := open(t, data, blockio.Options{})
		claim(t, store, data)
		peers := &planned{script: source(data), lanes: 2}
		peers.has = func(blob.Run) bool { return false }
		stall := make(chan struct{})
		slow := &stalling{planned: peers, until: stall}
		b := start(t, Options{}, Config{Store: store, Peers: slow, Fill: FillEager})
		time.Sleep(10 * time.Second)
		for p := range peers.geo.Pieces() {
			if got := store.PieceComplete(p); got != (p%2 == 0) {
				t.Fatalf("piece %d complete: %v", p, got)
			}
		}
		close(stall)
		<-b.Completed()
		for lane, n := range peers.most {
			if n > maxBulkPeers {
				t.Errorf("lane %d had %d transfers", lane, n)
			}
		}
	})
}

// stalling holds lane 1 up.
type stalling struct {
	*planned
	until chan struct{}
}

func (s *stalling) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	if lane, _ := s.Planned(s.geo.PieceOf(r.First)); lane == 1 {
		select {
		case <-s.until:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.planned.Fetch(ctx, r, into)
}

// TestWanted: a blob that nobody fills is fetched where peers wait for it, and nowhere else; what is outside is
// passed over.
func TestWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(4 << 20)
		store := open(t, data, blockio.Options{})
		origin := source(data)
		b := start(t, Options{}, Config{Store: store, Origin: origin, Fill: FillNever})
		b.Wanted(blob.Run{First: 1 << 20, Count: 5})
		b.Wanted(blob.Run{First: 1<<32 - 1, Count: 5})
		b.Wanted(blob.Run{})
		b.Wanted(blob.Run{First: 33, Count: 2})
		time.Sleep(time.Second)
		for p := range origin.geo.Pieces() {
			if got := store.PieceComplete(p); got != (p == 2) {
				t.Errorf("piece %d complete: %v", p, got)
			}
		}
	})
}

// TestRandomReaderIsNotHeldUpByBulk: a block that a bulk transfer of peers is to bring some time is asked for at once
// when somebody is blocked on it.
func TestRandomReaderIsNotHeldUpByBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(4 << 20)
		store := open(t, data, blockio.Options{})
		claim(t, store, data)
		peers := &planned{script: source(data), lanes: 2}
		stuck := &bulkStuck{peers}
		b := start(t, Options{}, Config{Store: store, Peers: stuck, Fill: FillEager})
		time.Sleep(time.Second) // all of it is under way
		began := time.Now()
		got, err := read(t, b, 3<<20+4096, 100)
		if err != nil || !bytes.Equal(got, data[3<<20+4096:][:100]) {
			t.Fatal(err)
		}
		if took := time.Since(began); took > tick {
			t.Errorf("it took %s of virtual time", took)
		}
	})
}

// bulkStuck delivers only what somebody is blocked on.
type bulkStuck struct{ *planned }

func (s *bulkStuck) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	if blob.ClassOf(ctx) > blob.Read {
		return blocked(ctx)
	}
	return s.planned.Fetch(ctx, r, into)
}
