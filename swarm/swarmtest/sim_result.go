package swarmtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/relay"
)

// SimResult is what came of a run.
type SimResult struct {
	Nodes                     int           // that were alive at the end
	Unfinished                int           // of them
	Last                      time.Duration // when the last one had everything, from the start
	Bound                     time.Duration // no plan can be faster
	P50, P99                  time.Duration // from the coming of a node until it had everything
	Longest                   time.Duration
	Gap                       time.Duration // longest time in which nothing came to a node that lacked something
	OriginX                   float64       // bytes out of the source, in blobs
	Wasted                    int64         // bytes that came twice, or to nobody
	Refused                   int64         // bytes that did not verify
	Assignments               int
	Requests                  int64 // that the tracker has answered
	Reads                     int   // of single blocks that were not there
	ReadP50, ReadP99, ReadMax time.Duration
	Failed                    int             // reads that took longer than a read may
	AwayReads                 int             // reads that were answered while the tracker was away
	AwayRead                  time.Duration   // the longest of them
	Noticed                   time.Duration   // until the last node saw that the tracker was gone
	Reformed                  []time.Duration // each time that it came back: until all nodes had a plan again
	Foreign                   float64         // blobs that each client without a plan has got
	Complaints                int
	CPU                       time.Duration // of the tracker, all in all
	Events                    int
	Trace                     uint64        // a hash over all that happened, when, to whom: equal runs have equal ones
	Took                      time.Duration // virtual time, in all

	origin int64
	reads  []time.Duration
}

// finish works out the figures.
func (s *Sim) finish() {
	r := &s.res
	var times []int64
	sum := s.source.up
	for _, n := range s.nodes {
		if n.foreign {
			r.Foreign += 1 - float64(n.left)/float64(s.geo.Blocks())
			continue
		}
		if n.reader.waiting && n.alive && time.Duration(s.now-n.reader.since) > readLimit {
			r.Failed++
		}
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
	r.CPU, r.Requests = s.tracker.spent, s.tracker.reports
	r.Foreign /= float64(max(1, s.SimConfig.Foreign))
	if slices.Sort(r.reads); len(r.reads) > 0 {
		r.Reads = len(r.reads)
		r.ReadP50, r.ReadP99, r.ReadMax = r.reads[r.Reads/2], r.reads[r.Reads*99/100], r.reads[r.Reads-1]
	}
	r.Took = time.Duration(s.now)
}

// String is the result in one line.
func (r SimResult) String() string {
	b := fmt.Appendf(nil, "%d nodes: last %.2f s = %.3f x bound %.2f s, origin %.3f x, longest gap %.2f s, p50 %.2f s, p99/p50 %.2f, tracker %v per node (%.3f of a core, %d requests), %d assignments, %d complaints, %.1f MB twice, %.1f MB refused, %d events",
		r.Nodes, r.Last.Seconds(), r.Last.Seconds()/r.Bound.Seconds(), r.Bound.Seconds(), r.OriginX, r.Gap.Seconds(), r.P50.Seconds(),
		r.P99.Seconds()/r.P50.Seconds(), (r.CPU / time.Duration(max(1, r.Nodes))).Round(time.Microsecond), r.CPU.Seconds()/r.Took.Seconds(), r.Requests,
		r.Assignments, r.Complaints, float64(r.Wasted)/1e6, float64(r.Refused)/1e6, r.Events)
	if r.Reads > 0 {
		b = fmt.Appendf(b, "; %d reads: p50 %.1f ms, p99 %.1f ms, longest %.1f ms, %d failed", r.Reads, ms(r.ReadP50), ms(r.ReadP99), ms(r.ReadMax), r.Failed)
	}
	if r.Noticed > 0 {
		b = fmt.Appendf(b, "; tracker away: noticed within %.0f ms, %d reads meanwhile, longest %.1f ms, plan again after", ms(r.Noticed), r.AwayReads, ms(r.AwayRead))
		for _, d := range r.Reformed {
			b = fmt.Appendf(b, " %.1f s", d.Seconds())
		}
	}
	if r.Foreign > 0 {
		b = fmt.Appendf(b, "; clients without a plan got %.2f blobs each", r.Foreign)
	}
	return string(b)
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

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
