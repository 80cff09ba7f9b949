package node

import (
	"crypto/sha256"
	"os"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/origin/origintest"
)

// TestDigestIsRemembered: a blob whose digest was verified is not hashed again, by this node or the next one,
// unless its data file is another one by then.
func TestDigestIsRemembered(t *testing.T) {
	content := origintest.Bytes(40, 700<<10)
	want := blob.Hash(sha256.Sum256(content))
	s := origintest.New(t, origintest.Of(content))
	c := conf(t)
	open := func(n *Node) *Download {
		t.Helper()
		d, err := n.Download(patient(t), s.At("/m"), control.Options{}, 0, noProgress)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	n := start(t, c)
	d := open(n)
	if d.live.verified(want) {
		t.Error("verified before it was hashed")
	}
	if err := d.Wait(patient(t), want, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if d = open(n); !d.live.verified(want) {
		t.Error("would be hashed again when opened again")
	}
	d.Close()
	if err := n.Close(patient(t)); err != nil {
		t.Fatal(err)
	}

	n = start(t, c)
	if d = open(n); !d.live.verified(want) {
		t.Error("would be hashed again after a restart")
	}
	if d.live.verified(blob.Hash{1}) {
		t.Error("verified for any digest")
	}
	data, id := d.live.store.File().Name(), d.ID()
	d.Close()
	if err := os.Chtimes(data, time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if d = open(n); d.live.verified(want) {
		t.Error("believed though the data file was written to")
	}
	d.Close()

	if _, err := n.CacheRemove(t.Context(), id.String()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	start(t, c)
	if left, err := os.ReadDir(digestsDir(c.State)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestDigestFileIsDamaged: what cannot be read is hashed again.
func TestDigestFileIsDamaged(t *testing.T) {
	content := origintest.Bytes(41, 100<<10)
	want := blob.Hash(sha256.Sum256(content))
	s := origintest.New(t, origintest.Of(content))
	c := conf(t)
	n := start(t, c)
	d, err := n.Download(patient(t), s.At("/m"), control.Options{}, 0, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Wait(patient(t), want, func(control.Transfer) {}); err != nil {
		t.Fatal(err)
	}
	all := digests{digestsDir(c.State)}
	if got, ok := all.get(d.live.store); !ok || got != want {
		t.Fatalf("%v, %v", got, ok)
	}
	raw, err := os.ReadFile(all.path(d.ID()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		if err := os.WriteFile(all.path(d.ID()), raw[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := all.get(d.live.store); ok {
			t.Fatalf("%q gives %v", raw[:i], got)
		}
	}
}
