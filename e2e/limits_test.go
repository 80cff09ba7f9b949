package e2e

import (
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// 64 readers of one mount in a cgroup of 256 MiB together with the node.
func TestReadersInASmallCgroup(t *testing.T) {
	const limit, readers, reads = 256 << 20, 64, 256
	w := e2etest.New(t)
	file := e2etest.Content(t, 512<<20, 4) // twice the limit: what is read cannot just stay in memory
	url := w.Nginx("100m").Serve(file, "model.bin")
	group := w.Cgroup(limit)
	n := w.Node("n")
	n.Group = group
	path := n.Mount(url, "--fill", "never")
	pid := n.PID()

	// One process, 64 threads with a buffer of 64 KiB each: the memory is pantala's to use up, not the readers'.
	// Together they read twice the file, at random.
	p := w.ReaderIn(e2etest.Read{Path: path, Want: file.Path, Block: 64 << 10, Random: reads, Threads: readers, Seed: 1}, group, 0)
	found, res := w.ReadResult(p, 5*time.Minute)
	found.MustBeRight(w)
	now, anon, peak := e2etest.RSS(pid)
	kills, err := group.OOMKills()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d readers read %s in %.1f s; node: RSS %s (%s of it anonymous), peak %s; cgroup peak %s of %s", readers, e2etest.MiB(found.Bytes),
		res.Took.Seconds(), e2etest.MiB(now), e2etest.MiB(anon), e2etest.MiB(peak), e2etest.MiB(group.Peak()), e2etest.MiB(limit))
	if kills != 0 {
		t.Errorf("the kernel killed %d processes for want of memory", kills)
	}
	if got := n.PID(); got != pid {
		t.Errorf("the node is process %d, was %d", got, pid)
	}
	if want := int64(readers) * reads * (64 << 10); found.Bytes != want {
		t.Errorf("read %d bytes, want %d", found.Bytes, want)
	}
	if m := n.MountStatus(path); m.Errors != 0 {
		t.Errorf("%d reads failed", m.Errors)
	}
}
