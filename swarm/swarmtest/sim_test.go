package swarmtest

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", 1, "seed of the simulated swarms, to repeat one")

// nodes is how many nodes a simulation has; SIM_NODES says otherwise.
func nodes(t *testing.T, n int) int {
	t.Helper()
	if s := os.Getenv("SIM_NODES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 8 {
			t.Fatalf("SIM_NODES=%q: not a number of nodes", s)
		}
	}
	return n
}

func run(t *testing.T, c SimConfig) SimResult {
	t.Helper()
	c.Seed = *seed
	if c.Limit == 0 {
		c.Limit = 5 * time.Minute
	}
	r := NewSim(c).Run()
	t.Logf("seed %d: %s", c.Seed, r)
	if r.Unfinished > 0 {
		t.Errorf("%d nodes have not got everything", r.Unfinished)
	}
	return r
}

// within fails when the figures of a run are worse than allowed: the last finisher by the lower bound plus a time,
// what left the source, the slowest of a hundred by the usual.
func within(t *testing.T, r SimResult, last float64, late time.Duration, origin, p99 float64) {
	t.Helper()
	if limit := time.Duration(float64(r.Bound)*last) + late; r.Last > limit {
		t.Errorf("the last one has everything after %.2f s, limit %.2f s", r.Last.Seconds(), limit.Seconds())
	}
	if r.OriginX > origin {
		t.Errorf("%.3f times the blob have left the source, limit %.3f", r.OriginX, origin)
	}
	if x := r.P99.Seconds() / r.P50.Seconds(); x > p99 {
		t.Errorf("p99/p50 is %.2f, limit %.2f", x, p99)
	}
}

// TestCold: nodes that come at the same moment cost the source one download, and are done about as soon as the
// first one could be.
func TestCold(t *testing.T) {
	for _, n := range []int{1, 2, 8, 16, 32, nodes(t, 1000)} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			within(t, run(t, SimConfig{Nodes: n}), 1.10, 0, 1.02, 1.5)
		})
	}
}

// half is when half of the blob is everywhere.
const half = 6700 * time.Millisecond

// tenth gives node 3 a tenth of everybody else's uplink.
func tenth(i int) int64 {
	if i == 3 {
		return 500_000
	}
	return 5_000_000
}

func TestDisturbed(t *testing.T) {
	often := func(every, until time.Duration, do func(*Sim)) (steps []SimStep) {
		for at := every; at <= until; at += every {
			steps = append(steps, SimStep{at, do})
		}
		return steps
	}
	for _, c := range []struct {
		name        string
		c           SimConfig
		last        float64 // see within
		late        time.Duration
		origin, p99 float64
	}{
		{"one at a tenth", SimConfig{UpOf: tenth}, 1.15, 0, 1.02, 1.5},
		{"one at a tenth, as the tracker is told", SimConfig{UpOf: tenth, KnownUp: true}, 1.10, 0, 1.02, 1.5},
		{"one is killed half-way", SimConfig{Script: []SimStep{{half, func(s *Sim) { s.Kill(2) }}}}, 1, 2 * time.Second, 1.02, 1.5},
		{"a head is killed half-way", SimConfig{Script: []SimStep{{half, func(s *Sim) { s.Kill(0) }}}}, 1, 2 * time.Second, 1.02, 1.5},
		{"they come within a second", SimConfig{Spread: time.Second}, 1.10, time.Second, 1.02, 1.5},
		{"they come within half a minute", SimConfig{Spread: 30 * time.Second}, 1.10, 30 * time.Second, 1.02, 1.5},
		{"the origin is the source", SimConfig{Origin: true}, 1.10, 0, 1.02, 1.5},
		{"zones, with loss between them", SimConfig{Zones: 16, Loss: 0.001}, 1.10, 0, 1.02, 1.5},
		{"connections get unequal shares", SimConfig{Unfair: 0.5}, 1.15, 0, 1.02, 1.5},
		{"one in a hundred lies, whose uplinks are lost", SimConfig{Liars: 0.01}, 1.10, 3 * time.Second, 1.05, 1.5},
		{"somebody reads at random on a tenth", SimConfig{Readers: 0.1}, 1.25, 0, 1.25, 1.5},
		{"one in a hundred beside them follows no plan", SimConfig{Foreign: 3}, 3, 0, 6, 1.5},
		{"some are suspended for five seconds", SimConfig{Script: []SimStep{{half, func(s *Sim) {
			for i := 5; i < 300; i += 100 {
				s.Suspend(i, 5*time.Second)
			}
		}}}}, 1.10, 6 * time.Second, 1.05, 1.5},
		{"clocks jump", SimConfig{Skew: time.Hour, Script: often(time.Second, 20*time.Second, func(s *Sim) { s.Jump(0.2) })}, 1.10, 0, 1.02, 1.5},
		{"one in a hundred dies every second", SimConfig{Script: often(time.Second, 20*time.Second, func(s *Sim) { s.KillSome(0.01) })}, 2.6, 5 * time.Second, 1.10, 1.5},
		{"a quarter is cut off for four seconds", SimConfig{Script: []SimStep{
			{4 * time.Second, func(s *Sim) { s.Cut(func(i int) bool { return i%4 == 3 }) }},
			{8 * time.Second, func(s *Sim) { s.Cut(nil) }},
		}}, 1.10, 8 * time.Second, 1.10, 1.5},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.c.Nodes = nodes(t, 300)
			r := run(t, c.c)
			within(t, r, c.last, c.late, c.origin, c.p99)
			if c.c.Liars > 0 && r.Refused == 0 {
				t.Error("nobody lied")
			}
		})
	}
}

// TestTrackerGone: the tracker is killed, or cut off, for ten minutes under load: nodes die and others come all the
// time, and on each somebody reads at random. No read fails, none takes long, with a peer as the source nobody
// stops getting bytes, and when the tracker is back it has a plan for all within ten seconds.
func TestTrackerGone(t *testing.T) {
	for _, c := range []struct {
		name       string
		gone, back func(*Sim)
	}{
		{"killed", (*Sim).KillTracker, (*Sim).StartTracker},
		{"cut off", (*Sim).CutTracker, (*Sim).HealTracker},
	} {
		for _, origin := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, origin %v", c.name, origin), func(t *testing.T) {
				script := []SimStep{{2 * time.Second, c.gone}, {602 * time.Second, c.back}}
				for at := 5 * time.Second; at < 610*time.Second; at += 5 * time.Second {
					script = append(script, SimStep{at, func(s *Sim) { s.KillSome(0.02) }})
				}
				r := run(t, SimConfig{Nodes: nodes(t, 100), Readers: 0.3, Origin: origin, Script: script, Limit: 15 * time.Minute})
				if r.Failed > 0 || r.AwayReads == 0 {
					t.Errorf("%d reads failed, %d were answered without a tracker", r.Failed, r.AwayReads)
				}
				// It is noticed by the report that is due within a second, which gets 0.8 s.
				if r.Noticed > 2*time.Second {
					t.Errorf("a node counted on the tracker for %v", r.Noticed)
				}
				if r.AwayRead > time.Second {
					t.Errorf("a read took %v", r.AwayRead)
				}
				// With an origin the model leaves bulk waiting for long: see decision 0006.
				// A parent that is starved is left for another one after three seconds (relay.starvedAfter), a dead one after
				// one, and what is asked anew takes a moment.
				if !origin && r.Gap > 5*time.Second {
					t.Errorf("a node got nothing for %s", r.Gap)
				}
				if len(r.Reformed) != 1 || r.Reformed[0] > 10*time.Second {
					t.Errorf("all have a plan again after %v", r.Reformed)
				}
			})
		}
	}
}

// TestRepeat: the same seed is the same run, event by event, whatever happens in it.
func TestRepeat(t *testing.T) {
	for _, origin := range []bool{false, true} {
		t.Run(fmt.Sprintf("origin %v", origin), func(t *testing.T) {
			var script []SimStep
			for at := time.Second; at < 12*time.Second; at += time.Second {
				script = append(script, SimStep{at, func(s *Sim) { s.KillSome(0.02) }})
			}
			script = append(script, SimStep{4 * time.Second, (*Sim).KillTracker}, SimStep{6 * time.Second, (*Sim).StartTracker})
			c := SimConfig{Nodes: 100, Origin: origin, Readers: 0.1, Liars: 0.02, Zones: 4, Unfair: 0.3, Foreign: 1, Script: script, Limit: 5 * time.Minute, Seed: *seed}
			a, b := NewSim(c).Run(), NewSim(c).Run()
			if a.Trace != b.Trace || a.Events != b.Events {
				t.Errorf("seed %d twice is two runs:\n%s\n%s", *seed, a, b)
			}
			c.Seed++
			if other := NewSim(c).Run(); other.Trace == a.Trace {
				t.Errorf("seeds %d and %d are the same run", *seed, c.Seed)
			}
		})
	}
}
