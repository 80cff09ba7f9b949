package swarm

import (
	"fmt"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// served is a run that a peer has asked for: it lives from the request to its last block or its reject, is in
// outbox.tags as long, and meanwhile either in a queue of the outbox, with its writer, or parked.
type served struct {
	// Constant.
	p        *peer
	tag      uint32
	class    blob.Class
	wait     bool
	zstd     bool // its payload may be compressed
	spare    bool // it is sent out of what the uplink has left over
	deadline time.Time

	// Guarded by outbox.mu. Blocks below next have been sent, those below ready can be.
	next, ready, end uint32
	ended            bool

	awaits uint32 // the block it is parked for; guarded by lot.mu
}

const (
	// maxRuns bounds the runs of one peer that are queued or parked: as many as the blocks that we ask of a
	// peer at most, each of which might be a run of its own.
	maxRuns = maxRequests
	// maxWait is how long a run may be parked at most, whatever deadline the peer names.
	maxWait = time.Minute
	// busyRetry is when a peer that asked for too much may ask again.
	busyRetry = 100 * time.Millisecond
)

// runAsked takes a run request. It runs on the reader's goroutine.
func (p *peer) runAsked(m peerwire.Run) error {
	t := p.t
	run := blob.Run{First: m.Block, Count: m.Count}
	if run.End() > t.geo.Blocks() || t.geo.PiecesOf(run).Count != 1 || !t.geo.isBlock(run.End()-1) {
		return fmt.Errorf("%w: run of blocks %s of %d", blob.ErrInvalid, run, t.geo.Blocks())
	}
	if p.out.tagged(m.Tag) != nil {
		return fmt.Errorf("%w: run request with a tag that is in use", blob.ErrInvalid)
	}
	at := now()
	p.lastReq.Store(at.UnixNano())
	s := &served{
		p: p, tag: m.Tag, class: min(blob.Class(m.Class), blob.Background), wait: m.Flags&peerwire.RunWait != 0, zstd: m.Flags&peerwire.RunZstd != 0, spare: m.Flags&peerwire.RunSpare != 0,
		next: run.First, end: run.End(),
	}
	s.deadline = at.Add(maxWait)
	if d := time.Duration(m.Millis) * time.Millisecond; d > 0 && d < maxWait {
		s.deadline = at.Add(d)
	}
	s.ready = t.held(s.next, s.end)
	switch {
	case s.spare && !t.lend(int64(run.Count)*blockSize):
		p.refuseHelp(m.Tag)
		return nil
	case s.class > blob.Read && !s.wait && !s.spare && !p.serving.Load(): // what may wait is what the tracker wants us to pass on
		p.rejectRun(m.Tag, peerwire.ReasonChoked, 0)
		return nil
	case s.ready == s.next && !s.wait:
		p.rejectRun(m.Tag, peerwire.ReasonAbsent, 0)
		return nil
	}
	if !p.out.admit(s) {
		p.rejectRun(m.Tag, peerwire.ReasonBusy, busyRetry)
		return nil
	}
	s.proceed()
	return nil
}

// held is the end of the blocks from first on that the store holds without a gap.
func (t *Torrent) held(first, end uint32) uint32 {
	if t.cfg.Store.Has(blob.Run{First: first, Count: end - first}) {
		return end
	}
	for first < end && t.cfg.Store.Has(blob.Run{First: first, Count: 1}) {
		first++
	}
	return first
}

// proceed queues what can be sent of a run, parks it, or ends it. The caller is the only one who holds it.
func (s *served) proceed() {
	p := s.p
	ready := p.t.held(s.next, s.end)
	switch {
	case ready > s.next:
		p.out.queueRun(s, ready)
	case s.wait:
		if f := p.t.cfg.OnWanted; f != nil {
			f(blob.Run{First: s.next, Count: s.end - s.next})
		}
		p.t.lot.park(s)
	case p.out.end(s):
		p.rejectRun(s.tag, peerwire.ReasonAbsent, 0)
	}
}

func (p *peer) rejectRun(tag uint32, why peerwire.Reason, retry time.Duration) {
	p.out.send(func(b []byte) []byte {
		return peerwire.AppendRunReject(b, p.runsExt(), tag, why, uint32(retry/time.Millisecond))
	})
}

// runCancelled takes a request back. What was being sent still arrives before the reject.
func (p *peer) runCancelled(tag uint32) {
	if s := p.out.tagged(tag); s != nil && p.out.end(s) {
		p.t.lot.leave(s)
		p.rejectRun(tag, peerwire.ReasonCancelled, 0)
	}
}

// dropRuns ends the runs of a peer that is choked, or gone: all, or those that need a slot.
func (p *peer) dropRuns(all bool) {
	for _, s := range p.out.dropRuns(all) {
		p.t.lot.leave(s)
		if !all {
			p.rejectRun(s.tag, peerwire.ReasonChoked, 0)
		}
	}
}

// answerRun sends small messages and the next data message of a run.
func (p *peer) answerRun(control []byte, j job) error {
	off, n := p.t.geo.extent(j.blocks)
	head := peerwire.Run{Tag: j.run.tag, Block: j.blocks.First, Bytes: uint32(n)}
	if j.last {
		head.Flags = peerwire.DataLast
	}
	p.squeezer.wire = int(n)
	squeezed := false
	var err error
	if j.run.zstd {
		if control, squeezed, err = p.squeeze(control, head, off, int(n)); err != nil {
			return err
		}
	}
	if squeezed {
		err = p.wr.Send(control)
	} else {
		control = peerwire.AppendDataHeader(control, p.runsExt(), head, int(n))
		err = p.wr.Piece(control, p.t.cfg.Store, off, int(n))
	}
	if err != nil {
		return fmt.Errorf("upload of %d bytes at %d: %w", n, off, err)
	}
	if j.drained && !j.last {
		j.run.proceed()
	}
	p.sentBytes(int(n), p.squeezer.wire)
	if j.run.spare {
		p.t.lent.Add(n)
	}
	return nil
}
