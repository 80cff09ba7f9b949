package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/e2e/clients/clientstest"
	"github.com/pantala/pantala/e2e/e2etest"
)

// pair is one seeder, one leecher, and what came of it.
type pair struct {
	took            time.Duration
	seeder, leecher time.Duration // CPU
}

// wireSize is the size of the file in bytes: 1 GiB, unless BENCH_SIZE says otherwise.
func wireSize(b *testing.B) int64 {
	if os.Getenv("BENCH_SIZE") == "" {
		return int64(gib)
	}
	return size(b)
}

// round is one transfer, after which everything of it ends: its memory is for the next one. Memory that a virtual
// machine has never touched is slower by several times.
type round struct {
	*testing.B
	ends []func()
}

// Cleanup implements [testing.TB].
func (r *round) Cleanup(f func()) { r.ends = append(r.ends, f) }

func (r *round) end() {
	for ; len(r.ends) > 0; r.ends = r.ends[:len(r.ends)-1] {
		r.ends[len(r.ends)-1]()
	}
}

// onTmpfs is a World all of whose files are in memory, so that no disk is measured, and the file to transfer there.
func onTmpfs(b *round) (w *e2etest.World, file e2etest.File) {
	b.Helper()
	e2etest.NeedRoot(b)
	w = e2etest.New(b)
	content := e2etest.Content(b, wireSize(b.B), 1)
	if err := syscall.Mount("pantala-bench", w.Root, "tmpfs", 0, "mode=0755"); err != nil {
		b.Fatalf("mounting a tmpfs: %v", err)
	}
	w.Defer(func() {
		if err := e2etest.ForceUnmount(w.Root); err != nil {
			b.Error(err)
		}
	})
	file = content
	file.Path = filepath.Join(w.Dir("content"), name)
	clientstest.Copy(w, content.Path, file.Path)
	return w, file
}

// BenchmarkWire moves one file from one seeder to one leecher over loopback, files and caches in memory, every client
// verifying what it gets as it does by default: SHA-256 of each 16 KiB (pantala, libtorrent: v2), SHA-1 of each 1 MiB
// (aria2: v1). It reports CPU seconds per GiB, user and system, of each whole process while the transfer runs, and MB/s.
// Nothing reads what the leecher downloads before the end, when all of it is compared.
//
// The leecher of pantala is a daemon with a mount that fills its cache (--fill eager): what downloads for a reader, without
// the reader.
func BenchmarkWire(b *testing.B) {
	run := func(name string, one func(b *round) pair) {
		b.Run("client="+name, func(b *testing.B) {
			var mbs, up, down samples
			for range b.N {
				p := func() pair {
					r := &round{B: b}
					defer r.end()
					return one(r)
				}()
				g := float64(wireSize(b)) / gib
				mbs = append(mbs, float64(wireSize(b))/1e6/p.took.Seconds())
				up, down = append(up, p.seeder.Seconds()/g), append(down, p.leecher.Seconds()/g)
				load, _ := os.ReadFile("/proc/loadavg")
				b.Logf("%.0f MB/s, seeder %.2f, leecher %.2f cpu-s/GiB; load %s", mbs[len(mbs)-1], up[len(up)-1], down[len(down)-1], strings.TrimSpace(string(load)))
			}
			hideTime(b)
			b.ReportMetric(mbs.median(), "MB/s")
			b.ReportMetric(up.median(), "seeder-cpu-s/GiB")
			b.ReportMetric(down.median(), "leecher-cpu-s/GiB")
			switch name {
			case "libtorrent":
				rival["wire-up"], rival["wire-down"] = up.median(), down.median()
			case "pantala":
				against(b, "wire-up", up.median(), false, "x-libtorrent-seeder")
				against(b, "wire-down", down.median(), false, "x-libtorrent-leecher")
			}
		})
	}
	run("libtorrent", wireLibtorrent)
	run("aria2", wireAria2)
	run("pantala", wirePantala)
}

func wireLibtorrent(b *round) (p pair) {
	clientstest.NeedLibtorrent(b)
	w, file := onTmpfs(b)
	tr := w.Tracker()
	t := clientstest.Make(w, clientstest.V2, file.Path, 1<<20, tr.URL)
	seed := clientstest.StartLibtorrent(w, nil, t.Path, t.From, e2etest.FreePort(b))
	seed.Go()
	w.Until(time.Minute, "the seeder has checked its file", func() bool { _, ok := seed.Finished(); return ok })
	time.Sleep(500 * time.Millisecond) // it announces itself
	dir := w.Dir("theirs")
	leech := clientstest.StartLibtorrent(w, nil, t.Path, dir, e2etest.FreePort(b))
	up, down := e2etest.CPU(seed.PID()), e2etest.CPU(leech.PID())
	start := time.Now()
	leech.Go()
	var at time.Time
	w.Until(limit, "libtorrent has everything", func() (ok bool) {
		time.Sleep(10 * time.Millisecond)
		at, ok = leech.Finished()
		return ok
	})
	p = pair{took: at.Sub(start), seeder: e2etest.CPU(seed.PID()) - up, leecher: e2etest.CPU(leech.PID()) - down}
	w.MustRead(limit, e2etest.Read{Path: filepath.Join(dir, t.Name), Want: file.Path})
	return p
}

// wireAria2 runs between two hosts, as fast as loopback: aria2 wants no peer on loopback.
func wireAria2(b *round) (p pair) {
	clientstest.NeedLibtorrent(b) // makes the torrent
	w, file := onTmpfs(b)
	lan := w.Net()
	service, there, here := lan.Host(), lan.Host(), lan.Host()
	tr := service.Tracker()
	t := clientstest.Make(w, clientstest.V1, file.Path, 1<<20, tr.URL)
	seed := clientstest.Aria2(w, there, t, t.From, true)
	w.Until(time.Minute, "the seeder has checked its file", func() bool { return clientstest.Aria2Finished(seed) })
	time.Sleep(2 * time.Second) // it announces itself, and says nothing
	dir := w.Dir("theirs")
	up := e2etest.CPU(seed.PID())
	start := time.Now()
	leech := clientstest.Aria2(w, here, t, dir, false)
	w.Until(limit, "aria2 has everything", func() bool {
		time.Sleep(10 * time.Millisecond)
		return clientstest.Aria2Finished(leech)
	})
	p = pair{took: time.Since(start), seeder: e2etest.CPU(seed.PID()) - up, leecher: e2etest.CPU(leech.PID())}
	w.MustRead(limit, e2etest.Read{Path: filepath.Join(dir, t.Name), Want: file.Path})
	return p
}

func wirePantala(b *round) (p pair) {
	w, file := onTmpfs(b)
	seed := fresh(w)
	var said raceStatus
	// With a piece length of its own the link does not vouch for the SHA-256 of the whole file, which others do not compute.
	if out := seed.Must("share", "--piece-length", "1MiB", "-o", "json", file.Path); json.Unmarshal([]byte(out.Stdout), &said) != nil || said.Magnet == "" {
		b.Fatalf("share does not print a magnet link as JSON: %v", out)
	}
	n := fresh(w)
	leech, c := n.Start("daemon"), control.NewClient(n.State)
	w.Until(time.Minute, "the daemon answers", func() bool {
		_, err := c.Status(b.Context())
		return err == nil && !leech.Ended()
	})
	seeder := seed.PID()
	up, down := e2etest.CPU(seeder), e2etest.CPU(leech.PID())
	start, dir := time.Now(), w.Dir("mnt")
	n.MountAt(dir, said.Magnet, "--fill", "eager")
	w.Until(limit, "the cache has everything", func() bool {
		time.Sleep(10 * time.Millisecond)
		s, err := c.Status(b.Context())
		return err == nil && len(s.Mounts) == 1 && s.Mounts[0].Complete
	})
	p = pair{took: time.Since(start), seeder: e2etest.CPU(seeder) - up, leecher: e2etest.CPU(leech.PID()) - down}
	w.MustRead(limit, e2etest.Read{Path: filepath.Join(dir, name), Want: file.Path})
	return p
}
