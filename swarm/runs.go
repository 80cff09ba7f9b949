package swarm

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// errand is one run that we asked of a peer of ours. It stays in peer.errands until its last block or its reject
// has come, so that what crosses a cancel is known from what nobody asked for.
type errand struct {
	part      *part  // nil: cancelled
	next, end uint32 // blocks that have not come
	class     blob.Class
	wait      bool
	at        time.Time
}

// errandDeadline is what a run that may wait names. It is below requestTimeout, so that a parent that has nothing
// to pass on is not taken for dead.
const errandDeadline = 20 * time.Second

// runsExt is the id under which the peer wants to receive our extension; 0: it does not speak it.
func (p *peer) runsExt() uint8 { return uint8(p.runsID.Load()) }

// ours reports whether the peer speaks our extension.
func (p *peer) ours() bool { return p.runsID.Load() != 0 }

// runsOffer is what the extended handshake offers for our extension.
func (t *Torrent) runsOffer() map[string]uint8 {
	return map[string]uint8{peerwire.RunsName: extRuns}
}

// ran takes a message of our extension. It runs on the reader's goroutine.
func (p *peer) ran(m peerwire.Message) error {
	if !p.ours() {
		return nil // nobody said under which id it wants answers
	}
	switch m.Run.Op {
	case peerwire.OpRun:
		return p.runAsked(m.Run)
	case peerwire.OpData:
		return p.dataCame(m)
	case peerwire.OpCancel:
		p.runCancelled(m.Run.Tag)
	case peerwire.OpReject:
		return p.runRejected(m.Run)
	case peerwire.OpHave:
		return p.holdsCame(m)
	}
	return nil
}

// askRuns requests the blocks of a part as runs; try is as in ask. spare: out of what its uplink has left over.
func (p *peer) askRuns(pt *part, blocks []uint32, try *leafTry, wait, spare bool) {
	var reqs [blob.MaxBuffer]peerwire.Run
	n := 0
	for i, b := range blocks {
		if i > 0 && b == blocks[i-1]+1 {
			reqs[n-1].Count++
			continue
		}
		reqs[n] = peerwire.Run{Class: uint8(pt.f.class), Block: b, Count: 1}
		if !p.t.node.opts.NoCompress {
			reqs[n].Flags = peerwire.RunZstd
		}
		if spare {
			reqs[n].Flags |= peerwire.RunSpare
		}
		if wait {
			reqs[n].Flags |= peerwire.RunWait
			reqs[n].Millis = uint32(errandDeadline / time.Millisecond)
		}
		n++
	}
	at := now()
	p.mu.Lock()
	for i := range reqs[:n] {
		r := &reqs[i]
		p.lastTag++
		r.Tag = p.lastTag
		e := &errand{part: pt, next: r.Block, end: r.Block + r.Count, class: pt.f.class, wait: wait, at: at}
		p.errands[r.Tag] = e
		p.owe(e, int32(r.Count))
	}
	p.mu.Unlock()
	p.out.send(func(out []byte) []byte {
		for i, r := range reqs[:n] {
			out = peerwire.AppendRun(out, p.runsExt(), r)
			if i == 0 && try != nil {
				out = p.appendTry(out, try)
			}
		}
		return out
	})
}

// owe counts n blocks of an errand that are to come, or, below 0, have come or will not. mu is held.
func (p *peer) owe(e *errand, n int32) {
	p.inflight.Add(n)
	if e.class <= blob.Read {
		p.urgent.Add(n)
	}
	if e.wait {
		p.waiting.Add(n)
	}
}

// forgetRuns takes back the runs that were asked of the peer for a part; the tags are to be cancelled.
func (p *peer) forgetRuns(pt *part) (tags []uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for tag, e := range p.errands {
		if e.part == pt {
			e.part = nil
			p.owe(e, -int32(e.end-e.next))
			tags = append(tags, tag)
		}
	}
	return tags
}

// owed is how many blocks of a part are still to come in runs.
func (p *peer) owed(pt *part) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.errands {
		if e.part == pt {
			n += int(e.end - e.next)
		}
	}
	return n
}

// owesRun reports whether a block of a part is still to come in a run.
func (p *peer) owesRun(block uint32, pt *part) bool {
	for _, e := range p.errands {
		if e.part == pt && block >= e.next && block < e.end {
			return true
		}
	}
	return false
}

// runRejected takes the end of a run.
func (p *peer) runRejected(r peerwire.Run) error {
	p.mu.Lock()
	e := p.errands[r.Tag]
	if e == nil {
		p.mu.Unlock()
		return fmt.Errorf("%w: reject of a run that was not asked for", blob.ErrInvalid)
	}
	delete(p.errands, r.Tag)
	pt := e.part
	if pt != nil {
		p.owe(e, -int32(e.end-e.next))
	}
	p.mu.Unlock()
	if pt != nil {
		p.t.post(runRefused{p, pt, r.Reason, time.Duration(r.Millis) * time.Millisecond})
	}
	return nil
}

// dataCame takes the payload of a data message: straight into the buffer of the part that wants it, or nowhere.
func (p *peer) dataCame(m peerwire.Message) error {
	run := blob.Run{First: m.Run.Block, Count: (m.Run.Bytes + blockSize - 1) / blockSize}
	if run.End() < run.First || !p.t.geo.isBlock(run.End()-1) {
		return fmt.Errorf("%w: data of blocks %s", blob.ErrInvalid, run)
	}
	squeezed := m.Run.Flags&peerwire.DataZstd != 0 && !p.t.node.opts.NoCompress && m.Length < m.Run.Bytes
	n := int(m.Run.Bytes)
	if _, size := p.t.geo.extent(run); size != int64(n) || !squeezed && n != int(m.Length) {
		return fmt.Errorf("%w: %d bytes of payload for %d of blocks %s", blob.ErrInvalid, m.Length, m.Run.Bytes, run)
	}
	p.mu.Lock()
	e := p.errands[m.Run.Tag]
	if e == nil || run.First != e.next || run.End() > e.end {
		p.mu.Unlock()
		return fmt.Errorf("%w: blocks %s were not asked for", blob.ErrInvalid, run)
	}
	e.next = run.End()
	if e.next == e.end {
		delete(p.errands, m.Run.Tag)
	}
	pt := e.part
	if pt != nil {
		p.owe(e, -int32(run.Count))
	}
	p.meter.receivedRun(now().Sub(e.at), int(run.Count), e.wait)
	p.mu.Unlock()

	var err error
	if squeezed {
		err = p.expandRun(pt, run, int(m.Length), n)
	} else {
		err = p.receiveRun(pt, run, n, e.wait)
	}
	if err != nil {
		return err
	}
	if e.wait && p.t.relaying.Load() {
		p.t.post(parentSent{p, p.t.geo.PieceOf(run.First), n})
	}
	if f := p.t.node.opts.OnBytes; f != nil {
		f(p.addr, n, 0)
	}
	return nil
}

// receiveRun reads the n bytes of the blocks of a run; planned is as in [peer.receiveInto].
func (p *peer) receiveRun(pt *part, run blob.Run, n int, planned bool) error {
	p.down.Add(int64(n))
	p.t.down.Add(int64(n))
	if pt == nil {
		return nil // Next discards it
	}
	for !run.Empty() {
		buf, some := pt.beginRun(run, p)
		run = blob.Run{First: run.First + some.Count, Count: run.Count - some.Count}
		if buf == nil {
			_, skip := p.t.geo.extent(some)
			if err := p.skip(int(skip)); err != nil {
				return err
			}
			continue
		}
		last, err := p.receiveInto(pt, some, buf, planned)
		if err != nil {
			return err
		}
		if last {
			pt.complete()
		}
	}
	return nil
}

// wakeEvery is how many bytes of a payload should have come before its reader wakes up: half a transfer buffer, so
// that the second half arrives while the first is copied.
const wakeEvery = blob.MaxBuffer * blockSize / 2

// receiveInto fills the memory of some blocks of a part. last: the part is complete.
//
// planned: the run is as long as what comes in 20 ms ([relay.Picker.Part]), and nobody can use a part of it. So its
// reader sleeps until all of it is there, instead of waking up for every few segments.
func (p *peer) receiveInto(pt *part, run blob.Run, buf []byte, planned bool) (last bool, err error) {
	defer p.prompt.lowAt(1)
	for got, done := 0, uint32(0); ; {
		switch left := len(buf) - got; {
		case left >= wakeEvery:
			p.prompt.lowAt(wakeEvery)
		case planned:
			p.prompt.lowAt(left)
		default:
			p.prompt.lowAt(1)
		}
		n, err := p.rd.Some(buf[got:])
		got += n
		whole := uint32(got / blockSize)
		if got == len(buf) {
			whole = run.Count
		}
		if whole > done {
			last = pt.finishRun(blob.Run{First: run.First + done, Count: whole - done}, run.End())
			done = whole
		}
		if got == len(buf) {
			return last, nil
		}
		if err == nil {
			continue
		}
		broken := !errors.Is(err, os.ErrDeadlineExceeded)
		if !broken {
			p.conn.SetReadDeadline(time.Time{})
		}
		if !pt.releaseRun(blob.Run{First: run.First + done, Count: run.Count - done}, broken) {
			if broken {
				return false, err
			}
			return false, p.skip(len(buf) - got)
		}
	}
}

// skip discards payload.
func (p *peer) skip(n int) error {
	for {
		left, err := p.rd.Skip(n)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		p.conn.SetReadDeadline(time.Time{})
		n = left
	}
}

// beginRun gives the reader of p the memory of the first blocks of a run to receive into. nil: they are not
// wanted (any more), their payload is to be discarded.
func (pt *part) beginRun(run blob.Run, p *peer) (buf []byte, some blob.Run) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	at := now()
	for i := run.First - pt.run.First; i < run.End()-pt.run.First; i++ {
		b := &pt.blocks[i]
		if pt.phase == filling && b.state == receiving && at.Sub(b.since) > stealAfter {
			pt.revoke(i)
		}
	}
	if pt.phase != filling {
		return nil, run
	}
	first := run.First - pt.run.First
	wanted := pt.blocks[first].state == absent
	n := uint32(0)
	for n < run.Count && (pt.blocks[first+n].state == absent) == wanted {
		if wanted {
			b := &pt.blocks[first+n]
			b.state, b.from, b.since = receiving, p, at
		}
		n++
	}
	some = blob.Run{First: run.First, Count: n}
	if !wanted {
		return nil, some
	}
	return pt.buf[int(first)*blockSize : min(int(first+n)*blockSize, len(pt.buf))], some
}

// finishRun is called by the reader when blocks are complete; those up to end follow. It reports whether they
// were the last ones of the part.
func (pt *part) finishRun(run blob.Run, end uint32) (last bool) {
	at := now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	for i := run.First - pt.run.First; i < run.End()-pt.run.First; i++ {
		pt.blocks[i].state = received
		pt.revoked &^= 1 << i
	}
	if run.End() < end {
		pt.blocks[run.End()-pt.run.First].since = at
	}
	pt.missing -= int(run.Count)
	pt.last.Store(at.UnixNano())
	pt.settled.Broadcast()
	if pt.missing > 0 || pt.phase != filling {
		return false
	}
	pt.phase = full
	return true
}

// releaseRun is release for blocks that are received one after the other: when one was revoked the reader has let
// go of all of them.
func (pt *part) releaseRun(run blob.Run, give bool) (mine bool) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	mask := (uint32(1)<<run.Count - 1) << (run.First - pt.run.First)
	if !give && pt.revoked&mask == 0 {
		return true
	}
	pt.revoked &^= mask
	for i := run.First - pt.run.First; i < run.End()-pt.run.First; i++ {
		pt.blocks[i].state = absent
	}
	pt.settled.Broadcast()
	return false
}

// extent is the offset and the length in bytes of blocks that lie in one file.
func (s *space) extent(r blob.Run) (off, n int64) {
	return int64(r.First) * blockSize, int64(r.Count-1)*blockSize + int64(s.BlockLen(r.End()-1))
}

// runRefused is the reject of a run, or of what is missing of it.
type runRefused struct {
	p     *peer
	pt    *part
	why   peerwire.Reason
	retry time.Duration
}

// retryAfter is when a part may be asked again of a peer that did not say so.
const retryAfter = 50 * time.Millisecond

func (e runRefused) apply(l *loop) {
	pt := e.pt
	l.dirty = true
	if pt.state != asked {
		return
	}
	if pt.helped(e.p) {
		l.endHelp(pt, e.p, now(), max(e.retry, helpRetry))
		return
	}
	e.p.forget(pt)
	switch e.why {
	case peerwire.ReasonAbsent, peerwire.ReasonInvalid:
		pt.refused = append(pt.refused, e.p)
	default:
		pt.after = now().Add(min(max(e.retry, retryAfter), 5*time.Second))
	}
	l.notComing(pt, e.p)
	l.unask(pt, e.p)
}
