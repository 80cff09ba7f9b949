package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/origin/origintest"
)

// writeTree writes files below a directory called "set", with an executable, a link and an empty file among them.
func writeTree(t testing.TB) (root string, files map[string][]byte) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "set")
	files = map[string][]byte{
		"a/one.bin": origintest.Bytes(11, 700_001), "a/two.bin": origintest.Bytes(12, 1<<20), "run.sh": []byte("#!/bin/sh\n"),
		"empty": {}, "z/same": origintest.Bytes(12, 1<<20), "z/tiny": {7},
	}
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(root, "run.sh"), 0o755), os.Symlink("../a/one.bin", filepath.Join(root, "z", "link"))); err != nil {
		t.Fatal(err)
	}
	return root, files
}

// sameTree checks that a directory has the files and nothing else.
func sameTree(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	got := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || e.IsDir():
			return err
		case rel == "z/link":
			to, err := os.Readlink(path)
			if to != "../a/one.bin" {
				t.Errorf("%s leads to %q", rel, to)
			}
			return err
		}
		b, err := os.ReadFile(path)
		if !bytes.Equal(b, files[rel]) {
			t.Errorf("%s: %d bytes differ from %d", rel, len(b), len(files[rel]))
		}
		if st, _ := e.Info(); (st.Mode()&0o100 != 0) != (rel == "run.sh") {
			t.Errorf("%s has mode %v", rel, st.Mode())
		}
		got[rel] = len(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	for name, data := range files {
		want[name] = len(data)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// getTree downloads a torrent of several files into a new directory.
func getTree(t testing.TB, n *Node, source string, o control.Options) (dir string, st control.Transfer) {
	t.Helper()
	d, err := n.Download(patient(t), source, o, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "out")
	if err := d.Place(dir); err != nil {
		t.Fatal(err)
	}
	return dir, d.Status()
}

// writeTorrent puts a .torrent where a source can name it.
func writeTorrent(t testing.TB, content []byte) (source string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.torrent")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

var torrentVersions = []string{"v1", "v2", "hybrid"}

// TestShareTree: a directory that one node shares, another gets by the .torrent and by the bare magnet link.
func TestShareTree(t *testing.T) {
	root, files := writeTree(t)
	for _, version := range torrentVersions {
		t.Run(version, func(t *testing.T) {
			announce := startTracker(t)
			first := start(t, conf(t, announce))
			reply, err := first.Share(patient(t), control.ShareRequest{Path: root, Version: version, WantTorrent: true}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if reply.Files != 7 || (reply.InfoHash == "") != (version == "v1") || (reply.InfoHashV1 == "") != (version == "v2") {
				t.Errorf("%+v", reply)
			}
			bare, err := metainfo.ParseMagnet(reply.Magnet)
			if err != nil {
				t.Fatal(err)
			}
			if bare.Peers == nil || bare.Trackers == nil || bare.HasCanonical {
				t.Errorf("%+v", bare)
			}
			bare.Peers = nil // by the tracker alone
			for how, source := range map[string]string{"torrent": writeTorrent(t, reply.Torrent), "magnet": bare.String()} {
				dir, st := getTree(t, start(t, conf(t)), source, control.Options{})
				sameTree(t, dir, files)
				if st.FromPeers == 0 || st.FromOrigin != 0 || !st.Complete || st.Size != reply.Size {
					t.Errorf("%s: %+v", how, st)
				}
			}
			status, err := first.Status(patient(t))
			if err != nil || len(status.Shares) != 1 || status.Shares[0].Files != 7 || status.Shares[0].Uploaded == 0 || len(status.Trackers) == 0 {
				t.Errorf("%+v, %v", status, err)
			}
			if err := first.Unshare(patient(t), root); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestShareSingle: the same for one file, which keeps its name in a hybrid or v1 torrent.
func TestShareSingle(t *testing.T) {
	for _, version := range torrentVersions {
		for _, size := range []int{0, 5, 256 << 10, 3<<20 + 1} {
			t.Run(fmt.Sprint(version, size), func(t *testing.T) {
				want := origintest.Bytes(21, size)
				path := filepath.Join(t.TempDir(), "model.bin")
				if err := os.WriteFile(path, want, 0o644); err != nil {
					t.Fatal(err)
				}
				first := start(t, conf(t))
				reply, err := first.Share(patient(t), control.ShareRequest{Path: path, Version: version, WantTorrent: true}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(reply.Digest, "sha256:") || reply.Files != 0 {
					t.Errorf("%+v", reply)
				}
				m, err := metainfo.Parse(bytes.NewReader(reply.Torrent))
				if err != nil || m.Info.Kind() != version || version != "v2" && m.Info.Name != "model.bin" {
					t.Fatalf("%v, %v", m, err)
				}
				source := reply.Magnet // it names the first node
				got, st := fetchAll(t, start(t, conf(t)), source, control.Options{Digest: reply.Digest})
				if !bytes.Equal(got, want) || st.FromPeers != int64(size) {
					t.Errorf("%d bytes, %+v", len(got), st)
				}
			})
		}
	}
}

// TestCanonicalTorrent: the .torrent of a v2 file leads to the same swarm as its link.
func TestCanonicalTorrent(t *testing.T) {
	want := origintest.Bytes(22, 1<<20)
	path := filepath.Join(t.TempDir(), "model.bin")
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	announce := startTracker(t)
	first := start(t, conf(t, announce))
	reply, err := first.Share(patient(t), control.ShareRequest{Path: path, WantTorrent: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	torrent, err := metainfo.Parse(bytes.NewReader(reply.Torrent))
	if err != nil {
		t.Fatal(err)
	}
	link := metainfo.Magnet{V2: torrent.Info.InfoHashV2, Size: -1, Trackers: torrent.Trackers()}
	for _, source := range []string{writeTorrent(t, reply.Torrent), link.String(), reply.Magnet} {
		n := start(t, conf(t))
		d, err := n.Download(patient(t), source, control.Options{}, 0, noProgress)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Wait(patient(t), d.Named(), func(control.Transfer) {}); err != nil {
			t.Error(err)
		}
		if d.ID().String() != reply.ID || "sha256:"+d.Named().String() != reply.Digest {
			t.Errorf("%s is %v, want %s", source, d.ID(), reply.ID)
		}
		d.Close()
	}
}

// TestTorrentsShareFiles: a file that is in two torrents is one blob, fetched once, from the swarm of either.
func TestTorrentsShareFiles(t *testing.T) {
	root, files := writeTree(t)
	seed := start(t, conf(t))
	share := func(name string) control.ShareReply {
		path := root
		if name != "" {
			path = filepath.Join(root, name)
		}
		reply, err := seed.Share(patient(t), control.ShareRequest{Path: path, Version: "hybrid", PieceLength: 1 << 18}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	all, one := share(""), share("a/two.bin")
	n := start(t, conf(t))
	d, err := n.Download(patient(t), one.Magnet, control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	dir, st := getTree(t, n, all.Magnet, control.Options{})
	sameTree(t, dir, files)
	if want := int64(700_001 + 10 + 1); st.FromPeers != want {
		t.Errorf("%d bytes from peers, want %d", st.FromPeers, want)
	}
}

// TestTorrentAgainOffline: what was opened once can be opened again when nobody is there.
func TestTorrentAgainOffline(t *testing.T) {
	root, files := writeTree(t)
	for _, version := range torrentVersions {
		first := start(t, conf(t))
		reply, err := first.Share(patient(t), control.ShareRequest{Path: root, Version: version}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := conf(t)
		n := start(t, c)
		getTree(t, n, reply.Magnet, control.Options{})
		if err := errors.Join(n.Close(patient(t)), first.Close(patient(t))); err != nil {
			t.Fatal(err)
		}
		m, _ := metainfo.ParseMagnet(reply.Magnet)
		m.Peers, m.Trackers = nil, nil
		dir, st := getTree(t, start(t, c), m.String(), control.Options{})
		sameTree(t, dir, files)
		if st.FromPeers != 0 {
			t.Errorf("%s: %+v", version, st)
		}
	}
}

// TestTorrentURL: a .torrent behind a URL, which is remembered for when the server is away.
func TestTorrentURL(t *testing.T) {
	root, files := writeTree(t)
	first := start(t, conf(t))
	announce := startTracker(t)
	reply, err := first.Share(patient(t), control.ShareRequest{Path: root, WantTorrent: true, Options: control.Options{Trackers: []string{announce}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.torrent", time.Unix(1, 0), bytes.NewReader(reply.Torrent))
	}))
	defer s.Close()
	c := conf(t)
	c.Timeout = 2 * time.Second
	n := start(t, c)
	dir, _ := getTree(t, n, s.URL+"/x.torrent", control.Options{})
	sameTree(t, dir, files)
	s.Close()
	d, err := n.Download(patient(t), s.URL+"/x.torrent", control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "last time") || d.Status().Present != reply.Size {
		t.Errorf("%q %+v", d.Warnings, d.Status())
	}
}

// TestWebSeeds: with nobody but an HTTP server that has the files, they come from there, and wrong bytes do not.
func TestWebSeeds(t *testing.T) {
	root, files := writeTree(t)
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(root))))
	defer server.Close()
	single := filepath.Join(root, "a", "one.bin")
	for _, version := range torrentVersions {
		t.Run(version, func(t *testing.T) {
			torrent := func(path, seed string) string {
				n := start(t, conf(t))
				reply, err := n.Share(patient(t), control.ShareRequest{Path: path, Version: version, WantTorrent: true, WebSeeds: []string{seed}, PieceLength: 1 << 16}, nil)
				if err != nil {
					t.Fatal(err)
				}
				return writeTorrent(t, reply.Torrent)
			}
			dir, st := getTree(t, start(t, conf(t)), torrent(root, server.URL+"/"), control.Options{})
			sameTree(t, dir, files)
			if st.FromOrigin == 0 || st.FromPeers != 0 {
				t.Errorf("%+v", st)
			}
			if version == "v2" { // the torrent that everybody derives, by its .torrent and, in one piece, by its link
				n := start(t, conf(t))
				for path, size := range map[string]int{"a/one.bin": 700_001, "run.sh": 10} {
					reply, err := n.Share(patient(t), control.ShareRequest{Path: filepath.Join(root, path), WantTorrent: true, WebSeeds: []string{server.URL + "/set/" + path}}, nil)
					if err != nil {
						t.Fatal(err)
					}
					link, _ := metainfo.ParseMagnet(reply.Magnet)
					if link.Peers = nil; !link.HasCanonical || len(link.WebSeeds) != 1 {
						t.Errorf("%s", reply.Magnet)
					}
					sources := []string{writeTorrent(t, reply.Torrent)}
					if size == 10 {
						sources = append(sources, link.String())
					}
					for _, source := range sources {
						got, st := fetchAll(t, start(t, conf(t)), source, control.Options{})
						if !bytes.Equal(got, files[path]) || st.FromOrigin != int64(size) {
							t.Errorf("%s: %d bytes, %+v", path, len(got), st)
						}
					}
				}
			}
			for _, seed := range []string{"/set/a/one.bin", "/set/a/"} {
				got, _ := fetchAll(t, start(t, conf(t)), torrent(single, server.URL+seed), control.Options{})
				if !bytes.Equal(got, files["a/one.bin"]) {
					t.Error("bytes differ")
				}
			}
			lies := bytes.Clone(files["a/one.bin"])
			lies[70_000] ^= 1
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"x"`)
				http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(lies))
			}))
			defer bad.Close()
			c := conf(t)
			c.Timeout = 2 * time.Second
			d, err := start(t, c).Download(patient(t), torrent(single, bad.URL+"/one.bin"), control.Options{}, 0, noProgress)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); !errors.Is(err, blob.ErrUnavailable) {
				t.Errorf("wrong bytes: %v", err)
			}
		})
	}
}

// TestShareFrom: the files of somebody else's torrent are shared from where they are, if they are the right ones.
func TestShareFrom(t *testing.T) {
	root, files := writeTree(t)
	for _, version := range torrentVersions {
		maker := start(t, conf(t))
		reply, err := maker.Share(patient(t), control.ShareRequest{Path: root, Version: version, WantTorrent: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		source := writeTorrent(t, reply.Torrent)
		n := start(t, conf(t))
		for _, from := range []string{root, filepath.Dir(root)} {
			again, err := n.Share(patient(t), control.ShareRequest{URL: source, From: from}, nil)
			if err != nil || again.ID != reply.ID {
				t.Fatalf("%s: %+v, %v", version, again, err)
			}
			if from == root {
				dir, _ := getTree(t, start(t, conf(t)), again.Magnet, control.Options{})
				sameTree(t, dir, files)
			}
		}
		other, _ := writeTree(t)
		path := filepath.Join(other, "a", "one.bin")
		b, _ := os.ReadFile(path)
		b[600_000] ^= 1
		os.WriteFile(path, b, 0o644)
		if _, err := start(t, conf(t)).Share(patient(t), control.ShareRequest{URL: source, From: other}, nil); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: altered: %v", version, err)
		}
		os.Remove(path)
		if _, err := start(t, conf(t)).Share(patient(t), control.ShareRequest{URL: source, From: other}, nil); !errors.Is(err, control.ErrLocal) {
			t.Errorf("%s: missing: %v", version, err)
		}
	}
}

// TestMagnetSelects: only what the link selects (BEP 53) is fetched and placed.
func TestMagnetSelects(t *testing.T) {
	root, files := writeTree(t)
	first := start(t, conf(t))
	reply, err := first.Share(patient(t), control.ShareRequest{Path: root}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, st := getTree(t, start(t, conf(t)), reply.Magnet+"&so=0,5", control.Options{})
	for name := range files {
		_, err := os.Stat(filepath.Join(dir, name))
		if want := name == "a/one.bin" || name == "z/same"; (err == nil) != want && name != "a/two.bin" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st.FromPeers != 700_001+1<<20 {
		t.Errorf("%+v", st)
	}
}

func TestTorrentErrors(t *testing.T) {
	c := conf(t)
	c.Timeout = 300 * time.Millisecond
	n := start(t, c)
	nobody := strings.Repeat("ab", 20)
	for source, want := range map[string]struct {
		is   error
		text string
	}{
		"magnet:?xt=urn:btih:" + nobody:                                               {blob.ErrUnavailable, "name one with --tracker"},
		"magnet:?xt=urn:btih:" + nobody + "&x.pe=127.0.0.1:9":                         {blob.ErrUnavailable, ".torrent"},
		"magnet:?xt=urn:btih:" + nobody + "&tr=http%3A%2F%2F127.0.0.1%3A9%2Fannounce": {blob.ErrUnavailable, "name another --tracker"},
		"magnet:?dn=x": {blob.ErrInvalid, "no infohash"},
		writeTorrent(t, []byte("<html>nothing</html>")): {blob.ErrInvalid, "is it the right file"},
		writeTorrent(t, []byte("d4:infod4:name1:x")):    {blob.ErrInvalid, "is it complete"},
		"file:///nowhere/x.torrent":                     {blob.ErrNotFound, "does not exist"},
		"ftp://host/x.torrent":                          {blob.ErrInvalid, "unknown scheme"},
	} {
		_, err := n.Download(patient(t), source, control.Options{}, 0, noProgress)
		if !errors.Is(err, want.is) || !strings.Contains(fmt.Sprint(err), want.text) {
			t.Errorf("%s: %v", source, err)
		}
	}
	root, _ := writeTree(t)
	if _, err := n.Share(context.Background(), control.ShareRequest{Path: root, Options: control.Options{Digest: "sha256:" + strings.Repeat("ab", 32)}}, nil); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("digest of a directory: %v", err)
	}
	reply, err := n.Share(patient(t), control.ShareRequest{Path: root}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := n.Download(patient(t), reply.Magnet, control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Wait(patient(t), blob.Hash{1}, func(control.Transfer) {}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("digest of several files: %v", err)
	}
	if err := d.CopyTo(patient(t), new(bytes.Buffer), blob.Hash{}, func(control.Transfer) {}); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("several files to one stream: %v", err)
	}
}

// TestPrivate: a private torrent is announced to its own trackers only.
func TestPrivate(t *testing.T) {
	root, _ := writeTree(t)
	var asked int
	configured := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer configured.Close()
	own := startTracker(t)
	first := start(t, conf(t))
	reply, err := first.Share(patient(t), control.ShareRequest{Path: root, Private: true, WantTorrent: true, Options: control.Options{Trackers: []string{own}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, conf(t, configured.URL+"/announce"))
	getTree(t, n, writeTorrent(t, reply.Torrent), control.Options{})
	if err := n.Close(patient(t)); err != nil {
		t.Error(err)
	}
	configured.Close()
	if asked != 0 {
		t.Errorf("a tracker that is not the torrent's was asked %d times", asked)
	}
}

// TestManyFiles: a torrent of many small files, and one of more than this process can open.
func TestManyFiles(t *testing.T) {
	const many = 4 * manyParts
	root, files := filepath.Join(t.TempDir(), "set"), map[string][]byte{}
	for i := range many {
		name := fmt.Sprintf("d%d/f%d", i%7, i)
		files[name] = origintest.Bytes(uint64(i), 1000+i)
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), files[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	first := start(t, conf(t))
	reply, err := first.Share(patient(t), control.ShareRequest{Path: root, Version: "hybrid"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, conf(t))
	dir, st := getTree(t, n, reply.Magnet, control.Options{})
	sameTree(t, dir, files)
	if st.FromPeers != reply.Size {
		t.Errorf("%+v", st)
	}
	if err := roomFor(1 << 30); !errors.Is(err, control.ErrLocal) || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("a torrent of a billion files: %v", err)
	}
}

// TestTreeCrowd: nodes that start together get all files, through a tracker that plans.
func TestTreeCrowd(t *testing.T) {
	root, files := writeTree(t)
	for _, version := range torrentVersions {
		announce := startTracker(t)
		first := start(t, conf(t, announce))
		reply, err := first.Share(patient(t), control.ShareRequest{Path: root, Version: version, WantTorrent: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		source := writeTorrent(t, reply.Torrent)
		errs := make(chan error, 4)
		var dirs []string
		for i := range cap(errs) {
			n, dir := start(t, conf(t, announce)), filepath.Join(t.TempDir(), fmt.Sprint(i))
			dirs = append(dirs, dir)
			go func() {
				d, err := n.Download(t.Context(), source, control.Options{}, 0, noProgress)
				if err == nil {
					defer d.Close()
					err = d.Wait(t.Context(), blob.Hash{}, func(control.Transfer) {})
				}
				if err == nil {
					err = d.Place(dir)
				}
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Fatalf("%s: %v", version, err)
			}
		}
		for _, dir := range dirs {
			sameTree(t, dir, files)
		}
		status, err := first.Status(patient(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: the seeder sent %.2f times the torrent to %d nodes", version, float64(status.Shares[0].Uploaded)/float64(reply.Size), cap(errs))
	}
}

// TestKnownPeersOfTorrents: who was good for a torrent is remembered across a restart, as for a blob.
func TestKnownPeersOfTorrents(t *testing.T) {
	root, files := writeTree(t)
	first := start(t, conf(t))
	reply, err := first.Share(patient(t), control.ShareRequest{Path: root}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := conf(t)
	n := start(t, c)
	d, err := n.Download(patient(t), reply.Magnet+"&so=0", control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Wait(patient(t), blob.Hash{}, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := n.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	m, _ := metainfo.ParseMagnet(reply.Magnet)
	m.Peers, m.Trackers = nil, nil
	dir, _ := getTree(t, start(t, c), m.String(), control.Options{})
	sameTree(t, dir, files)
}
