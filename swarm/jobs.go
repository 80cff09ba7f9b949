package swarm

import (
	"errors"
	"time"

	"github.com/pantala/pantala/blob"
)

// leafJob is the search for the leaf hashes of one piece. The loop owns it.
type leafJob struct {
	piece    uint32
	tries    []*leafTry // outstanding, oldest first
	tried    map[*peer]bool
	suspects []suspect
	disputed bool
	waits    bool      // asked together with a run that may wait
	idle     time.Time // when its last try ended, of one that waits
}

// leavesFor makes sure that the leaves of a part's piece are known or asked for. It returns a try that is to
// be sent to p together with the block requests, or nil.
func (l *loop) leavesFor(pt *part, p *peer, wait bool) *leafTry {
	t, piece := l.t, pt.piece
	if t.board.has(piece) || l.knownLeaves(piece) {
		return nil
	}
	job := l.jobs[piece]
	if job == nil {
		job = &leafJob{piece: piece, tried: make(map[*peer]bool), waits: wait}
		l.jobs[piece] = job
	}
	if !wait {
		job.waits = false
	}
	if len(job.tries) > 0 && !(wait && job.waits) {
		return nil // but a try that waits at one parent does not stand for another one
	}
	if p.v2 && p.deaf < maxDeaf && !job.tried[p] {
		return l.try(job, p)
	}
	if len(job.tries) == 0 {
		l.continueJob(job)
	}
	return nil
}

// maxDeaf is how often a peer may leave hashes to others before it is asked for them last.
const maxDeaf = 2

// knownLeaves publishes the leaves of a piece when the store has them, or can have them without asking.
func (l *loop) knownLeaves(piece uint32) bool {
	t := l.t
	_, ok := t.cfg.Store.Leaves(piece)
	if root, trust := t.cfg.Store.Root(piece); !ok && t.geo.bpp == 1 && trust > blob.Unknown {
		ok = t.cfg.Store.SetLeaves(piece, []blob.Hash{root}) == nil // a piece of one block is its leaf
	}
	if !ok {
		return false
	}
	l.publish(piece)
	t.lot.leavesKnown(piece)
	return true
}

// publish lets the parts that wait for the leaves of a piece be verified.
func (l *loop) publish(piece uint32) {
	parts := l.t.board.publish(piece)
	if len(parts) == 0 {
		return
	}
	// Hashing is not the loop's work, and its place in the verifier's queue may take a while.
	l.t.wg.Go(func() {
		for _, pt := range parts {
			pt.verify()
		}
	})
}

func (l *loop) try(job *leafJob, p *peer) *leafTry {
	try := l.t.newTry(p, job.piece, l.t.proving(job.piece))
	job.tries = append(job.tries, try)
	job.tried[p] = true
	return try
}

func (e leavesCame) apply(l *loop) {
	l.dirty = true
	if errors.Is(e.err, errRejected) {
		if e.try.p.rejects++; e.try.p.rejects >= maxDeaf {
			l.stingy = true
		}
	}
	job := l.jobs[e.try.piece]
	if e.err == nil {
		delete(l.jobs, e.try.piece)
		e.try.p.rejects = 0
		if job != nil {
			for _, try := range job.tries {
				if try != e.try && now().Sub(try.at) >= 2*hedgeAfter {
					try.p.deaf++
				}
			}
			for _, s := range job.suspects {
				l.ban(s.p, "its hashes do not lead to a root that others prove")
			}
		}
		return
	}
	if job == nil {
		if errors.Is(e.err, blob.ErrCorrupt) {
			// The leaves have come from somebody else meanwhile, so the root is right.
			l.ban(e.try.p, "hashes do not lead to the root")
		}
		return
	}
	for i, try := range job.tries {
		if try == e.try {
			job.tries = append(job.tries[:i], job.tries[i+1:]...)
			break
		}
	}
	switch {
	case errors.Is(e.err, blob.ErrChanged):
		l.t.log.Error("hash proof", "err", e.err)
		l.failJob(job, e.err)
		return
	case errors.Is(e.err, blob.ErrCorrupt):
		l.judge(job, e.try, e.folded)
	}
	l.continueJob(job)
}

// continueJob asks somebody else for the leaves, or gives the piece up.
func (l *loop) continueJob(job *leafJob) {
	if l.jobs[job.piece] != job || len(job.tries) > 0 {
		return
	}
	if l.t.board.has(job.piece) {
		delete(l.jobs, job.piece)
		return
	}
	if job.waits && !job.disputed {
		// Whoever is to pass the blocks on gets the hashes as well: see hedgeJobs.
		job.idle = now()
		return
	}
	if p := l.bestForLeaves(job); p != nil && !job.disputed {
		l.send(l.try(job, p))
		return
	}
	l.failJob(job, nil)
}

func (l *loop) send(try *leafTry) {
	try.p.expectTry(try)
	try.p.out.send(func(b []byte) []byte { return try.p.appendTry(b, try) })
}

// failJob fails the calls that need the leaves of a piece.
func (l *loop) failJob(job *leafJob, err error) {
	delete(l.jobs, job.piece)
	if err == nil && !job.disputed && l.gatherInstead(job.piece) {
		return
	}
	l.t.board.drop(job.piece)
	for pt := range l.active {
		if pt.piece == job.piece && pt.f.whole == nil {
			why := err
			if why == nil {
				why = unavailable(pt.run, "no connected peer has hashes that lead to the root")
			}
			l.finish(pt)
			pt.f.fail(why)
		}
	}
}

// bestForLeaves is the peer to ask next: one that has the piece, was not tried, and is least busy.
func (l *loop) bestForLeaves(job *leafJob) (best *peer) {
	var first time.Duration
	for p := range l.peers {
		if p.closing || !p.v2 || job.tried[p] || !p.have.has(job.piece) && p.holds[job.piece] == nil {
			continue
		}
		d := p.expect(0, blob.Fault)
		if p.deaf >= maxDeaf {
			d += time.Hour
		}
		if best == nil || d < first {
			best, first = p, d
		}
	}
	return best
}

// hedgeJobs asks one more peer for leaves that have not come in time. Hashes overtake blocks at the sender, so
// no measured latency applies; they are small, so everybody may be asked in the end.
func (l *loop) hedgeJobs(at time.Time) {
	for _, job := range l.jobs {
		n := len(job.tries)
		if n == 0 && job.waits && at.Sub(job.idle) >= hedgeAfter {
			l.resumeJob(job)
			continue
		}
		if n == 0 || at.Sub(job.tries[n-1].at) < 2*hedgeAfter {
			continue
		}
		if job.waits && !l.t.board.awaited(job.piece) {
			continue // who is to pass the blocks on does not have them either
		}
		if p := l.bestForLeaves(job); p != nil {
			l.send(l.try(job, p))
		} else if at.Sub(job.tries[n-1].at) > l.leafTimeout(job.piece) {
			for _, try := range job.tries {
				try.p.rejects, l.stingy = maxDeaf, true
			}
			l.failJob(job, nil) // who wants the piece again starts over
		}
	}
}

// leafTimeout is how long the last peer that was asked for leaves may take. A piece that can be verified without
// them is better collected whole.
func (l *loop) leafTimeout(piece uint32) time.Duration {
	if l.t.wholesome(piece) {
		return 5 * time.Second
	}
	return requestTimeout
}

// resumeJob asks for the leaves of a piece once more: whoever was asked for its blocks, or anybody.
func (l *loop) resumeJob(job *leafJob) {
	job.tried = make(map[*peer]bool)
	wanted := false
	for pt := range l.active {
		if pt.piece != job.piece {
			continue
		}
		wanted = true
		for _, a := range pt.asks {
			if a.p.v2 && !a.p.closing && !l.t.board.awaited(job.piece) {
				l.send(l.try(job, a.p))
				return
			}
		}
	}
	if !wanted {
		delete(l.jobs, job.piece)
		return
	}
	job.waits = false
	l.continueJob(job)
}

// abandonTries takes back what a peer that is gone was asked for.
func (l *loop) abandonTries(p *peer) {
	for _, job := range l.jobs {
		for i, try := range job.tries {
			if try.p == p {
				job.tries = append(job.tries[:i], job.tries[i+1:]...)
				l.continueJob(job)
				break
			}
		}
	}
}
