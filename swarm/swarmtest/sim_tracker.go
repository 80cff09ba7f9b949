package swarmtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/relay"
)

// tracker is the machine with the planner on it.
type tracker struct {
	s       *Sim
	planner *relay.Planner
	dead    bool
	life    int // how often it was started again
	silent  []quiet
	spent   time.Duration // of the processor, by planning
}

// quiet is a node that the tracker will not hear of again, and when it takes note of that.
type quiet struct {
	n  *node
	at int64
}

// report is what a node tells.
type report struct {
	done  bool
	marks []relay.Watermark
	blame []relay.Complaint
}

func (t *tracker) init(s *Sim) {
	t.s = s
	t.planner = relay.NewPlanner(s.geo, relay.PlannerOptions{Stripes: s.k})
}

// report sends what n has to tell.
func (s *Sim) report(n *node) {
	r := &report{done: n.done > 0, blame: n.blame}
	for k := range n.lanes {
		r.marks = append(r.marks, relay.Watermark{Stripe: k, Piece: s.reached(n, k)})
	}
	n.reported = s.now
	if s.tracker.dead || s.cutOff(n) {
		n.blame, n.fresh = nil, true
		return
	}
	n.blame, n.fresh = nil, false
	s.push(int64(s.Far), event{kind: evReport, who: n.index, any: r})
}

// reached is how far n would be in a stripe with as many pieces as it has, and no hole.
func (s *Sim) reached(n *node, k int) uint32 {
	if n.done > 0 {
		return s.geo.Pieces()
	}
	u := relay.Unit(s.geo)
	return min((n.lanes[k].count/u*uint32(s.k)+uint32(k))*u+n.lanes[k].count%u, s.geo.Pieces())
}

// cutOff reports whether n cannot reach the tracker, which stands where the source does.
func (s *Sim) cutOff(n *node) bool { return s.apart(n, s.source) }

// take is when a report has arrived.
func (t *tracker) take(n *node, r *report) {
	if t.dead || !n.alive {
		return
	}
	begin := time.Now()
	now := t.s.time()
	m := relay.Member{ID: n.id, Source: r.done, Bulk: true}
	if t.s.KnownUp {
		m.Up = int64(n.up)
	}
	if t.s.Zones > 1 {
		m.Zone = zoneName(n.zone)
	}
	t.planner.Put(now, m)
	t.planner.Progress(now, n.id, r.marks)
	for _, c := range r.blame {
		if t.s.Trace != nil {
			t.s.Trace("%v: %d complains: stripe %d, reason %d, parent %d, rate %d", time.Duration(t.s.now), n.index, c.Stripe, c.Reason, t.s.byID[c.Parent].index, c.Rate)
		}
		t.planner.Complain(now, n.id, c)
	}
	t.spent += time.Since(begin)
	t.tell()
}

func zoneName(i int) string {
	return string([]byte{'a' + byte(i/16%26), '/', 'a' + byte(i%16)})
}

// tell sends assignments that have changed.
func (t *tracker) tell() {
	begin := time.Now()
	for _, id := range t.planner.Changed() {
		n := t.s.byID[id]
		if n == nil || n.done > 0 {
			continue
		}
		a := t.planner.Assignment(id)
		if t.s.Trace != nil {
			t.s.Trace("%v: %d is given %s", time.Duration(t.s.now), n.index, t.s.show(a))
		}
		if !t.s.cutOff(n) {
			t.s.push(int64(t.s.Far), event{kind: evAssign, who: n.index, any: a})
		}
	}
	t.spent += time.Since(begin)
}

func (t *tracker) tick() {
	if t.dead {
		return
	}
	begin := time.Now()
	t.silent = slices.DeleteFunc(t.silent, func(q quiet) bool {
		if t.s.now < q.at {
			return false
		}
		t.planner.Remove(t.s.time(), q.n.id)
		return true
	})
	t.planner.Tick(t.s.time())
	t.spent += time.Since(begin)
	t.tell()
}

// show is an assignment in short: the parents of each stripe.
func (s *Sim) show(a relay.Assignment) string {
	var b strings.Builder
	for k, ps := range a.Parents {
		fmt.Fprintf(&b, "[")
		for _, p := range ps {
			fmt.Fprintf(&b, " %d at %d", s.byID[p.ID].index, s.byID[p.ID].lanes[k].mark)
		}
		fmt.Fprintf(&b, " ]")
	}
	return fmt.Sprintf("%s head %b", b.String(), a.Head)
}
