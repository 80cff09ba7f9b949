package clientstest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Port is where every client listens for peers on its host.
const Port = 6881

// Client is a program that people use.
type Client struct {
	Name  string
	Lacks map[Kind]string // kinds of torrents that it cannot take, and why
	NoUDP string          // why it asks no tracker over UDP; "": it does
	need  func(t testing.TB)
	start func(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, seed bool)
}

// Clients are all of them.
var Clients = []Client{
	{"libtorrent", nil, "", NeedLibtorrent, func(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, _ bool) {
		StartLibtorrent(w, h, t.Path, dir, Port).Go()
	}},
	{"aria2", map[Kind]string{
		V2:     "aria2 1.36 knows BEP 3 only",
		Hybrid: "aria2 1.36 computes another infohash: it encodes the info dictionary anew, without the empty keys of a file tree",
	}, "aria2 does so only together with its DHT", program("aria2c", "apt-get install aria2"), func(w *e2etest.World, h *e2etest.Host, t Torrent, dir string, seed bool) {
		Aria2(w, h, t, dir, seed)
	}},
	{"transmission", map[Kind]string{
		V2:     "Transmission 3.00 knows BEP 3 only",
		Hybrid: "Transmission 3.00 refuses the file: its parser takes the empty keys of a file tree for an error",
	}, "", program("transmission-daemon", "apt-get install transmission-daemon"), transmission},
	{"qbittorrent", nil, "", program("qbittorrent-nox", "apt-get install qbittorrent-nox"), qbittorrent},
	{"anacrolix", nil, "", needAnacrolix, anacrolix},
}

// Need is [e2etest.Need] for the client.
func (c Client) Need(t testing.TB) {
	t.Helper()
	c.need(t)
}

func program(name, do string) func(testing.TB) {
	return func(t testing.TB) {
		t.Helper()
		e2etest.NeedProgram(t, name, do)
	}
}

// Seed starts the client with everything in dir, which holds t.Name.
func (c Client) Seed(w *e2etest.World, h *e2etest.Host, t Torrent, dir string) {
	c.start(w, h, t, dir, true)
}

// Download starts the client with an empty dir, where t.Name is going to be, see [Client.Place].
func (c Client) Download(w *e2etest.World, h *e2etest.Host, t Torrent, dir string) {
	c.start(w, h, t, dir, false)
}

// Place is where in its folder the client has what a torrent describes. anacrolix keeps the file of a v2 torrent that
// has only one in a folder of the same name.
func (c Client) Place(t Torrent, single bool) string {
	if c.Name == "anacrolix" && single && t.Kind != V1 {
		return filepath.Join(t.Name, t.Name)
	}
	return t.Name
}

// child starts a client that ends at the end of the test: politely within a few seconds, or not.
func child(w *e2etest.World, h *e2etest.Host, c e2etest.Command) *e2etest.Process {
	w.T.Helper()
	c.Host = h // nil: on loopback
	p := w.Start(c)
	w.Defer(func() {
		p.Signal(15)
		r := p.Wait(5 * time.Second)
		if w.T.Failed() {
			w.T.Logf("%.3000s", r.String())
		}
	})
	return p
}

// Same waits until a file or folder has the same content as another one, which is what says that a client has
// finished, whatever it says itself. Files that are only in got (a client's notes, padding) do not matter.
func Same(limit time.Duration, want, got string) error {
	var err error
	e2etest.Poll(limit, func() bool {
		if err = same(want, got); err != nil {
			time.Sleep(100 * time.Millisecond) // a look costs the reading of all files that seem complete
		}
		return err == nil
	})
	return err
}

func same(want, got string) error {
	return filepath.WalkDir(want, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		a, err := os.Stat(path)
		if err != nil {
			return err
		}
		other := filepath.Join(got, rel)
		if b, err := os.Stat(other); err != nil || b.Size() != a.Size() {
			return fmt.Errorf("%s: not all there yet: %v", other, err)
		}
		x, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if y, err := os.ReadFile(other); err != nil || !bytes.Equal(x, y) {
			return fmt.Errorf("%s: other bytes than %s, %v", other, path, err)
		}
		return nil
	})
}

// Copy copies a file or folder, for a client to have as its own.
func Copy(w *e2etest.World, from, to string) {
	w.T.Helper()
	w.MustRun(time.Minute, "cp", "-r", from, to)
}
