package swarm

import (
	"context"
	"fmt"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/pace"
)

// Upload limits. A writer asks for its turns before it takes anything out of its outbox, so that what comes meanwhile
// and is more urgent overtakes: a block that somebody is blocked on never waits for a limit behind bulk.

// uploadPath is what the uploads of a torrent ask along.
func (t *Torrent) uploadPath() pace.Path {
	if t.cfg.Upload != nil {
		return t.cfg.Upload
	}
	return t.node.upload
}

// turns waits until what is most urgent in the outbox may be sent; none: there is nothing, or no limit. Small
// messages do not wait for it.
func (p *peer) turns() (turns []*pace.Turn, err error) {
	own := p.t.uploadPath()
again:
	class, any := p.out.urgency()
	for i, path := range []pace.Path{p.t.node.yield.bulk, own} { // the first is for background only
		if !any || !path.Limited() || class < blob.Background && i == 0 {
			continue
		}
		n := blockSize
		if class > blob.Read {
			n *= int(p.part())
		}
		turn := path.Ask(n, class)
		turns = append(turns, turn)
		ok, err := p.await(turn, class)
		if ok {
			continue
		}
		for _, t := range turns {
			t.Cancel()
		}
		turns = turns[:0]
		if err != nil {
			return nil, err
		}
		goto again
	}
	return turns, nil
}

// await waits for a turn, until something more urgent is in the outbox.
func (p *peer) await(turn *pace.Turn, class blob.Class) (bool, error) {
	for {
		select {
		case <-turn.Ready():
			return true, nil
		default:
		}
		control, err := p.out.small()
		if err != nil {
			return false, err
		}
		if len(control) > 0 {
			p.conn.SetWriteDeadline(now().Add(writeTimeout))
			if err := p.wr.Send(control); err != nil {
				return false, fmt.Errorf("send: %w", err)
			}
		}
		select {
		case <-turn.Ready():
			return true, nil
		case <-p.out.wake:
			if c, any := p.out.urgency(); !any || c < class {
				return false, nil
			}
		case <-p.ctx.Done():
			return false, context.Cause(p.ctx)
		}
	}
}

// settle pays for what was sent in turns.
func (p *peer) settle(turns []*pace.Turn, j job) {
	for _, t := range turns {
		switch j.kind {
		case noJob:
			t.Cancel() // it was taken back
		case blockJob:
			t.Adjust(int(j.request.length))
		case runJob:
			t.Adjust(p.squeezer.wire)
		}
	}
}

// part is how many blocks of bulk one data message should carry: no more than partTime of the connection's rate, or
// of a limit that is lower.
func (p *peer) part() uint32 {
	n := p.flow.part()
	if p.flow.brief = p.t.node.yield.active(); p.flow.brief {
		n = min(n, yieldPart)
	}
	for _, b := range p.t.uploadPath() {
		if rate := b.Rate(); rate > 0 {
			n = min(n, max(1, uint32(min(blob.MaxBuffer, float64(rate)*partTime.Seconds()/blockSize))))
		}
	}
	return n
}

// urgency is the class of what would be sent next; any is false when no blocks wait.
func (o *outbox) urgency() (class blob.Class, any bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(o.runs[blob.Fault]) > 0:
		return blob.Fault, true
	case len(o.runs[blob.Read]) > 0, o.short.len() > 0:
		return blob.Read, true
	case len(o.runs[blob.Readahead]) > 0:
		return blob.Readahead, true
	case o.bulk.len() > 0, len(o.runs[blob.Background]) > 0:
		return blob.Background, true
	}
	return blob.Background, false
}

// small takes the small messages only. The slice is valid until the next call, or that of next.
func (o *outbox) small() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.flood {
		return nil, errFlood
	}
	control := o.control
	o.control, o.spare = o.spare[:0], control
	return control, nil
}
