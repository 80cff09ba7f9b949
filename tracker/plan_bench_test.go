package tracker

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

// BenchmarkThousandNodes is what a tracker does for 1 000 nodes that read 64 MiB together in 14 s, without HTTP: every
// request and reply is written and parsed, trees are planned, a node reports what it has completed as often as the
// tracker tells it to. It says how much of a core that takes, and how much memory.
func BenchmarkThousandNodes(b *testing.B) {
	const nodes, lasts = 1000, 14 * time.Second
	g := blob.GeometryFor(64 << 20)
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		now := time.Unix(1_000_000, 0)
		s := newSwarm(rules{30 * time.Second, 2 * time.Second, 50}, 7, now)
		s.makePlanner = newPlanner
		s.reset(g)
		said := make([]uint32, nodes)
		var gens, logs, seqs [nodes]int64
		exchanges := 0
		exchange := func(i int, have []blob.Run, full bool) {
			seqs[i]++
			q := &planRequest{port: 6881, geometry: g, seq: seqs[i], gen: gens[i], log: logs[i], full: full, have: have, about: about{bulk: true}}
			if !full {
				q.epoch = 7
			}
			binary.BigEndian.PutUint32(q.peer[:], uint32(i+1))
			parsed, err := parsePlanRequest(q.append(nil))
			if err != nil {
				b.Fatal(err)
			}
			n, err := s.report(now, parsed, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 6881))
			if err != nil {
				b.Fatal(err)
			}
			r, err := parsePlanReply(s.reply(n).append(nil), g.Pieces())
			if err != nil {
				b.Fatal(err)
			}
			gens[i], logs[i] = r.gen, r.log
			exchanges++
		}
		exchange(0, []blob.Run{{First: 0, Count: g.Pieces()}}, true) // the seeder
		begin := time.Now()
		const step = 50 * time.Millisecond
		for at := time.Duration(0); at < lasts; at += step {
			now = now.Add(step)
			for i := 1; i < nodes; i++ {
				if turn := (i*int(step) + int(at)) / int(step); at > 0 && turn%max(1, int(s.pace()/step)) != 0 {
					continue
				}
				reached := uint32(float64(g.Pieces()) * at.Seconds() / lasts.Seconds())
				if at == 0 {
					exchange(i, nil, true)
				} else if reached > said[i] {
					exchange(i, []blob.Run{{First: said[i], Count: reached - said[i]}}, false)
					said[i] = reached
				}
			}
			s.drain()
			if at%(250*time.Millisecond) == 0 {
				s.tick(now)
			}
		}
		spent := time.Since(begin)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(spent.Seconds()/lasts.Seconds(), "cores")
		b.ReportMetric(float64(spent.Microseconds())/nodes, "µs/node")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		b.ReportMetric(float64(exchanges)/nodes, "exchanges/node")
		runtime.KeepAlive(s)
	}
}
