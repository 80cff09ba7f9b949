package tracker

import "time"

// dialogue is what a session says to one tracker and what it makes of the answers, as a state machine: Session.live
// brings its messages to the tracker and the time to it, and so does a simulator. A full report comes first, then a
// poll that is always outstanding, and reports beside it, one at a time.
type dialogue struct {
	s      *Session
	e      endpoint
	others bool          // there is another tracker to go to
	within time.Duration // how long a report may take

	answered  bool // the tracker has, once
	reporting bool // a report is under way
	polling   bool // a poll is
	late      int  // steps towards giving the report up
	last      lastSent
	lateAt    time.Time // when the next of those steps is due; zero: there is none
	grace     time.Time // what the last tracker said counts until then; zero: that is over
}

// newDialogue begins to speak with a tracker.
func newDialogue(s *Session, e endpoint, now time.Time, others bool, within time.Duration) *dialogue {
	s.introduce()
	return &dialogue{s: s, e: e, others: others, within: within, grace: now.Add(lastWord)}
}

// next returns what is to be sent now, nil when there is nothing, and when to ask again at the latest: elapse is to be
// called then. Whenever something was left in the outbox, or heard, next is to be asked earlier.
func (d *dialogue) next(now time.Time) (report, poll *planRequest, again time.Time) {
	again = now.Add(time.Hour)
	if !d.reporting {
		if report, again = d.s.due(now, &d.last); report != nil {
			d.reporting, d.late, d.lateAt = true, 0, now.Add(d.within-lateGrace)
			again = d.lateAt
		}
	} else if !d.lateAt.IsZero() {
		again = d.lateAt
	}
	if !d.grace.IsZero() && d.grace.Before(again) {
		again = d.grace
	}
	if !d.polling && d.answered && len(d.s.backlog) == 0 {
		poll = d.s.request(pollWait)
		d.polling = true
	}
	return report, poll, again
}

// elapse does what the clock demands. errLate gives this tracker up for another one.
func (d *dialogue) elapse(now time.Time) error {
	if !d.grace.IsZero() && !now.Before(d.grace) {
		d.grace = time.Time{}
		if !d.answered {
			d.s.show(&view{state: Dead})
		}
	}
	if !d.reporting || d.lateAt.IsZero() || now.Before(d.lateAt) {
		return nil
	}
	switch {
	case d.late == 0:
		// If this process stood still, the answer may be here all the same.
		d.lateAt = now.Add(lateGrace)
	case d.others:
		return errLate
	default:
		d.s.show(&view{state: Dead}) // until it answers: nobody waits for it
		d.lateAt = time.Time{}
	}
	d.late++
	return nil
}

// hear takes an answer in. An error ends the dialogue.
func (d *dialogue) hear(now time.Time, a answer) error {
	if a.req.wait > 0 {
		d.polling = false
	} else {
		d.reporting = false
	}
	if a.err != nil {
		return a.err
	}
	d.s.apply(now, d.e, a.reply)
	d.answered = true
	d.s.answered()
	return nil
}
