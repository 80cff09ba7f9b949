package swarm_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

func cpu() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkLoopback moves 256 MiB from one seeder to one leecher over loopback, every block hashed and
// written to a memfd. cpu-s/GiB is seeder and leecher together.
func BenchmarkLoopback(b *testing.B) {
	g := blob.Geometry{Size: 256 << 20, PieceLength: 1 << 20}
	from := seed(b, g, swarmtest.Random(g.Size, 1))
	a := newNode(b, swarm.Options{})
	add(b, a, from, blob.Hash{})
	b.SetBytes(g.Size)
	b.ReportAllocs()
	start := cpu()
	for b.Loop() {
		b.StopTimer()
		to := empty(b, g)
		to.TakeRoots(from, blob.Claimed)
		n := newNode(b, swarm.Options{})
		tor := add(b, n, to, blob.Hash{})
		tor.AddPeers(a.Addr())
		await(b, tor, g.Blob())
		b.StartTimer()
		if err := fetch(blob.WithClass(context.Background(), blob.Background), tor, to, g.Blob()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		n.Close()
		to.Close()
		b.StartTimer()
	}
	b.ReportMetric((cpu()-start).Seconds()/float64(b.N)*4, "cpu-s/GiB")
}

// BenchmarkRandomBlock fetches single blocks one after the other: the latency of a page fault that a
// neighbour answers, without the kernel.
func BenchmarkRandomBlock(b *testing.B) {
	g := blob.Geometry{Size: 1 << 30, PieceLength: 1 << 20}
	from := seed(b, g, swarmtest.Random(g.Size, 1))
	a, n := newNode(b, swarm.Options{}), newNode(b, swarm.Options{})
	add(b, a, from, blob.Hash{})
	to := empty(b, g)
	to.TakeRoots(from, blob.Claimed)
	tor := add(b, n, to, blob.Hash{})
	tor.AddPeers(a.Addr())
	await(b, tor, g.Blob())
	at := uint32(0)
	for b.Loop() {
		at = (at + 40503) % g.Blocks()
		if err := fetch(context.Background(), tor, to, blob.Run{First: at, Count: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
