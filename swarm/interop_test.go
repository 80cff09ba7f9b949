package swarm_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// python is the interpreter that has libtorrent 2 (Debian: python3-libtorrent).
const python = "/usr/bin/python3"

// needLibtorrent fails where the peer should be there (CI), and skips where it need not be.
func needLibtorrent(t *testing.T) {
	t.Helper()
	out, err := exec.Command(python, "-c", "import libtorrent; print(libtorrent.__version__)").CombinedOutput()
	switch {
	case err == nil && strings.HasPrefix(string(out), "2."):
	case os.Getenv("CI") == "true":
		t.Fatalf("CI must have libtorrent 2 (apt install python3-libtorrent): %v %s", err, out)
	default:
		t.Skipf("no libtorrent 2 (apt install python3-libtorrent): %v %s", err, out)
	}
}

// canonical is the torrent that every node derives for data: its file, keys and root.
type canonical struct {
	geo      blob.Geometry
	data     []byte
	root     blob.Hash
	infohash blob.Hash
	torrent  []byte
	info     []byte
	file     string // name of the file in it
}

func newCanonical(t *testing.T, size int64) (c canonical) {
	c.geo = blob.GeometryFor(size)
	c.data = swarmtest.Random(size, uint64(size))
	s := seed(t, c.geo, c.data)
	c.root = s.TreeRoot()
	digest := blob.Hash(sha256.Sum256(c.data))
	info := blob.CanonicalInfo(digest, size, c.root)
	c.info = info
	c.infohash, c.file = blob.InfoHash(info), "sha256:"+digest.String()
	layers := "de"
	if n := c.geo.Pieces(); n > 1 {
		layers = fmt.Sprintf("d32:%s%d:", c.root[:], 32*n)
		for p := range n {
			root, _ := s.Root(p)
			layers += string(root[:])
		}
		layers += "e"
	}
	c.torrent = fmt.Appendf(nil, "d4:info%s12:piece layers%se", info, layers)
	return c
}

func (c canonical) config(s swarm.Store) swarm.Config {
	return swarm.Config{Keys: [][20]byte{blob.ID{Kind: blob.ByInfoHash, Sum: c.infohash}.Key()}, Name: c.root, Root: c.root, Store: s}
}

// libtorrent is a foreign peer in its own process.
type libtorrent struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner

	broken string // why it has given the torrent up
}

func startLibtorrent(t *testing.T, c canonical, dir string, connect ...string) *libtorrent {
	t.Helper()
	torrent := filepath.Join(t.TempDir(), "x.torrent")
	if err := os.WriteFile(torrent, c.torrent, 0o600); err != nil {
		t.Fatal(err)
	}
	return openLibtorrent(t, torrent, dir, connect...)
}

// openLibtorrent starts a peer for a .torrent or a magnet link.
func openLibtorrent(t *testing.T, torrent, dir string, connect ...string) *libtorrent {
	t.Helper()
	p := &libtorrent{cmd: exec.Command(python, append([]string{"testdata/libtorrent_peer.py", torrent, dir}, connect...)...)}
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.lines = in, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(time.Minute, func() { p.cmd.Process.Kill() })
	t.Cleanup(func() {
		in.Close()
		p.cmd.Wait()
		watchdog.Stop()
	})
	return p
}

// expect reads lines until one that starts with word, and returns the rest of it.
func (p *libtorrent) expect(t *testing.T, word string) string {
	t.Helper()
	for p.lines.Scan() {
		head, rest, _ := strings.Cut(p.lines.Text(), " ")
		switch head {
		case word:
			return rest
		case "FAILED":
			t.Fatalf("libtorrent: %s", rest)
		case "BROKEN":
			p.broken = rest
			return ""
		}
	}
	t.Fatalf("libtorrent ended before it said %s: %v", word, errors.Join(p.lines.Err(), io.ErrUnexpectedEOF))
	return ""
}

// sizes of one block, one piece, one short piece more than one, and many pieces with a proof between.
var interopSizes = []int64{9_999, 200_000, 256 << 10, 256<<10 + 1, 5<<20 + 333, 300 << 20}

// TestLibtorrentSeeds downloads from libtorrent, knowing only the root of the torrent.
func TestLibtorrentSeeds(t *testing.T) {
	needLibtorrent(t)
	for _, size := range interopSizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c := newCanonical(t, size)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			lt := startLibtorrent(t, c, dir)
			port := lt.expect(t, "LISTENING")
			lt.expect(t, "SEEDING")
			s := empty(t, c.geo)
			n := newNode(t, swarm.Options{})
			tor, err := n.Add(c.config(s))
			if err != nil {
				t.Fatal(err)
			}
			tor.AddPeers(netip.MustParseAddrPort("127.0.0.1:" + port))
			await(t, tor, c.geo.Blob())
			start := time.Now()
			last := blob.Run{First: c.geo.Blocks() - 1, Count: 1}
			if err := fetch(deadline(t), tor, s, last); err != nil {
				t.Fatal(err)
			}
			t.Logf("last block after %s", time.Since(start).Round(10*time.Microsecond))
			start = time.Now()
			if err := fetch(blob.WithClass(deadline(t), blob.Background), tor, s, c.geo.Blob()); err != nil {
				t.Fatal(err)
			}
			t.Logf("%.0f MB/s", float64(size)/1e6/time.Since(start).Seconds())
			if !bytes.Equal(s.Bytes(), c.data) {
				t.Error("bytes differ")
			}
			for p := range c.geo.Pieces() {
				if _, trust := s.Root(p); trust != blob.Pinned {
					t.Errorf("root of piece %d is %s", p, trust)
				}
			}
			if ps := tor.Peers(); len(ps) != 1 || !strings.HasPrefix(ps[0].Client, "libtorrent/2") {
				t.Errorf("peers: %+v", ps)
			}
		})
	}
}

// TestLibtorrentDownloads seeds to libtorrent, which is told where we listen; or which we dial.
func TestLibtorrentDownloads(t *testing.T) {
	needLibtorrent(t)
	for _, size := range interopSizes {
		for _, weDial := range []bool{false, true} {
			if !weDial && size > 10<<20 {
				continue // libtorrent waits a second before it connects, and that is all that differs
			}
			t.Run(fmt.Sprintf("%d/dial=%v", size, weDial), func(t *testing.T) {
				c := newCanonical(t, size)
				n := newNode(t, swarm.Options{})
				tor, err := n.Add(c.config(seed(t, c.geo, c.data)))
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				start := time.Now()
				if weDial {
					lt := startLibtorrent(t, c, dir)
					tor.AddPeers(netip.MustParseAddrPort("127.0.0.1:" + lt.expect(t, "LISTENING")))
					lt.expect(t, "SEEDING")
				} else {
					lt := startLibtorrent(t, c, dir, n.Addr().String())
					lt.expect(t, "SEEDING")
				}
				t.Logf("%.0f MB/s with its start", float64(size)/1e6/time.Since(start).Seconds())
				got, err := os.ReadFile(filepath.Join(dir, c.file))
				if err != nil || !bytes.Equal(got, c.data) {
					t.Errorf("bytes differ, %v", err)
				}
				if up := tor.Stats().Uploaded; up < size {
					t.Errorf("uploaded %d of %d bytes", up, size)
				}
			})
		}
	}
}
