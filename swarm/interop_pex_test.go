package swarm_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/pantala/pantala/swarm"
)

// TestLibtorrentLearnsPeers: libtorrent is told of a node that has nothing, and learns from it where to get all.
func TestLibtorrentLearnsPeers(t *testing.T) {
	needLibtorrent(t)
	c := newCanonical(t, 1<<20+77)
	a, b := newNode(t, swarm.Options{}), newNode(t, swarm.Options{})
	if _, err := a.Add(c.config(seed(t, c.geo, c.data))); err != nil {
		t.Fatal(err)
	}
	tb, err := b.Add(c.config(empty(t, c.geo)))
	if err != nil {
		t.Fatal(err)
	}
	tb.AddPeers(a.Addr())
	until(t, "the two are connected", func() bool { return len(tb.Peers()) == 1 })
	dir := t.TempDir()
	p := startLibtorrent(t, c, dir, b.Addr().String())
	p.expect(t, "SEEDING")
	got, err := os.ReadFile(filepath.Join(dir, c.file))
	if err != nil || !bytes.Equal(got, c.data) {
		t.Errorf("bytes differ, %v", err)
	}
}
