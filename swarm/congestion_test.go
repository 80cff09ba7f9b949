package swarm_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// The roles of the test binary in a network namespace of its own.
const (
	listenEnv = "PANTALA_SWARM_LISTEN" // where the seeder listens
	askerEnv  = "PANTALA_SWARM_ASKER"  // asks the seeder there
	bulkEnv   = "PANTALA_SWARM_BULK"   // how many bulk transfers run: "none", "same" connection, "other" process
)

// linkGeometry is what is moved over slow links.
var linkGeometry = blob.Geometry{Size: 64 << 20, PieceLength: 256 << 10}

// needNet fails where network namespaces should be there (CI), and skips where they need not be.
func needNet(t testing.TB) {
	t.Helper()
	err := errors.New("not root")
	if os.Geteuid() == 0 {
		out, e := exec.Command("ip", "netns", "add", fmt.Sprintf("pt%dx", os.Getpid())).CombinedOutput()
		if e == nil {
			exec.Command("ip", "netns", "del", fmt.Sprintf("pt%dx", os.Getpid())).Run()
			return
		}
		err = fmt.Errorf("%v: %s", e, out)
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI must be able to make network namespaces: %v", err)
	}
	t.Skipf("network namespaces: %v (needs root and iproute2)", err)
}

// slowLink makes two namespaces with a veth between them, the first of which sends at a rate from a queue of 50
// ms, as that of a home router.
func slowLink(t testing.TB, rate string) (seeder, leecher string) {
	t.Helper()
	base := fmt.Sprintf("pt%d", os.Getpid())
	seeder, leecher = base+"a", base+"b"
	run := func(line string) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	for _, ns := range []string{seeder, leecher} {
		run("netns add " + ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	}
	run(fmt.Sprintf("-n %s link add %s type veth peer name %s netns %s", seeder, "v0", "v0", leecher))
	for i, ns := range []string{seeder, leecher} {
		run(fmt.Sprintf("-n %s addr add 10.99.0.%d/24 dev v0", ns, i+1))
		run(fmt.Sprintf("-n %s link set v0 up", ns))
		run(fmt.Sprintf("-n %s link set lo up", ns))
	}
	shape := fmt.Sprintf("-n %s qdisc add dev v0 root tbf rate %s burst 32kb latency 50ms", seeder, rate)
	if out, err := exec.Command("tc", strings.Fields(shape)...).CombinedOutput(); err != nil {
		t.Fatalf("tc %s: %v: %s", shape, err, out)
	}
	return seeder, leecher
}

// role starts the test binary in a network namespace. Not by ip netns exec, which makes a mount namespace, too: that
// would keep the mounts of other tests alive that are there at this time.
func role(t testing.TB, ns string, env ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command("nsenter", "--net=/run/netns/"+ns, os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		watchdog.Stop()
	})
	return cmd, bufio.NewReader(out)
}

// latencies is what an asker prints.
type latencies struct {
	Micros []int64
	Bulk   int64 // bytes that came meanwhile besides
	Took   time.Duration
}

func (l latencies) at(percent int) time.Duration {
	slices.Sort(l.Micros)
	return time.Duration(l.Micros[min(len(l.Micros)-1, len(l.Micros)*percent/100)]) * time.Microsecond
}

// askerMain fetches single blocks from a seeder, one after the other, with bulk beside them or without, and prints
// how long each took.
func askerMain(at string) {
	g := linkGeometry
	from := swarmtest.NewSeed(g, swarmtest.Random(g.Size, 1))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	join := func() (*swarm.Torrent, *swarmtest.MemStore) {
		n, err := swarm.NewNode(swarm.Options{Listen: "0.0.0.0:0"})
		if err != nil {
			panic(err)
		}
		s := swarmtest.NewMemStore(g)
		s.TakeRoots(from, blob.Claimed)
		t, err := n.Add(swarm.Config{Keys: [][20]byte{key}, Name: name, Store: s})
		if err != nil {
			panic(err)
		}
		t.AddPeers(netip.MustParseAddrPort(at))
		for !t.Has(g.Blob()) {
			time.Sleep(time.Millisecond)
		}
		return t, s
	}
	tor, s := join()
	bulk, bulkStore := tor, s
	if os.Getenv(bulkEnv) == "other" {
		bulk, bulkStore = join()
	}
	// The leaves of all pieces first: what is measured is one block and nothing else.
	half := blob.Run{First: 0, Count: g.Blocks() / 2}
	for p := g.Pieces() / 2; p < g.Pieces(); p += 4 {
		if err := fetch(ctx, tor, s, blob.Run{First: g.PieceBlocks(p).First, Count: 1}); err != nil {
			panic(err)
		}
	}
	bulkCtx, stop := context.WithCancel(blob.WithClass(ctx, blob.Background))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Getenv(bulkEnv) != "none" {
			fetch(bulkCtx, bulk, bulkStore, half)
		}
	}()
	time.Sleep(time.Second)
	var l latencies
	began, before := time.Now(), bulk.Stats().Downloaded
	for i := range 200 {
		p := g.Pieces()/2 + 4*uint32(rand.IntN(int(g.Pieces()/8)))
		r := g.PieceBlocks(p)
		start := time.Now()
		if err := fetch(blob.WithClass(ctx, blob.Fault), tor, s, blob.Run{First: r.First + 1 + uint32(i)%(r.Count-1), Count: 1}); err != nil {
			panic(err)
		}
		l.Micros = append(l.Micros, time.Since(start).Microseconds())
		time.Sleep(10 * time.Millisecond)
	}
	l.Bulk, l.Took = bulk.Stats().Downloaded-before, time.Since(began)
	stop()
	<-done
	json.NewEncoder(os.Stdout).Encode(l)
}

// TestUrgentOverASlowLink measures how long single blocks take over a link of 40 Mbit/s that a background transfer
// fills, on the same connection and on another one. Without giving way the queue of 50 ms is full and drops packets,
// some of which TCP notices only after 200 ms. The bounds are for machines that are busy: figures are logged.
func TestUrgentOverASlowLink(t *testing.T) {
	needNet(t)
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	a, b := slowLink(t, "40mbit")
	_, lines := role(t, a, seederEnv+"=1", listenEnv+"=10.99.0.1:7001")
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	var goal time.Duration
	for _, bulk := range []string{"none", "same", "other"} {
		cmd, lines := role(t, b, askerEnv+"=10.99.0.1:7001", bulkEnv+"="+bulk)
		var l latencies
		if err := json.NewDecoder(lines).Decode(&l); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if bulk == "none" {
			goal = max(10*time.Millisecond, l.at(50))
		}
		t.Logf("bulk %s: p50 %v, p99 %v, bulk besides %.1f Mbit/s; goal %v", bulk, l.at(50), l.at(99), float64(l.Bulk)*8/1e6/l.Took.Seconds(), goal)
		if l.at(50) > 8*goal || l.at(99) > 300*time.Millisecond {
			t.Errorf("bulk %s: p50 %v, p99 %v", bulk, l.at(50), l.at(99))
		}
	}
}
