package swarm_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(seederEnv) != "" {
		seederMain()
		return
	}
	if at := os.Getenv(crowdEnv); at != "" {
		crowdMain(at)
		return
	}
	if at := os.Getenv(getterEnv); at != "" {
		getterMain(at)
		return
	}
	if at := os.Getenv(askerEnv); at != "" {
		askerMain(at)
		return
	}
	goleak.VerifyTestMain(m)
}

// key is the info hash of all tests.
var key = [20]byte{1, 2, 3}

// name is what hash requests carry when no root is known.
var name = blob.Hash{9, 9}

func newNode(t testing.TB, o swarm.Options) *swarm.Node {
	t.Helper()
	o.Listen = "127.0.0.1:0"
	n, err := swarm.NewNode(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func add(t testing.TB, n *swarm.Node, s swarm.Store, root blob.Hash) *swarm.Torrent {
	t.Helper()
	c := swarm.Config{Keys: [][20]byte{key}, Name: name, Root: root, Store: s}
	if !root.IsZero() {
		c.Name = root
	}
	tor, err := n.Add(c)
	if err != nil {
		t.Fatal(err)
	}
	return tor
}

func seed(t testing.TB, g blob.Geometry, data []byte) *swarmtest.MemStore {
	s := swarmtest.NewSeed(g, data)
	t.Cleanup(func() { s.Close() })
	return s
}

func empty(t testing.TB, g blob.Geometry) *swarmtest.MemStore {
	s := swarmtest.NewMemStore(g)
	t.Cleanup(func() { s.Close() })
	return s
}

// await waits until the torrent can be asked for r.
func await(t testing.TB, tor *swarm.Torrent, r blob.Run) {
	t.Helper()
	until(t, fmt.Sprintf("Has(%s)", r), func() bool { return tor.Has(r) })
}

// until polls cond, for things that have no event of their own.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come true", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func fetch(ctx context.Context, tor *swarm.Torrent, s *swarmtest.MemStore, r blob.Run) error {
	k := swarmtest.NewSink(s, r)
	defer k.Finish()
	return tor.Fetch(ctx, r, k)
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestTwoNodes exchanges blobs of all shapes, under claimed roots and under the root of a torrent.
func TestTwoNodes(t *testing.T) {
	for _, c := range []struct{ size, piece int64 }{
		{0, 256 << 10}, {1, 256 << 10}, {blob.BlockSize, 256 << 10}, {blob.BlockSize + 1, 256 << 10}, {100_000, 256 << 10},
		{256 << 10, 256 << 10}, {256<<10 + 1, 256 << 10}, {3<<20 + 12345, 256 << 10}, {5<<20 + 1, 1 << 20},
		{200_001, 16 << 10}, {200_001, 32 << 10}, {40<<20 + 5, 16 << 20},
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("size=%d/piece=%d/root=%v", c.size, c.piece, known), func(t *testing.T) {
				g := blob.Geometry{Size: c.size, PieceLength: c.piece}
				data := swarmtest.Random(c.size, 1)
				from, to := seed(t, g, data), empty(t, g)
				var root blob.Hash
				if known {
					root = from.TreeRoot()
				} else {
					to.TakeRoots(from, blob.Claimed)
				}
				a, b := newNode(t, swarm.Options{}), newNode(t, swarm.Options{})
				add(t, a, from, root)
				tb := add(t, b, to, root)
				tb.AddPeers(a.Addr())
				if c.size > 0 {
					await(t, tb, g.Blob())
				} else {
					until(t, "connection", func() bool { return len(tb.Peers()) == 1 })
				}
				if err := fetch(blob.WithClass(deadline(t), blob.Background), tb, to, g.Blob()); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(to.Bytes(), data) || !to.Complete() {
					t.Error("bytes differ")
				}
			})
		}
	}
}
