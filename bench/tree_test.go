package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// BenchmarkTree is what stands between the indexes of an image's layers and its mount: merging them, writing the
// metadata to a file, mounting that. The image has 100 layers and 350 000 entries: a base of 102 000 in 3 400
// directories, then layers that replace a third of what they bring, add the rest, and whiten out a little. Reading the
// indexes is part of merging; read-cpu-s is how much of it.
func BenchmarkTree(b *testing.B) {
	layers, entries := manyLayers(b)
	dir := b.TempDir()
	meta, at := filepath.Join(dir, "meta"), filepath.Join(dir, "mnt")
	var devices []string
	for i := range layers {
		devices = append(devices, filepath.Join(dir, fmt.Sprint("layer", i)))
		if err := os.WriteFile(devices[i], nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		b.Fatal(err)
	}
	var read, merge, write, mount, heap, size samples
	inodes := 0
	for b.Loop() {
		runtime.GC()
		start := processCPU(b)
		for _, l := range layers {
			for _, err := range l.Entries {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		now := processCPU(b)
		read, start = append(read, now-start), now
		t, err := tree.Merge(layers)
		if err != nil {
			b.Fatal(err)
		}
		merged := processCPU(b)
		f, err := os.Create(meta)
		if err != nil {
			b.Fatal(err)
		}
		n, err := erofs.Write(f, t, erofs.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		merge, write = append(merge, merged-start), append(write, processCPU(b)-merged)
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		heap, size = append(heap, float64(memory.HeapSys-memory.HeapReleased)/(1<<20)), append(size, float64(n)/(1<<20))
		inodes = t.Len()
		if os.Geteuid() != 0 {
			continue
		}
		began := time.Now()
		if _, err := erofs.Mount(b.Context(), meta, devices, at); err != nil {
			b.Fatal(err)
		}
		mount = append(mount, float64(time.Since(began).Microseconds())/1000)
		if err := erofs.Unmount(b.Context(), at); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(read.median(), "read-cpu-s")
	b.ReportMetric(merge.median(), "merge-cpu-s")
	b.ReportMetric(write.median(), "write-cpu-s")
	b.ReportMetric(merge.median()+write.median(), "cpu-s")
	b.ReportMetric(mount.median(), "mount-ms")
	b.ReportMetric(heap.median(), "heap-MiB")
	b.ReportMetric(size.median(), "meta-MiB")
	b.ReportMetric(float64(entries), "entries")
	b.ReportMetric(float64(inodes), "inodes")
	hideTime(b)
}

// processCPU is the CPU time of this process so far, in seconds.
func processCPU(b *testing.B) float64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// manyLayers are layers whose entries come out of an index: expanded and decoded one by one.
func manyLayers(b *testing.B) (layers []tree.Layer, entries int) {
	const (
		count    = 100
		dirs     = 3400
		perDir   = 30
		perLayer = 2480
	)
	name := func(d, f int) string {
		return fmt.Sprintf("usr/lib/package-%d/share/module-%d/directory-%d/file-%d.so", d%17, d%101, d, f)
	}
	for l := range count {
		var list index.Entries
		at := int64(512)
		add := func(e index.Entry, size int64) {
			e.Mode, e.Sec, e.Nsec = 0o755, 1_700_000_000+int64(l), uint32(l)
			if size > 0 {
				e.Size, e.Extents = size, []index.Extent{{Device: at, Length: size}}
				at += (size + 511) &^ 511
			}
			at += 512
			if err := list.Add(e); err != nil {
				b.Fatal(err)
			}
		}
		if l == 0 {
			for d := range dirs {
				n := name(d, 0)
				add(index.Entry{Name: n[:strings.LastIndexByte(n, '/')+1], Type: '5'}, 0)
				for f := range perDir - 1 {
					switch {
					case f%13 == 12:
						add(index.Entry{Name: name(d, f), Type: '2', Link: "../target/of/a/link.so"}, 0)
					default:
						add(index.Entry{Name: name(d, f), Type: '0'}, int64(f*1000+1))
					}
				}
			}
		} else {
			for i := range perLayer {
				d := (l*37 + i/20) % dirs
				switch {
				case i%20 == 0:
					n := name(d, 0)
					add(index.Entry{Name: n[:strings.LastIndexByte(n, '/')], Type: '5'}, 0)
				case i%20 == 19 && i%100 == 99:
					n := name(d, 29)
					slash := strings.LastIndexByte(n, '/') + 1
					add(index.Entry{Name: n[:slash] + ".wh." + n[slash:], Type: '0'}, 0)
				case i%3 == 0:
					add(index.Entry{Name: name(d, i%20), Type: '0'}, int64(i))
				default:
					add(index.Entry{Name: name(d, 1000*l+i%20), Type: '0'}, int64(i))
				}
			}
		}
		entries += list.Len()
		layers = append(layers, tree.Layer{Name: fmt.Sprintf("layer %d", l), Size: at, Entries: list.All()})
	}
	return layers, entries
}
