package tracker

import (
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// Puppet is a Session with one tracker, without network, goroutines and clock: package swarmtest drives it in virtual
// time. What it says and when, what it makes of the answers, and when it goes on without a tracker, is what a Session
// does. It is not safe for concurrent use.
type Puppet struct {
	s     *Session
	e     endpoint
	retry *backoff.ExponentialBackOff
	talk  *dialogue // nil: the tracker has failed
	again time.Time // when to try again, while talk is nil
}

// PuppetMessage is a request on its way to the tracker.
type PuppetMessage struct {
	Body  []byte
	Limit time.Duration // an answer that takes longer is none
	First bool          // a connection has to be made for it
	req   *planRequest
	talk  *dialogue
}

// ConnectLimit is how long making a connection to a tracker may take.
const ConnectLimit = dialLimit

// NewPuppet is a session that has said nothing yet. o names one tracker; random returns a number in [0,n).
func NewPuppet(o SessionOptions, random func(n int64) int64) *Puppet {
	p := &Puppet{s: newSession(o, 1, random), retry: newRetry()}
	p.e = p.s.dir.order()[0]
	o.Store.OnPiece(p.s.completed)
	return p
}

// Step returns what is to be sent now, and when Step is to be called again at the latest. It is also to be called
// after anything else was.
func (p *Puppet) Step(now time.Time) (out []PuppetMessage, again time.Time) {
	first := false
	if p.talk == nil {
		if now.Before(p.again) {
			return nil, p.again
		}
		p.talk, first = newDialogue(p.s, p.e, now, false, lateAfter), true
	}
	_ = p.talk.elapse(now) // it fails when there is another tracker only
	first = first || !p.talk.answered
	report, poll, again := p.talk.next(now)
	for _, q := range []*planRequest{report, poll} {
		if q != nil {
			out = append(out, PuppetMessage{Body: q.append(make([]byte, 0, 512)), Limit: q.wait + exchangeLimit, First: first, req: q, talk: p.talk})
		}
	}
	return out, again
}

// Hear takes in the answer to m; nil: there is none, and there will be none.
func (p *Puppet) Hear(now time.Time, m PuppetMessage, body []byte) {
	if p.talk == nil || m.talk != p.talk {
		return
	}
	a := answer{req: m.req}
	if body == nil {
		a.err = fmt.Errorf("%w: no answer", blob.ErrUnavailable)
	} else {
		a.reply, a.err = parsePlanReply(body, p.s.pieces)
	}
	err := p.talk.hear(now, a)
	if err == nil {
		p.retry.Reset()
		return
	}
	p.talk = nil
	p.s.dead(p.e, err, false)
	p.again = now.Add(p.s.pause(p.retry))
}

// State is [Session.State].
func (p *Puppet) State() State { return p.s.State() }

// Mine is [Session.Mine].
func (p *Puppet) Mine(piece uint32) bool { return p.s.Mine(piece) }

// Held is [Session.Held].
func (p *Puppet) Held(piece uint32) bool { return p.s.Held(piece) }

// Want is [Session.Want].
func (p *Puppet) Want(reading, urgent, ahead []blob.Run) { p.s.Want(reading, urgent, ahead) }

// SetBulk is [Session.SetBulk].
func (p *Puppet) SetBulk(on bool) { p.s.SetBulk(on) }

// SetUplink is [Session.SetUplink].
func (p *Puppet) SetUplink(rate int64) { p.s.SetUplink(rate) }

// Complain is [Session.Complain].
func (p *Puppet) Complain(list []relay.Complaint) { p.s.Complain(list) }

// Status is [Session.Status].
func (p *Puppet) Status() Status { return p.s.Status() }
