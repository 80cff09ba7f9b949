package swarmtest

import (
	"fmt"
	"slices"
	"time"
)

// SimResult is what came of a run.
type SimResult struct {
	Nodes       int           // that were alive at the end
	Unfinished  int           // of them
	Last        time.Duration // when the last one had everything, from the start
	Bound       time.Duration // no plan can be faster
	P50, P99    time.Duration // from the coming of a node until it had everything
	Longest     time.Duration
	Gap         time.Duration // longest time in which nothing came to a node that lacked something
	OriginX     float64       // bytes out of the source, in blobs
	Wasted      int64         // bytes that came twice, or to nobody
	Refused     int64         // bytes that did not verify
	Assignments int
	Complaints  int
	CPU         time.Duration // of the tracker, all in all
	Events      int

	origin int64
}

// finish works out the figures.
func (s *Sim) finish() {
	r := &s.res
	var times []int64
	sum := s.source.up
	for _, n := range s.nodes {
		if !n.alive {
			continue
		}
		sum += n.up
		r.Nodes++
		if n.done == 0 {
			r.Unfinished++
			continue
		}
		r.Last = max(r.Last, time.Duration(n.done))
		times = append(times, n.done-n.joins)
	}
	slices.Sort(times)
	if len(times) > 0 {
		r.P50 = time.Duration(times[len(times)/2])
		r.P99 = time.Duration(times[min(len(times)-1, len(times)*99/100)])
		r.Longest = time.Duration(times[len(times)-1])
	}
	size := float64(s.Size)
	bound := max(size/s.source.up, float64(r.Nodes)*size/sum)
	r.Bound = time.Duration(bound * float64(time.Second))
	r.OriginX = float64(r.origin) / size
	r.CPU = s.tracker.spent
}

// String is the result in one line.
func (r SimResult) String() string {
	return fmt.Sprintf("%d nodes: last %.2f s = %.3f x bound %.2f s, origin %.3f x, longest gap %.2f s, p50 %.2f s, p99/p50 %.2f, tracker %v per node, %d assignments, %d complaints, %.1f MB twice, %.1f MB refused, %d events",
		r.Nodes, r.Last.Seconds(), r.Last.Seconds()/r.Bound.Seconds(), r.Bound.Seconds(), r.OriginX, r.Gap.Seconds(), r.P50.Seconds(),
		r.P99.Seconds()/r.P50.Seconds(), (r.CPU / time.Duration(max(1, r.Nodes))).Round(time.Microsecond), r.Assignments, r.Complaints,
		float64(r.Wasted)/1e6, float64(r.Refused)/1e6, r.Events)
}
