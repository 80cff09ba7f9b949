package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/clients/clientstest"
	"github.com/pantala/pantala/e2e/e2etest"
)

// interopCell is one meeting of a client and pantala.
type interopCell struct {
	client  clientstest.Client
	kind    clientstest.Kind
	folder  bool // the torrent has several files
	seeds   bool // the client has the files, and pantala wants them; else the other way round
	tracker string
}

const (
	ourHTTP, ourUDP     = "ours, HTTP", "ours, UDP"
	otherHTTP, otherUDP = "opentracker, HTTP", "opentracker, UDP"
)

func (c interopCell) String() string {
	return fmt.Sprintf("%s/%s/%s/%s/%s", c.client.Name, c.kind, map[bool]string{true: "folder", false: "file"}[c.folder],
		map[bool]string{true: "seeds", false: "downloads"}[c.seeds], strings.NewReplacer(", ", "-", " ", "-").Replace(c.tracker))
}

// interopLimit bounds one exchange of 4 MiB: Transmission looks whom to serve every 10 s, libtorrent asks a tracker
// that knew nobody again after 30 s, and anacrolix after 60 s, until when nobody meets it if it must dial (v2).
const interopLimit = 2 * time.Minute

// interopParallel is how many cells meet at once: they wait for timers of clients most of the time.
const interopParallel = 8

// Every client that people use exchanges every kind of torrent with pantala that it can, in both directions, over
// our tracker and another one. Prints a table.
func TestInterop(t *testing.T) {
	e2etest.NeedFUSE(t)
	e2etest.NeedNet(t)
	clientstest.NeedLibtorrent(t)
	clientstest.NeedOpentracker(t)
	var cells []interopCell
	for _, c := range clientstest.Clients {
		c.Need(t)
		for _, kind := range []clientstest.Kind{clientstest.V1, clientstest.V2, clientstest.Hybrid} {
			if c.Lacks[kind] != "" {
				continue
			}
			for _, seeds := range []bool{true, false} {
				udp := ourUDP
				if c.NoUDP != "" {
					udp = ourHTTP
				}
				cells = append(cells, interopCell{c, kind, false, seeds, ourHTTP}, interopCell{c, kind, true, seeds, udp})
				if c.Name == "libtorrent" {
					cells = append(cells, interopCell{c, kind, true, seeds, otherHTTP}, interopCell{c, kind, false, seeds, otherUDP})
				}
			}
		}
	}
	var mu sync.Mutex
	results := map[string]string{}
	took := map[string]time.Duration{}
	limit := make(chan struct{}, interopParallel)
	var wg sync.WaitGroup
	for _, c := range cells {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			start := time.Now()
			ok := t.Run(c.String(), func(t *testing.T) { c.meet(t) })
			mu.Lock()
			defer mu.Unlock()
			results[c.String()] = map[bool]string{true: "ok", false: "FAIL"}[ok]
			took[c.String()] = time.Since(start)
		})
	}
	wg.Wait()
	var table strings.Builder
	fmt.Fprintf(&table, "%-13s %-7s %-7s %-18s %-15s %s\n", "client", "torrent", "of", "tracker", "client → us", "us → client")
	for _, c := range cells {
		if !c.seeds {
			continue
		}
		back := c
		back.seeds = false
		say := func(c interopCell) string {
			return fmt.Sprintf("%s (%.1f s)", results[c.String()], took[c.String()].Seconds())
		}
		fmt.Fprintf(&table, "%-13s %-7s %-7s %-18s %-15s %s\n", c.client.Name, c.kind, map[bool]string{true: "folder", false: "file"}[c.folder], c.tracker, say(c), say(back))
	}
	for _, c := range clientstest.Clients {
		for _, kind := range []clientstest.Kind{clientstest.V2, clientstest.Hybrid} {
			if why := c.Lacks[kind]; why != "" {
				fmt.Fprintf(&table, "%-13s %-7s n.a.: %s\n", c.Name, kind, why)
			}
		}
	}
	t.Logf("\n%s", table.String())
}

func (c interopCell) meet(t *testing.T) {
	w := e2etest.New(t)
	lan := w.Net()
	service, them, us := lan.Host(), lan.Host(), lan.Host()
	node := us.Node("node", "--lsd", "off", "--timeout", interopLimit.String())
	content := e2etest.Content(t, 3<<20+4321, 31).Path
	if c.folder {
		content = clientstest.Tree(w, "folder")
	}
	url := map[string]string{
		ourHTTP: "http://" + service.IP + ":7700/announce", ourUDP: "udp://" + service.IP + ":7700/announce",
		otherHTTP: "http://" + service.IP + ":6969/announce", otherUDP: "udp://" + service.IP + ":6969/announce",
	}[c.tracker]
	listed := c.tracker == otherHTTP || c.tracker == otherUDP // it serves what is on a list
	if !listed {
		service.Tracker()
	}
	if c.seeds {
		tor := clientstest.Make(w, c.kind, content, 0, url)
		if listed {
			clientstest.Opentracker(w, service, tor.Hashes...)
		}
		theirs := w.Dir("theirs")
		place := filepath.Join(theirs, c.client.Place(tor, !c.folder))
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		clientstest.Copy(w, content, place)
		c.client.Seed(w, them, tor, theirs)
		if c.folder { // as a mount, whose files are read while they come
			dir := w.Dir("mnt")
			node.MountAt(dir, tor.Path, "--fill", "eager")
			if r := w.Run(interopLimit, "diff", "-r", content, dir); r.Code != 0 {
				t.Errorf("the mounted torrent is not what was seeded: %v", r)
			}
		} else {
			out := filepath.Join(w.Dir("get"), "out")
			if r := node.Start("get", "-q", "-O", out, tor.Path).Wait(interopLimit); r.Code != 0 {
				t.Fatalf("%v", r)
			}
			if err := clientstest.Same(0, content, out); err != nil {
				t.Error(err)
			}
		}
		return
	}
	tor := clientstest.Torrent{Kind: c.kind, Path: filepath.Join(w.Dir("torrent"), "x.torrent"), Name: filepath.Base(content), From: filepath.Dir(content)}
	args := []string{"--torrent", tor.Path, "--tracker", url, "--piece-length", "64KiB"}
	switch c.kind {
	case clientstest.V1:
		args = append(args, "--v1")
	case clientstest.Hybrid:
		args = append(args, "--hybrid")
	default:
		if !c.folder { // its name in the torrent is its digest
			args = args[:4]
			tor.Name = "sha256:" + e2etest.Content(t, 3<<20+4321, 31).SHA256
		}
	}
	said := shareTree(t, node, append(args, content)...)
	var hashes []string
	for _, h := range []string{said.InfoHash, said.InfoHashV1} {
		if h != "" {
			hashes = append(hashes, h[:40])
		}
	}
	if listed {
		clientstest.Opentracker(w, service, hashes...)
	}
	if _, err := os.Stat(tor.Path); err != nil {
		t.Fatal(err)
	}
	if !listed {
		// anacrolix lets nobody in that dials it for a v2 torrent, and crashes five seconds later if it lacks
		// something then: it had better find us by its first announce.
		e2etest.Poll(2*time.Second, func() bool {
			out := node.Run("status", "-o", "json").Stdout
			return strings.Contains(out, `"state": "solo"`) || strings.Contains(out, `"state": "shared"`)
		})
	}
	dir := w.Dir("theirs")
	c.client.Download(w, them, tor, dir)
	if err := clientstest.Same(interopLimit, content, filepath.Join(dir, c.client.Place(tor, !c.folder))); err != nil {
		t.Errorf("%s has not got what we share: %v", c.client.Name, err)
	}
}

// A client that knows only a magnet link is told of us by our tracker, though it says that nothing is left, and gets the
// info dictionary from us (BEP 9).
func TestInteropMagnet(t *testing.T) {
	e2etest.NeedFUSE(t)
	e2etest.NeedNet(t)
	w := e2etest.New(t)
	lan := w.Net()
	service, them, us := lan.Host(), lan.Host(), lan.Host()
	service.Tracker()
	node := us.Node("node", "--lsd", "off")
	content := e2etest.Content(t, 3<<20+4321, 31).Path
	said := shareTree(t, node, "--v1", "--tracker", "http://"+service.IP+":7700/announce", "--piece-length", "64KiB", content)
	dir := w.Dir("theirs")
	clientstest.Aria2(w, them, clientstest.Torrent{Kind: clientstest.V1, Path: said.Magnet}, dir, false)
	if err := clientstest.Same(interopLimit, content, filepath.Join(dir, filepath.Base(content))); err != nil {
		t.Error(err)
	}
}
