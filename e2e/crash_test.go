package e2e

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// `kill -9` in the middle of a download, at random points: every byte that a reader got before, between and
// after is right, and only what was in flight is fetched again.
func TestKillNine(t *testing.T) {
	rounds := 10
	if *full {
		rounds = 50
	}
	// --memory bounds the bytes that are on their way between a socket and the map of what is present.
	const flight = 8 << 20
	w := e2etest.New(t)
	file := big(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")
	node := w.Node("n", "--memory", "8MiB")
	dir := w.Dir("mnt")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	var written, again, worst int64
	cut := 0
	for round := range rounds {
		path := node.MountAt(dir, url, "--fill", "never")
		present := node.MountStatus(path).Present
		if round > 0 {
			// What the dead node had written, but does not vouch for.
			lost := written - present
			again += max(lost, 0)
			worst = max(worst, lost)
		}
		left := file.Size - present
		goal := e2etest.Disk(node.State) + rng.Int64N(2*left/int64(rounds-round+1)+1)
		reader := w.Reader(e2etest.Read{Path: path, Want: file.Path})
		if !e2etest.Poll(readLimit, func() bool { return reader.Ended() || e2etest.Disk(node.State) >= goal }) {
			t.Fatalf("round %d: the download does not get on", round)
		}
		if !reader.Ended() {
			cut++
		}
		node.Kill()
		written = e2etest.Disk(node.State)
		if found, _ := w.ReadResult(reader, 20*time.Second); found.Mismatch >= 0 {
			t.Fatalf("round %d: WRONG BYTES at offset %d", round, found.Mismatch)
		}
		if round%2 == 0 { // the other rounds mount over the dead mount
			if r := node.Umount(dir); r.Code != 0 {
				t.Fatalf("round %d: %v", round, r)
			}
		}
	}
	path := node.MountAt(dir, url, "--fill", "never")
	mustSum(t, sum(w, path), file)
	if m := node.MountStatus(path); m.Errors != 0 {
		t.Errorf("%d reads failed after the last restart", m.Errors)
	}
	node.Stop()
	ng.Stop()
	extra := ng.Sent() - file.Size
	t.Logf("%d kills, %d in the middle of reading; written but fetched again: %s in all, %s at worst; nginx sent %s more than the file, %s per kill",
		rounds, cut, e2etest.MiB(again), e2etest.MiB(worst), e2etest.MiB(extra), e2etest.MiB(extra/int64(rounds)))
	if cut < rounds/2 {
		t.Errorf("only %d of %d kills hit a download", cut, rounds)
	}
	// The metadata beside the data is counted by Disk too: 32 bytes per 16 KiB, a log, page rounding.
	atMost(t, "written and lost by one kill", worst, flight+file.Size/256+1<<20)
	atMost(t, "sent again by nginx", extra, int64(rounds)*flightOnTheWire)
}

// flightOnTheWire bounds what nginx may have sent that a killed node never verified, per kill: the node's
// buffers (8 MiB, see TestKillNine), and for each connection what the kernel holds for it: nginx's send
// buffer (256 KiB by its configuration) and our receive buffer (6 MiB, the default tcp_rmem bound), for the two
// connections that keep loopback busy.
const flightOnTheWire = 8<<20 + 2*(256<<10+6<<20)

// A mount whose node was killed can be unmounted, and mounted over, by the user's ordinary commands.
func TestDeadMount(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	dir := w.Dir("mnt")
	path := n.MountAt(dir, url)
	mustSum(t, sum(w, path), file)
	n.Kill()
	if r := w.Run(10*time.Second, "head", "-c1", path); r.Code == 0 {
		t.Fatalf("the mount of a killed node still reads: %v", r)
	}

	n.MountAt(dir, url)
	if got := e2etest.MountsBelow(dir); len(got) != 1 {
		t.Errorf("mounting over a dead mount left %d mounts there: %v", len(got), got)
	}
	mustSum(t, sum(w, path), file)
	n.Kill()

	if r := n.Umount(dir); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	if got := e2etest.MountsBelow(dir); len(got) != 0 {
		t.Errorf("umount has left %v", got)
	}
	if pids := n.PIDs(); len(pids) != 0 {
		t.Errorf("umount of a dead mount has started a daemon: %v", pids)
	}
}
