package fetch

import (
	"time"

	"github.com/pantala/pantala/blob"
)

// sourceKind says where bytes come from.
type sourceKind uint8

const (
	nowhere sourceKind = iota // wait: another node holds the origin lease, or all sources rest after errors
	fromPeers
	fromOrigin
)

const (
	// askLease is how long a blocked sequential reader waits for the tracker to answer before it reads from
	// the origin without a lease, and heldFor how long for the node that holds one: a little more than the
	// tracker takes to give a stalled lease to somebody else.
	askLease = 100 * time.Millisecond
	heldFor  = 2500 * time.Millisecond

	// unplanned is how long blocked readers then read from the origin without asking for leases: the tracker
	// believes that somebody has what they want, who cannot, or may not, give it to this node.
	unplanned = 2 * time.Second

	// restFirst and restMax bound how long a source rests after it failed; the time doubles with every
	// failure in a row.
	restFirst = 50 * time.Millisecond
	restMax   = 2 * time.Second

	// maxBulkOrigin and maxBulkPeers bound the bulk transfers of one blob at once; maxDemand those that
	// blocked readers caused.
	maxBulkOrigin = 4
	maxBulkPeers  = 16
	maxDemand     = 64

	// minChunk and maxChunk bound one bulk transfer from the origin, in bytes; in between it is what arrives
	// in chunkTime, so that on a slow link a new demand does not wait long behind it.
	minChunk  = 256 << 10
	maxChunk  = 4 << 20
	chunkTime = 200 * time.Millisecond
)

// side is what is known of one kind of source. Guarded by Blob.mu.
type side struct {
	restUntil time.Time
	failures  int     // in a row
	rate      float64 // bytes per second of one transfer, moving average; 0: not known
	bulk      int     // transfers under way
	demand    int
}

// failedAt makes the source rest.
func (s *side) failedAt(now time.Time) {
	s.restUntil = now.Add(min(restFirst<<min(s.failures, 10), restMax))
	s.failures++
}

// measured feeds the moving average with one finished transfer.
func (s *side) measured(bytes int64, took time.Duration) {
	s.failures = 0
	r := float64(bytes) / max(took.Seconds(), 1e-6)
	if s.rate == 0 {
		s.rate = r
	}
	s.rate += (r - s.rate) / 4
}

// chunk is how many blocks one bulk transfer should have.
func (s *side) chunk() uint32 {
	if s.rate == 0 {
		return minChunk * 4 / blob.BlockSize
	}
	n := int64(s.rate * chunkTime.Seconds())
	return uint32(min(max(n, minChunk), maxChunk) / blob.BlockSize)
}

// peersHave reports whether peers could be asked for all of r, piece by piece.
func (b *Blob) peersHave(r blob.Run) bool {
	if b.peers == nil {
		return false
	}
	for p, pieces := b.geo.PiecesOf(r).First, b.geo.PiecesOf(r); p < pieces.End(); p++ {
		if !b.peers.Has(b.geo.PieceBlocks(p).Intersect(r)) {
			return false
		}
	}
	return true
}

// route says where the blocks of n that lie in one piece come from. Needs mu.
func (b *Blob) route(piece uint32, n need, w *wish, now time.Time) sourceKind {
	part := b.geo.PieceBlocks(piece).Intersect(n.run)
	rested := b.peers != nil && now.After(b.sides[fromPeers].restUntil)
	if n.class > blob.Read {
		if _, ok := b.planned(piece); ok && !b.abandoned(piece, now) {
			// Somebody is to pass it on, though nobody may have it yet: the origin is not asked for it.
			if rested && n.avoid != fromPeers {
				return fromPeers
			}
			return nowhere
		}
	}
	peers := rested && b.peers.Has(part)
	if peers && n.avoid != fromPeers {
		return fromPeers
	}
	if b.origin == nil || !now.After(b.sides[fromOrigin].restUntil) || !b.origin.Has(part) || n.avoid == fromOrigin {
		return nowhere
	}
	if b.plan == nil {
		return fromOrigin
	}
	// A random reader will not complete the piece: a lease would only keep others waiting for it.
	if n.follows && w.pieces*b.geo.BlocksPerPiece() < wishBytes/blob.BlockSize {
		w.add(piece, n.class)
	}
	switch {
	case !b.plan.Shared() || b.plan.Mine(piece):
		return fromOrigin
	case n.class > blob.Read:
		return nowhere
	case n.late, n.class == blob.Fault && !n.follows: // its one block costs less than waiting for anybody
		return fromOrigin
	case b.plan.Held(piece):
		n.by.held = now
		if now.Sub(n.since) > heldFor {
			return fromOrigin
		}
	case !n.follows || now.Before(b.unplanned):
		return fromOrigin
	case now.Sub(n.since) > askLease && now.Sub(n.by.held) > askLease: // its holder may just have completed it
		b.unplanned = now.Add(unplanned)
		return fromOrigin
	}
	return nowhere
}

// start starts transfers for n, as far as there is somebody to ask and room for them. Needs mu.
func (b *Blob) start(n need, now time.Time, w *wish) {
	if b.origin != nil && !b.origin.Ranges() {
		b.startStream(n, now)
		return
	}
	for at := n.run.First; at < n.run.End(); {
		piece := b.geo.PieceOf(at)
		rest := need{run: blob.Run{First: at, Count: n.run.End() - at}, class: n.class, since: n.since, follows: n.follows, by: n.by, late: n.late, avoid: n.avoid}
		kind := b.route(piece, rest, w, now)
		end := min(n.run.End(), b.geo.PieceBlocks(piece).End())
		switch kind {
		case fromPeers:
			end = b.extend(at, end, b.geo.PieceBlocks(piece).End(), n, now, func(uint32) bool { return true })
		case fromOrigin:
			limit := at + b.sides[fromOrigin].chunk()
			if n.class <= blob.Read {
				limit = max(limit, n.run.End())
			}
			same := func(next uint32) bool {
				more := need{run: b.geo.PieceBlocks(next), class: max(n.class, blob.Readahead), follows: true}
				if now.Before(b.unplanned) {
					more.class, more.by = n.class, n.by
				}
				return b.route(next, more, w, now) == fromOrigin
			}
			if n.class > blob.Read || n.late {
				// The rest of the need, as far as it is the origin's to give.
				for end < min(n.run.End(), limit) && same(b.geo.PieceOf(end)) {
					end = min(n.run.End(), b.geo.PieceBlocks(b.geo.PieceOf(end)).End())
				}
				end = min(end, limit)
			} else {
				for end < n.run.End() && b.route(b.geo.PieceOf(end), rest, w, now) == fromOrigin {
					end = min(n.run.End(), b.geo.PieceBlocks(b.geo.PieceOf(end)).End())
				}
				end = b.extend(at, end, limit, n, now, same)
			}
		default:
			at = end
			continue
		}
		b.launch(blob.Run{First: at, Count: end - at}, n, kind, now)
		at = end
	}
}

// extend stretches what a blocked sequential reader needs, [at,end), over what it will need next, up to limit,
// so that one transfer brings both. Needs mu.
func (b *Blob) extend(at, end, limit uint32, n need, now time.Time, same func(piece uint32) bool) uint32 {
	if n.class > blob.Read || !n.follows || n.late || end < n.run.End() {
		return end
	}
	if now.UnixNano()-b.unkept.Load() < int64(pauseUnkept) { // it would push out what others wait for
		limit = min(limit, end+uint32(b.transient.limit/4))
	}
	window := b.ahead.follows(int64(at) * blob.BlockSize)
	limit = min(limit, b.geo.Blocks(), uint32((window+blob.BlockSize-1)/blob.BlockSize))
	for end < limit {
		next, ok := b.store.NextAbsent(end, limit)
		if !ok || next.First != end {
			break
		}
		f, free := b.flightAt(end, min(next.End(), b.geo.PieceBlocks(b.geo.PieceOf(end)).End()))
		if f != nil || !same(b.geo.PieceOf(end)) {
			break
		}
		end = free
	}
	return end
}
