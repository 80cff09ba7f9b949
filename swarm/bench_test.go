package swarm_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// seederEnv makes the test binary a seeder of its own, so that its CPU time can be told from the leecher's.
const seederEnv = "PANTALA_SWARM_SEEDER"

// benchGeometry is what the benchmarks move: 256 MiB in pieces of 1 MiB, 64 leaf hashes each.
var benchGeometry = blob.Geometry{Size: 256 << 20, PieceLength: 1 << 20}

// benchData is made once: it costs more than moving it.
var benchData = sync.OnceValue(func() []byte { return swarmtest.Random(benchGeometry.Size, 1) })

// seederMain seeds until its standard input ends. It prints where, and the CPU time that it took to start.
func seederMain() {
	o := swarm.Options{Listen: "127.0.0.1:0"}
	store := func() *swarmtest.MemStore { return swarmtest.NewSeed(benchGeometry, benchData()) }
	if at := os.Getenv(listenEnv); at != "" {
		o.Listen, o.NoCompress = at, os.Getenv(plainEnv) != ""
		store = func() *swarmtest.MemStore {
			return swarmtest.NewSeed(linkGeometry, linkData())
		}
	}
	n, err := swarm.NewNode(o)
	if err != nil {
		panic(err)
	}
	defer n.Close()
	c := swarm.Config{Keys: [][20]byte{key}, Name: name, Store: store()}
	if _, err := n.Add(c); err != nil {
		panic(err)
	}
	fmt.Println(n.Addr(), int64(cpu(syscall.RUSAGE_SELF)))
	io.Copy(io.Discard, os.Stdin)
}

func cpu(who int) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(who, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkTransfer moves 256 MiB from a seeder in another process over loopback. Every block is hashed by
// the leecher and written to a memfd. CPU seconds per GiB are given for both sides.
func BenchmarkTransfer(b *testing.B) {
	g := benchGeometry
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), seederEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	var at string
	var started time.Duration
	if _, err := fmt.Fscan(bufio.NewReader(out), &at, &started); err != nil {
		b.Fatal(err)
	}
	roots := seed(b, g, benchData())
	b.SetBytes(g.Size)
	var leecher time.Duration
	var moved int64
	for b.Loop() {
		b.StopTimer()
		to := empty(b, g)
		to.TakeRoots(roots, blob.Claimed)
		n := newNode(b, swarm.Options{})
		tor := add(b, n, to, blob.Hash{})
		tor.AddPeers(netip.MustParseAddrPort(at))
		await(b, tor, g.Blob())
		before := cpu(syscall.RUSAGE_SELF)
		b.StartTimer()
		if err := fetch(blob.WithClass(context.Background(), blob.Background), tor, to, g.Blob()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		leecher += cpu(syscall.RUSAGE_SELF) - before
		moved += g.Size
		n.Close()
		to.Close()
		b.StartTimer()
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() - started
	gib := float64(moved) / (1 << 30)
	b.ReportMetric(used.Seconds()/gib, "seeder-cpu-s/GiB")
	b.ReportMetric(leecher.Seconds()/gib, "leecher-cpu-s/GiB")
}

// BenchmarkRandomBlock fetches single blocks one after the other: the latency of a page fault that a
// neighbour answers, without the kernel.
func BenchmarkRandomBlock(b *testing.B) {
	g := benchGeometry
	a, n := newNode(b, swarm.Options{}), newNode(b, swarm.Options{})
	from, to := seed(b, g, benchData()), empty(b, g)
	add(b, a, from, blob.Hash{})
	to.TakeRoots(from, blob.Claimed)
	tor := add(b, n, to, blob.Hash{})
	tor.AddPeers(a.Addr())
	await(b, tor, g.Blob())
	b.ReportAllocs()
	at := uint32(0)
	for b.Loop() {
		at = (at + 40503) % g.Blocks()
		if err := fetch(context.Background(), tor, to, blob.Run{First: at, Count: 1}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHas is on the path of every decision of fetch.
func BenchmarkHas(b *testing.B) {
	g := benchGeometry
	tor := add(b, newNode(b, swarm.Options{}), empty(b, g), blob.Hash{})
	b.ReportAllocs()
	for b.Loop() {
		tor.Has(blob.Run{First: 5, Count: 16})
	}
}
