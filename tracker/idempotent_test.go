package tracker

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// TestReportsAreIdempotent: reports of pieces that arrive twice, late or in another order make the same picture, and
// a full report makes it right whatever was lost before.
func TestReportsAreIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPlay()
		p.s.reset(small)
		if err := p.report("A", func(q *planRequest) { q.full = true }); err != nil {
			t.Fatal(err)
		}
		if err := p.report("B", func(q *planRequest) { q.full = true }); err != nil {
			t.Fatal(err)
		}
		want := newBitmap(64)
		var sent []planRequest
		addr := p.node("A").member.addr
		for range rapid.IntRange(1, 12).Draw(t, "reports") {
			first := rapid.Uint32Range(0, 60).Draw(t, "first") // never the last ones: a seed has no bitmap
			run := blob.Run{First: first, Count: rapid.Uint32Range(1, 61-first).Draw(t, "count")}
			err := p.report("A", func(q *planRequest) {
				q.want, q.have, q.ahead = true, []blob.Run{run}, whole
				sent = append(sent, *q)
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := run.First; i < run.End(); i++ {
				want.put(i, true)
			}
			for range rapid.IntRange(0, 3).Draw(t, "repeats") {
				old := sent[rapid.IntRange(0, len(sent)-1).Draw(t, "which")]
				if _, err := p.s.report(p.now, &old, addr); err != nil {
					t.Fatal(err)
				}
			}
			if err := check(p.s); err != nil {
				t.Fatal(err)
			}
		}
		same := func(what string) {
			for i := range uint32(64) {
				if p.node("A").has(i) != want.has(i) {
					t.Fatalf("%s: piece %d is had: %v", what, i, p.node("A").has(i))
				}
			}
		}
		same("after repeats")
		// The tracker believes something else than the node: the bitfield puts it right, and a report that was under way
		// before it does not undo it.
		lost := newBitmap(64)
		var have []blob.Run
		for i := range uint32(32) {
			if want.has(i) {
				lost.put(i, true)
				have = append(have, blob.Run{First: i, Count: 1})
			}
		}
		want = lost
		if err := p.report("A", func(q *planRequest) { q.full, q.want, q.have = true, true, have }); err != nil {
			t.Fatal(err)
		}
		if err := check(p.s); err != nil {
			t.Fatal(err)
		}
		same("after the full report")
	})
}

// TestUnknownNodeResyncsAtOnce: a tracker that has lost a node says so in the next reply, and has its whole bitfield in
// the same instant: nobody sleeps in between.
func TestUnknownNodeResyncsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a := attend(t, w, 1, nil)
		attend(t, w, 2, nil)
		for i := range uint32(40) {
			a.store.put(i, rootOf(i), blob.Direct)
		}
		time.Sleep(time.Second)
		r := s.room(key{1}, false)
		m := r.swarm.byID[peerID{'-', 1}]
		r.swarm.remove(time.Now(), m)
		r.swarm.settle(time.Now())
		r.mu.Unlock()
		w.seen("one")
		begin := time.Now()
		a.Want(nil, []blob.Run{{First: 50, Count: 1}}, nil)
		synctest.Wait()
		if !time.Now().Equal(begin) {
			t.Fatal("the clock has moved")
		}
		r = s.room(key{1}, false)
		defer r.mu.Unlock()
		n := r.swarm.byID[peerID{'-', 1}]
		if n == nil || n.plan.had != 40 {
			t.Fatalf("the tracker knows %+v", n)
		}
		full := 0
		for _, one := range w.seen("one") {
			if one.plan.full {
				full++
			}
		}
		if full != 1 {
			t.Errorf("%d full reports", full)
		}
	})
}
