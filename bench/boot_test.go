package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/e2e/images/imagestest"
)

// bootImage is a race: an image of BENCH_IMAGES, and what is started of it.
type bootImage struct {
	name, tag string
	args      []string
}

var bootImages = []bootImage{
	{"py", "py", []string{"/usr/bin/python3", "/app/app.py"}},     // 83 MB, 3 layers
	{"big", "big", []string{"/usr/bin/node", "/app/app.js"}},      // 644 MB, 9 layers, 52 k entries
	{"heavy", "big", []string{"/usr/bin/python3", "/app/sci.py"}}, // the same with numpy, pandas and scipy
}

// bootLink is what lies between the registry and the others. Only the registry is limited: between the machines of a
// cluster there is what the kernel gives.
type bootLink struct {
	name, rate string
	bits       float64 // of rate, a second; 0: no limit
	rtt        time.Duration
}

var bootLinks = []bootLink{
	{"100mbit", "100mbit", 1e8, 0},
	{"1gbit", "1gbit", 1e9, 0},
	{"1gbit+20ms", "1gbit", 1e9, 20 * time.Millisecond},
	{"unshaped", "", 0, 0},
}

// bootSystem is a way to boot.
type bootSystem struct {
	name     string
	programs []string // of a rival
	// convert makes what the registry has to have of the image, and says what that has cost in CPU seconds.
	convert func(s *bootStage) (cpu float64)
	// prepare is what has to have happened, once for all links.
	prepare func(s *bootStage)
	// machine is a fresh one.
	machine func(s *bootStage, link bootLink) *bootMachine
	ordered bool // the tracker knows what is read first
}

// bootMachine is a machine that has nothing yet.
type bootMachine struct {
	*imagestest.Containerd
	snapshotter, ref string
	pid              int // of whoever fetches and serves
	end              func()
}

var bootSystems = []bootSystem{
	{name: "overlayfs", machine: overlayfsMachine},
	{name: "first", machine: func(s *bootStage, link bootLink) *bootMachine {
		s.newTracker()
		return s.pantala(link)
	}},
	{name: "next-registry", prepare: (*bootStage).prepareIndex, machine: func(s *bootStage, link bootLink) *bootMachine {
		s.reindex()
		return s.pantala(link)
	}},
	{name: "next-profile", prepare: (*bootStage).prepareProfile, machine: (*bootStage).pantala, ordered: true},
	{name: "next-peers", prepare: (*bootStage).preparePeers, machine: (*bootStage).pantala, ordered: true},
	{name: "stargz", programs: stargzPrograms, convert: convertStargz, machine: stargzMachine},
	{name: "stargz-optimized", programs: stargzPrograms, convert: optimizeStargz, machine: stargzMachine},
	{name: "soci", programs: sociPrograms, convert: convertSOCI, machine: sociMachine},
}

// bootRest is when a machine counts as at rest: memory that is only on its way back to the system is no need.
const bootRest = time.Second

// BenchmarkBoot pulls an image with containerd and runs a program of it, on a machine that has nothing of it:
//
//	overlayfs         containerd alone: fetches and unpacks everything first
//	first             pantala, the first machine that ever wants the image
//	next-registry     pantala after another one, from whom it has the index and nothing else
//	next-profile      the same, after one more: the tracker knows what is read first
//	next-peers        pantala beside one that has the data, the tracker knows what is read first
//	stargz            stargz-snapshotter, the image converted to eStargz before
//	stargz-optimized  the same, converted by ctr-remote image optimize with the program that is run here
//	soci              soci-snapshotter, the image indexed before (SOCI index manifest v2)
//
// The names are IMAGE/SYSTEM/LINK, so that -bench 'Boot/big/(next|soci)/1gbit$' is a part; -benchtime 3x takes medians of
// three. All at once takes half an hour a round of -benchtime, most of it at 100 Mbit/s. At the end there is a table.
//
// s-first is seconds from the beginning of the pull to the first line of output, s-pull what of it the pull took,
// MB-registry what the registry sent until the program had ended, in 10^6 bytes with headers, s-link how long the link
// takes for that at least. MiB-rss and MiB-peak are the resident memory of whoever fetches and serves, bootRest after the
// program has ended and at most until then: that of pantala, of the rival's snapshotter, or of containerd. cpu-s-convert is what the
// conversion took, once.
//
// CONTAINERD2_BIN takes another containerd than Debian's; the rivals need that (make containerd2). It wants BENCH_IMAGES,
// an OCI layout with the tags py and big (make bench-images); what the registry keeps stays there.
func BenchmarkBoot(b *testing.B) {
	layout := os.Getenv("BENCH_IMAGES")
	if layout == "" {
		b.Skip("no images: make bench-images, then BENCH_IMAGES=bin/images")
	}
	layout, err := filepath.Abs(layout)
	if err != nil {
		b.Fatal(err)
	}
	versions := imagestest.Versions(b)
	var rows bootTable
	for _, image := range bootImages {
		for _, system := range bootSystems {
			b.Run(image.name+"/"+system.name, func(all *testing.B) {
				var s *bootStage // made by the first link that is wanted
				defer func() {
					if s != nil {
						s.w.End()
					}
				}()
				for _, link := range bootLinks {
					all.Run(link.name, func(b *testing.B) {
						if s == nil {
							s = newBootStage(b, all, layout, image, system, versions[len(versions)-1])
						}
						s.race(b, link, &rows)
					})
				}
			})
		}
	}
	rows.print(os.Stdout)
}

// race boots on fresh machines.
func (s *bootStage) race(b *testing.B, link bootLink, rows *bootTable) {
	s.w.T = b // what fails, fails this benchmark
	defer func() { s.w.T = s.all }()
	var first, pull, moved, rss, peak samples
	for b.Loop() {
		s.registry.Uncap()
		m := s.system.machine(s, link)
		if link.rate != "" {
			s.registry.Cap(link.rate)
		}
		unix.Sync() // what earlier machines have written is not this one's to wait for
		before, _ := s.registry.Wire()
		booted := m.Boot(m.snapshotter, m.ref, s.image.args...)
		after, _ := s.registry.Wire()
		time.Sleep(bootRest)
		now, _, most := e2etest.RSS(m.pid)
		if booted.Line != "ready" {
			b.Fatalf("the program says %q", booted.Line)
		}
		first = append(first, booted.First.Seconds())
		pull = append(pull, booted.Pull.Seconds())
		moved = append(moved, float64(after-before)/1e6)
		rss = append(rss, float64(now)/(1<<20))
		peak = append(peak, float64(most)/(1<<20))
		if s.system.ordered {
			s.w.Until(limit, "it has fetched ahead what is read first", func() bool {
				return strings.Contains(m.Pantala().Output(), "fetched ahead what is read first")
			})
		}
		m.end()
	}
	hideTime(b)
	b.ReportMetric(first.median(), "s-first")
	b.ReportMetric(pull.median(), "s-pull")
	b.ReportMetric(moved.median(), "MB-registry")
	if link.bits > 0 {
		b.ReportMetric(moved.median()*8e6/link.bits, "s-link")
	}
	b.ReportMetric(rss.median(), "MiB-rss")
	b.ReportMetric(peak.median(), "MiB-peak")
	if s.converted > 0 {
		b.ReportMetric(s.converted, "cpu-s-convert")
	}
	rows.add(s.image.name, link.name, s.system.name, fmt.Sprintf("%.2f s, %.3g MB, %.0f/%.0f", first.median(), moved.median(), rss.median(), peak.median()))
}

// bootTable is what has been measured, for those who read.
type bootTable struct {
	cells map[[3]string]string // by image, link, system
}

func (t *bootTable) add(image, link, system, cell string) {
	if t.cells == nil {
		t.cells = map[[3]string]string{}
	}
	t.cells[[3]string{image, link, system}] = cell
}

// print writes Markdown: a row for each image and link, a column for each system.
func (t *bootTable) print(w io.Writer) {
	if len(t.cells) == 0 {
		return
	}
	head, line := []string{"image, link"}, []string{"---"}
	for _, s := range bootSystems {
		head, line = append(head, s.name), append(line, "---")
	}
	fmt.Fprintf(w, "first line, from the registry, MiB resident afterwards/at most\n\n| %s |\n|%s|\n", strings.Join(head, " | "), strings.Join(line, "|"))
	for _, image := range bootImages {
		for _, link := range bootLinks {
			row, some := []string{image.name + ", " + link.name}, false
			for _, s := range bootSystems {
				cell := t.cells[[3]string{image.name, link.name, s.name}]
				row, some = append(row, cell), some || cell != ""
			}
			if some {
				fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
			}
		}
	}
}
