package swarm

import (
	"errors"
	"fmt"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// A torrent of which only the root is known (a magnet link, a digest that somebody has vouched for) gets the piece
// layer of each file from a peer at once, 32 bytes per piece, proven up to the root. Without it each piece would
// need a proof of its own, which only peers that know all pieces can give: all nodes of a relay would ask the one
// seeder for each of them.

// layerJob is the search for some hashes of the piece layer of a file.
type layerJob struct {
	f     *file
	r     peerwire.HashRange
	tried map[*peer]bool
	p     *peer // who was asked; nil: nobody
	at    time.Time
}

const (
	// maxLayers bounds how many such requests are under way: 16 × 512 hashes are pieces for 8 GiB of 1 MiB.
	maxLayers = 16
	// layerPatience is how long a peer may take to answer.
	layerPatience = 2 * time.Second
	// layerWait is how long the plan waits for the layer before pieces are asked for with proofs of their own.
	layerWait = 3 * time.Second
)

// findLayers lists what is missing of the piece layers. It is called once, at the start.
func (l *loop) findLayers() {
	t := l.t
	for _, f := range t.files {
		if f.root.IsZero() || f.ratio > 1 || f.geo.Pieces() < 2 {
			continue
		}
		n := f.geo.Pieces()
		for first := uint32(0); first < n; first += peerwire.MaxHashes {
			missing := false
			for p := first; p < min(n, first+peerwire.MaxHashes) && !missing; p++ {
				missing = t.proving(f.first + p)
			}
			if !missing {
				continue
			}
			base := blob.Layer(f.geo.BlocksPerPiece())
			r := peerwire.HashRange{Root: f.name, Base: uint32(base), Index: first, Length: min(peerwire.MaxHashes, blob.Width(n))}
			if blob.Width(n) > r.Length {
				r.Proof = uint32(f.height() - 1 - base)
			}
			l.layers = append(l.layers, &layerJob{f: f, r: r, tried: make(map[*peer]bool)})
		}
	}
}

// seekLayers asks for what is missing of the piece layers.
func (l *loop) seekLayers(at time.Time) {
	if len(l.layers) == 0 || at.Before(l.relay.until) {
		return
	}
	if l.layersBy.IsZero() && len(l.peers) > 0 {
		l.layersBy = at.Add(layerWait)
	}
	for i, job := range l.layers {
		if i >= maxLayers {
			return
		}
		if job.p != nil && (job.p.closing || at.Sub(job.at) > layerPatience) {
			job.p = nil // an answer that comes late is taken all the same
		}
		if job.p != nil {
			continue
		}
		p := l.layerPeer(job, at)
		if p == nil {
			continue
		}
		job.p, job.at, job.tried[p] = p, at, true
		try := &leafTry{
			p: p, piece: job.f.first + job.r.Index, at: at, layer: job, ranges: []peerwire.HashRange{job.r},
			hashes: make([]blob.Hash, job.r.Length), left: 1,
		}
		l.send(try)
	}
}

// layerPeer is whom to ask: the parent, which may have to wait for its own, else whoever has the whole file.
func (l *loop) layerPeer(job *layerJob, at time.Time) (best *peer) {
	if r := &l.relay; r.picker != nil && r.picker.Planned(job.f.first) {
		if id, ok := r.picker.From(at, job.f.first); ok {
			if p := l.ids[id]; p != nil && p.v2 && !job.tried[p] {
				return p
			}
		} else if at.Before(l.layersBy) {
			return nil // it is being dialled
		}
	}
	for p := range l.peers {
		if p.closing || !p.v2 || job.tried[p] || !p.have.has(job.f.first) || !p.have.has(job.f.end-1) {
			continue
		}
		if best == nil || p.expect(0, blob.Fault) < best.expect(0, blob.Fault) {
			best = p
		}
	}
	return best
}

// awaitsLayer reports whether the root of a piece is about to be known.
func (l *loop) awaitsLayer(piece uint32, at time.Time) bool {
	if len(l.layers) == 0 || !l.layersBy.IsZero() && at.After(l.layersBy) {
		return false
	}
	for _, job := range l.layers {
		if p := piece - job.f.first; piece >= job.f.first && p >= job.r.Index && p < job.r.Index+job.r.Length {
			return true
		}
	}
	return false
}

// layerKey is under which number hash requests for a piece layer are parked: no piece has it.
func (t *Torrent) layerKey(f *file) uint32 { return ^f.first }

// acceptLayer checks the hashes of a piece layer, and pins the roots of their pieces.
func (f *file) acceptLayer(try *leafTry) error {
	r := try.ranges[0]
	root, err := blob.ProofRoot(try.hashes, r.Index, try.uncles)
	if err != nil {
		return err
	}
	if root != f.root {
		return fmt.Errorf("%w: piece layer from %d on leads to root %s instead of %s", blob.ErrCorrupt, r.Index, root, f.root)
	}
	for i, h := range try.hashes[:min(r.Length, f.geo.Pieces()-r.Index)] {
		if err := f.store.SetRoot(r.Index+uint32(i), h, blob.Pinned); err != nil {
			return fmt.Errorf("root of piece %d is proven and contradicts this machine: %w", r.Index+uint32(i), errors.Join(blob.ErrChanged, err))
		}
	}
	return nil
}

// layerCame is the answer to a request for a piece layer.
type layerCame struct {
	try *leafTry
	err error
}

func (e layerCame) apply(l *loop) {
	l.dirty = true
	job := e.try.layer
	if job.p == e.try.p {
		job.p = nil
	}
	switch {
	case e.err == nil || errors.Is(e.err, blob.ErrChanged):
		if e.err != nil {
			l.t.log.Error("piece layer", "err", e.err)
		}
		for i, o := range l.layers {
			if o == job {
				l.layers = append(l.layers[:i], l.layers[i+1:]...)
				break
			}
		}
		if len(l.layers) == 0 {
			l.trust()
		}
	case errors.Is(e.err, blob.ErrCorrupt):
		l.ban(e.try.p, "its piece layer does not lead to the root")
	}
	l.seekLayers(now())
}
