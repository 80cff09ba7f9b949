package tracker

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
)

// TestStartTogether is the join as nodes live it: three readers of a whole blob of 32 pieces, the first a moment
// ahead of the others, so that it is alone, reads four transfers of four pieces and learns only then that it has
// company. What they read from the origin together is little more than the blob.
func TestStartTogether(t *testing.T) {
	const ms = time.Millisecond
	g := blob.Geometry{Size: 32 * 256 << 10, PieceLength: 256 << 10}
	for _, lag := range []time.Duration{0, ms, 4 * ms} {
		for _, second := range []time.Duration{0, 1 * ms, 2 * ms, 3 * ms, 4 * ms, 5 * ms, 20 * ms, 70 * ms} {
			for _, third := range []time.Duration{0, 1 * ms, 5 * ms} {
				t.Run(fmt.Sprintf("lag %v, %v then %v later", lag, second, third), func(t *testing.T) {
					bubble(t, func(t *testing.T, w *wire, _ *Server) {
						w.hosts["one"].lag = func(*planRequest) time.Duration { return lag }
						var all audience
						begin := time.Now()
						join := []time.Duration{0, second, second + third}
						for now := time.Duration(0); !all.done(3); now = time.Since(begin) {
							for len(all) < 3 && now >= join[len(all)] {
								store := newMemory(g)
								p := attend(t, w, byte(len(all)+1), func(o *SessionOptions) { o.Store, o.Geometry = store, g })
								all = append(all, &reader{Session: p.Session, store: store, began: time.Now()})
							}
							for _, r := range all {
								r.step(all)
							}
							if now > time.Minute {
								t.Fatal("the readers are not done after a minute")
							}
							time.Sleep(ms)
							synctest.Wait()
						}
						total := 0
						for i, r := range all {
							t.Logf("node %d: %d pieces from the origin, first %d of them alone", i, r.origin, r.alone)
							total += r.origin
						}
						if limit := 32 * 115 / 100; total > limit {
							t.Errorf("%d pieces were read from the origin, want at most %d of 32", total, limit)
						}
					})
				})
			}
		}
	}
}

// audience are readers that reach one another.
type audience []*reader

func (c audience) done(n int) bool {
	return len(c) == n && !slices.ContainsFunc(c, func(r *reader) bool { return r.pos < 32 })
}

// reader reads a blob of 32 pieces from its start to its end as fetch does: from nodes that have a piece whose
// root is known, else from the origin what it may, and past the tracker after 100 ms.
type reader struct {
	*Session
	store   *memory
	began   time.Time
	pos     uint32    // the piece that it is blocked on
	blocked time.Time // since when
	flights []transfer
	origin  int // pieces read from the origin
	alone   int // of them: while solo
}

// transfer brings pieces one after the other.
type transfer struct {
	run    blob.Run
	next   time.Time // when the first piece of run is there
	origin bool
}

const (
	originTime = 30 * time.Millisecond // for a piece
	peerTime   = 2 * time.Millisecond
)

// step lands what has arrived, starts what may be started and says what is wished.
func (r *reader) step(others audience) {
	now := time.Now()
	var left []transfer
	for _, f := range r.flights {
		for f.run.Count > 0 && !now.Before(f.next) {
			trust := blob.Claimed
			if f.origin {
				trust = blob.Direct
			}
			r.store.put(f.run.First, rootOf(f.run.First), trust)
			f.run = blob.Run{First: f.run.First + 1, Count: f.run.Count - 1}
			f.next = f.next.Add(originTime)
		}
		if f.run.Count > 0 {
			left = append(left, f)
		}
	}
	r.flights = left
	for r.pos < 32 && r.store.PieceComplete(r.pos) {
		r.pos++
		r.blocked = now
	}
	if r.blocked.IsZero() {
		r.blocked = now
	}
	if r.pos == 32 {
		r.Want(nil, nil, nil)
		return
	}
	var reading, urgent, ahead []blob.Run
	transfers := 0
	for _, f := range r.flights {
		if f.origin {
			transfers++
			for i := range each([]blob.Run{f.run}) {
				reading = append(reading, blob.Run{First: i, Count: 1})
			}
		}
	}
	slices.Reverse(reading) // in no certain order
	for i := r.pos; i < 32; i++ {
		if r.store.PieceComplete(i) || r.coming(i) {
			continue
		}
		if r.peer(i, others) {
			r.flights = append(r.flights, transfer{blob.Run{First: i, Count: 1}, now.Add(peerTime), false})
			continue
		}
		if one := (blob.Run{First: i, Count: 1}); i == r.pos {
			urgent = append(urgent, one)
		} else {
			ahead = append(ahead, one)
		}
		late := i == r.pos && !r.Held(i) && now.Sub(r.blocked) > 100*time.Millisecond
		if transfers == 4 || !r.may(i, now) && !late {
			continue
		}
		run := blob.Run{First: i, Count: 1}
		for run.Count < 4 && run.End() < 32 && !late && r.may(run.End(), now) && !r.coming(run.End()) && !r.store.PieceComplete(run.End()) && !r.peer(run.End(), others) {
			ahead = append(ahead, blob.Run{First: run.End(), Count: 1})
			run.Count++
		}
		transfers++
		r.flights = append(r.flights, transfer{run, now.Add(originTime), true})
		r.origin += int(run.Count)
		if r.State() == Solo {
			r.alone += int(run.Count)
		}
	}
	r.Want(reading, urgent, ahead)
}

// may reports whether piece i may be read from the origin by the tracker's word. Until its first word others are
// presumed to be there.
func (r *reader) may(i uint32, now time.Time) bool {
	if s := r.State(); s <= Dead {
		return now.Sub(r.began) > 250*time.Millisecond
	}
	return r.State() == Solo || r.Mine(i)
}

// coming reports whether a transfer will bring piece i.
func (r *reader) coming(i uint32) bool {
	return slices.ContainsFunc(r.flights, func(f transfer) bool { return f.run.Contains(i) })
}

// peer reports whether piece i can be had from another node.
func (r *reader) peer(i uint32, others audience) bool {
	if _, t := r.store.Root(i); t < blob.Claimed {
		return false
	}
	return slices.ContainsFunc(others, func(o *reader) bool { return o != r && o.store.PieceComplete(i) })
}

// TestEndOfSolo: the node that was alone says what it reads, and nobody is leased anything before.
func TestEndOfSolo(t *testing.T) {
	const ms = time.Millisecond
	begin, before, after := []blob.Run{{First: 0, Count: 1}}, []blob.Run{{First: 0, Count: 16}}, []blob.Run{{First: 0, Count: 24}}
	type said struct {
		after   time.Duration // since the end of solo, or what was said before
		reading []blob.Run
	}
	for _, c := range []struct {
		name string
		deaf bool          // the first node does not hear of it
		says []said        // what its fetch says
		took time.Duration // until the second node is leased something
		mine uint32        // the first piece that is leased to it
	}{
		{"answers when fetch has spoken", false, []said{{0, after}}, answerAfter, 24},
		{"fetch was in the middle of a pass", false, []said{{0, before}, {ms, after}}, answerAfter, 24},
		{"answers when fetch speaks later", false, []said{{5 * ms, after}}, 5 * ms, 24},
		{"answers when fetch says nothing", false, nil, answerWithin, 16},
		{"does not answer", true, nil, askFor, 16},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *wire, _ *Server) {
				w.hosts["one"].lag = func(q *planRequest) time.Duration {
					if c.deaf && q.peer[1] == 1 && q.wait > 0 {
						return time.Second // the news are on their way
					}
					return 0
				}
				ended := make(chan struct{}, 1)
				a := attend(t, w, 1, func(o *SessionOptions) { o.OnPlan = func() { signal(ended) } })
				a.Want(before, nil, nil)
				time.Sleep(time.Second / 2) // before it would ask again
				if a.State() != Solo || !a.Mine(15) {
					t.Fatalf("state %v, leases %v", a.State(), a.view.Load().mine)
				}
				for len(ended) > 0 {
					<-ended
				}
				joined := time.Now()
				b := attend(t, w, 2, nil)
				b.Want(nil, begin, whole)
				if !c.deaf {
					<-ended
				}
				for _, x := range c.says {
					time.Sleep(x.after)
					a.Want(x.reading, nil, nil)
				}
				for synctest.Wait(); b.Status().Leases == 0; synctest.Wait() {
					if time.Since(joined) > time.Second {
						t.Fatal("the second node is leased nothing")
					}
					time.Sleep(100 * time.Microsecond)
				}
				// The server gathers soft news for some 2 ms; leases are told at once.
				if took := time.Since(joined).Round(time.Millisecond); took != c.took {
					t.Errorf("the second node was leased something after %v, want %v", took, c.took)
				}
				if mine := b.view.Load().mine; mine[0].First != c.mine {
					t.Errorf("the second node was leased %v, want from %d on", mine, c.mine)
				}
				close2(t, a, b)
			})
		})
	}
}

// TestReadingTravels: what is read is told at once while others are here, and the first report of a session
// carries it.
func TestReadingTravels(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a, b := attend(t, w, 1, nil), attend(t, w, 2, nil)
		time.Sleep(time.Second)
		a.Want(nil, nil, []blob.Run{{First: 40, Count: 1}})
		synctest.Wait()
		a.Want([]blob.Run{{First: 9, Count: 1}, {First: 7, Count: 2}, {First: 8, Count: 1}}, nil, nil)
		time.Sleep(urgentGap)
		synctest.Wait()
		if !a.Mine(7) || !a.Mine(8) || !a.Mine(9) {
			t.Errorf("leases %v of what is read", a.view.Load().mine)
		}
		log := w.seen("one")
		if last := log[len(log)-1].plan.reading; !slices.Equal(last, []blob.Run{{First: 7, Count: 3}}) {
			t.Errorf("told as %v", last)
		}
		w.set("one", s, down)
		time.Sleep(20 * time.Second)
		a.Want([]blob.Run{{First: 20, Count: 4}}, nil, nil)
		w.seen("one")
		w.set("one", s, up)
		time.Sleep(10 * time.Second)
		for _, r := range w.seen("one") {
			if r.plan.peer[1] == 1 && r.plan.full {
				if !r.plan.want || !slices.Equal(r.plan.reading, []blob.Run{{First: 20, Count: 4}}) {
					t.Errorf("the first report says want %v, reading %v", r.plan.want, r.plan.reading)
				}
				break
			}
		}
		if !a.Mine(20) {
			t.Errorf("leases %v after the tracker is back", a.view.Load().mine)
		}
		close2(t, a, b)
	})
}

func TestJoined(t *testing.T) {
	for _, c := range []struct{ runs, want []blob.Run }{
		{nil, nil},
		{[]blob.Run{{First: 3, Count: 0}}, nil},
		{[]blob.Run{{First: 3, Count: 1}, {First: 1, Count: 1}, {First: 2, Count: 1}}, []blob.Run{{First: 1, Count: 3}}},
		{[]blob.Run{{First: 5, Count: 9}, {First: 6, Count: 2}, {First: 20, Count: 1}}, []blob.Run{{First: 5, Count: 9}, {First: 20, Count: 1}}},
	} {
		before := slices.Clone(c.runs)
		if got := joined(c.runs); !slices.Equal(got, c.want) || !slices.Equal(c.runs, before) {
			t.Errorf("joined(%v) = %v, want %v; afterwards %v", before, got, c.want, c.runs)
		}
	}
}

// TestReadingIsBounded: who says that it reads everything makes no more leases than memory allows.
func TestReadingIsBounded(t *testing.T) {
	p := newPlay()
	p.s.reset(blob.Geometry{Size: 1 << 40, PieceLength: 1 << 20})
	everything := []blob.Run{{First: 0, Count: p.s.pieces}}
	for range 3 {
		if err := p.report("A", func(q *planRequest) { q.full, q.want, q.reading = true, true, everything }); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.s.leases); n != maxReadBytes>>20 {
		t.Errorf("%d leases, want %d", n, maxReadBytes>>20)
	}
}
