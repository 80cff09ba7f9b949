package fetch

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

// Relay is what a Source of peers may be besides: one that knows of a plan in which somebody passes pieces on to
// this node as they arrive, before anybody can be said to have them. *swarm.Torrent implements it.
type Relay interface {
	// Planned reports, without blocking, whether a peer is to pass a piece on, in which case Fetch may be asked for
	// it in bulk whether Has is true or not, and waits. Lanes, few and from 0, do not wait for each other.
	Planned(piece uint32) (lane int, ok bool)
}

// planned is Relay.Planned, false when peers know of no plan.
func (b *Blob) planned(piece uint32) (lane int, ok bool) {
	if b.relay == nil {
		return 0, false
	}
	return b.relay.Planned(piece)
}

// rootless is how long a tracker may be away before nobody counts on it for roots any more: longer than a report that is
// late, shorter than anybody would wait.
const rootless = 2 * time.Second

// abandoned reports whether nobody will say what the root of a piece is: the roots of a blob that is known by its
// origin alone come from the tracker, and that has not answered for a while. What peers have of the piece cannot be
// verified, so it is to be had from the origin only. Needs mu.
func (b *Blob) abandoned(piece uint32, now time.Time) bool {
	if b.origin == nil || b.alone.IsZero() || now.Sub(b.alone) < rootless {
		return false
	}
	_, trust := b.store.Root(piece)
	return trust == blob.Unknown
}

// takeBack ends the bulk transfers that wait for peers to pass on what is abandoned. Needs mu.
func (b *Blob) takeBack(now time.Time) {
	switch {
	case b.plan == nil || b.plan.Shared():
		b.alone = time.Time{}
		return
	case b.alone.IsZero():
		b.alone = now
	}
	for f := range b.flights {
		if f.lane > 0 && !f.overtaken && b.abandoned(b.geo.PieceOf(f.run.First), now) {
			f.overtaken = true
			f.cancel()
		}
	}
}

// lane is the lane of a transfer, from 1; 0: none.
func (b *Blob) lane(run blob.Run, class blob.Class, kind sourceKind) int {
	if class <= blob.Read || kind != fromPeers {
		return 0
	}
	lane, ok := b.planned(b.geo.PieceOf(run.First))
	if !ok {
		return 0
	}
	return lane + 1
}

// laneLimit is how many bulk transfers of one lane may be under way: each holds two buffers while it waits, and
// two lanes must fit into the memory for bulk.
func (b *Blob) laneLimit() int {
	return int(max(2, min(maxBulkPeers, b.engine.memory.size*3/4/(4*bufferSize))))
}

const (
	// keepWanted is how long a piece is fetched for peers after one of them last waited for it: a little longer than
	// such a request may be parked (20 s), as it is made again then.
	keepWanted = 25 * time.Second
	// maxWanted bounds the pieces that are wanted by peers.
	maxWanted = 4096
	// wakeWanted is how often the same piece is worth looking at again.
	wakeWanted = time.Second
)

// Wanted says that peers wait for blocks that this node was asked to pass on. They are fetched below everything
// else, also by a node that fills nothing at the moment. It never blocks for long.
func (b *Blob) Wanted(r blob.Run) {
	if r.Empty() || r.End() < r.First || r.End() > b.geo.Blocks() {
		return
	}
	now, fresh := time.Now(), false
	pieces := b.geo.PiecesOf(r)
	b.mu.Lock()
	for p := pieces.First; p < pieces.End(); p++ {
		last, known := b.wanted[p]
		if known && now.Sub(last) < wakeWanted || !known && len(b.wanted) >= maxWanted {
			continue
		}
		b.wanted[p], fresh = now, true
	}
	b.mu.Unlock()
	if fresh {
		b.Wake()
	}
}

// wantedBelow yields the pieces that peers wait for, in order. Needs mu.
func (b *Blob) wantedBelow(now time.Time) iter.Seq[blob.Run] {
	return func(yield func(blob.Run) bool) {
		for _, p := range slices.Sorted(maps.Keys(b.wanted)) {
			if now.Sub(b.wanted[p]) > keepWanted || b.store.PieceComplete(p) {
				delete(b.wanted, p)
				continue
			}
			if !yield(b.geo.PieceBlocks(p)) {
				return
			}
		}
	}
}
