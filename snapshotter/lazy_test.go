package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

// TestLazyPull: no layer is unpacked, all labels are kept, and a container has one lower directory.
func TestLazyPull(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", "one", "two", "three")
	names := w.mustPull("ns", a, "lazy", "lazy", "lazy")
	w.is("prepare registry.test/a:1 sha256:a", "lower sha256:a 3")

	info, err := w.Stat(t.Context(), names[1])
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range a.labels(1) {
		if info.Labels[k] != v {
			t.Errorf("label %s is %q, not %q", k, info.Labels[k], v)
		}
	}
	if info.Parent != names[0] || info.Kind != snapshots.KindCommitted {
		t.Errorf("%+v", info)
	}

	tree := filepath.Join(w.fake.dir, "sha256_a-3")
	if got := lowerdirs(t, w.run("box", top(names))); !slices.Equal(got, []string{tree}) {
		t.Errorf("lower directories of a container: %v", got)
	}
	view, err := w.View(t.Context(), "view", top(names))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]mount.Mount{{Type: "bind", Source: tree, Options: []string{"ro", "rbind"}}}, view); d != "" {
		t.Error(d)
	}
	w.mustPull("other", a, "lazy", "lazy", "lazy") // shares what is there
	if n := w.count(); n != 5 {
		t.Errorf("%d snapshots, not three layers, a container and a view", n)
	}
}

func (w *world) count() (n int) {
	w.t.Helper()
	err := w.Walk(w.t.Context(), func(context.Context, snapshots.Info) error { n++; return nil })
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestNotLazy: an image that cannot be lazy is unpacked as a whole, the reason is logged once, others stay lazy.
func TestNotLazy(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a", "one", "two"), w.add("b", "one of b")
	a.not = errors.New("layer 2 is written in invisible ink")
	names := w.mustPull("ns", a, "unpacked", "unpacked")
	w.is("prepare registry.test/a:1 sha256:a")
	if n := strings.Count(w.said.String(), "invisible ink"); n != 1 {
		t.Errorf("the reason is logged %d times:\n%s", n, w.said)
	}
	ids := lowerdirs(t, w.run("box", top(names)))
	if len(ids) != 2 || filepath.Dir(filepath.Dir(ids[0])) != filepath.Join(w.root, "snapshots") {
		t.Errorf("lower directories: %v", ids)
	}
	w.mustPull("ns", b, "lazy")

	a.not = nil // a later pull asks again
	w.mustPull("elsewhere", a, "there", "there")
	w.remove("box", names[1], names[0])
	w.mustPull("ns", a, "lazy", "lazy")
}

// TestUnnamed: a pull that does not say what is pulled is unpacked, and the log says what to do.
func TestUnnamed(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", "one")
	for i := range 3 {
		_, err := w.Prepare(t.Context(), fmt.Sprint(i), "", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: a.chain[0]}))
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Prepare(t.Context(), "ns/9/extract-1-x "+a.chain[0], ""); err != nil { // as ctr of 1.6 does
		t.Fatal(err)
	}
	w.is()
	if n := strings.Count(w.said.String(), "pantala setup containerd"); n != 1 {
		t.Errorf("advice is logged %d times", n)
	}
}

// TestLabelsThatLie: labels can come from annotations of a hostile image. One that names another image does not get its
// tree, and labels of our own are not taken from outside.
func TestLabelsThatLie(t *testing.T) {
	w := newWorld(t)
	a, liar := w.add("a", "one"), w.add("liar", "forged")
	labels := liar.labels(0)
	for k, v := range a.labels(0) {
		if k != snapshots.LabelSnapshotRef {
			labels[k] = v
		}
	}
	if _, err := w.Prepare(t.Context(), "forged", "", snapshots.WithLabels(labels)); err != nil {
		t.Fatalf("not unpacked: %v", err)
	}
	forged := snapshots.WithLabels(map[string]string{labelDepth: "1", labelManifest: a.Manifest, labelRef: a.Ref, "containerd.io/snapshot/x": "kept"})
	for _, step := range []func() error{
		func() error { return w.Commit(t.Context(), "committed", "forged", forged) },
		func() error { _, err := w.Prepare(t.Context(), "prepared", "committed", forged); return err },
		func() error { _, err := w.View(t.Context(), "viewed", "committed", forged); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"committed", "prepared", "viewed"} {
		info, err := w.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if _, lazy := lazyOf(info.Labels); lazy || info.Labels["containerd.io/snapshot/x"] != "kept" {
			t.Errorf("%s has labels %v", key, info.Labels)
		}
	}
}

// TestUpdate: labels of ours survive what a client makes of them.
func TestUpdate(t *testing.T) {
	w := newWorld(t)
	names := w.mustPull("ns", w.add("a", "one"), "lazy")
	info, err := w.Update(t.Context(), snapshots.Info{Name: names[0], Labels: map[string]string{"x": "y"}})
	if err != nil {
		t.Fatal(err)
	}
	if l, ok := lazyOf(info.Labels); !ok || l.lower == "" || info.Labels["x"] != "y" {
		t.Errorf("labels after an update: %v", info.Labels)
	}
	if _, err = w.Update(t.Context(), snapshots.Info{Name: names[0], Labels: map[string]string{labelDepth: "7"}}, "labels."+labelDepth); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a label of ours was changed: %v", err)
	}
	if l, _ := lazyOf(info.Labels); l.depth != 1 {
		t.Errorf("depth %d", l.depth)
	}
}

// TestBroken: an image whose tree cannot be made fails its pull with the reason, and no other.
func TestBroken(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		next string // how the next pull goes
	}{
		{"corrupt", fmt.Errorf("%w: layer 2 of 2: gzip: bad block", blob.ErrCorrupt), "broken"},
		{"unavailable", fmt.Errorf("%w: layer 2 of 2: the registry is gone", blob.ErrUnavailable), "broken"},
		{"impossible", errors.New("layer 2 of 2: 10000 devices"), "unpacked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.add("a", "one", "two"), w.add("b", "one", "other two")
			a.broken = c.err
			names, how, err := w.pull("ns", a)
			if err == nil || !strings.Contains(err.Error(), "layer 2 of 2") || !strings.Contains(err.Error(), a.Ref) {
				t.Fatalf("pull of a broken image: %v, %v", how, err)
			}
			w.remove(names...) // containerd's garbage collection
			w.is("prepare registry.test/a:1 sha256:a", "lower sha256:a 2", "forget sha256:a")
			w.mustPull("ns", b, "lazy", "lazy")
			_, how, err = w.pull("again", a)
			if c.next == "unpacked" && (err != nil || top(how) != "unpacked") || c.next == "broken" && err == nil {
				t.Errorf("next pull: %v, %v", how, err)
			}
		})
	}
}

// TestPullGivenUp: who waits for an image may go away.
func TestPullGivenUp(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", "one")
	a.gate = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := w.Prepare(ctx, "key", "", snapshots.WithLabels(a.labels(0)))
		got <- err
	}()
	until(t, "Lower", func() bool { return slices.Contains(w.fake.soFar(), "lower sha256:a 1") })
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := w.count(); n != 0 {
		t.Errorf("%d snapshots are left", n)
	}
	w.is("prepare registry.test/a:1 sha256:a", "lower sha256:a 1", "forget sha256:a")
	close(a.gate)
	w.mustPull("ns", a, "lazy")
}

// TestMixedChains: lazy and ordinary snapshots lie on each other.
func TestMixedChains(t *testing.T) {
	w := newWorld(t)
	lazy, plain, late := w.add("lazy", "base", "two"), w.add("plain", "base", "more", "most"), w.add("late", "base", "more", "most", "late")
	plain.not = errors.New("no")

	l := w.mustPull("ns", lazy, "lazy", "lazy")
	p := w.mustPull("ns", plain, "lazy", "unpacked", "unpacked") // shares the base
	if p[0] != l[0] {
		t.Errorf("the base is there twice: %s, %s", p[0], l[0])
	}
	dirs := lowerdirs(t, w.run("plain", top(p)))
	if len(dirs) != 3 || dirs[2] != filepath.Join(w.fake.dir, "sha256_lazy-1") {
		t.Errorf("lower directories of ordinary layers on a lazy one: %v", dirs)
	}

	q := w.mustPull("ns", late, "lazy", "there", "there", "lazy") // one more layer on ordinary ones
	if got := lowerdirs(t, w.run("late", top(q))); !slices.Equal(got, []string{filepath.Join(w.fake.dir, "sha256_late-4")}) {
		t.Errorf("lower directories of a lazy layer on ordinary ones: %v", got)
	}

	// What a container wrote becomes a layer of its own.
	if err := w.Commit(t.Context(), "ns/9/committed", "late"); err != nil {
		t.Fatal(err)
	}
	if got := lowerdirs(t, w.run("box", "ns/9/committed")); len(got) != 2 || got[1] != filepath.Join(w.fake.dir, "sha256_late-4") {
		t.Errorf("lower directories on a committed container: %v", got)
	}

	// The same layer on another parent is another snapshot.
	alone := w.add("alone", "base", "more")
	if _, err := w.Prepare(t.Context(), "x", ""); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), "stranger", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Prepare(t.Context(), "y", "stranger", snapshots.WithLabels(alone.labels(1))); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if name, info := w.name(alone, 1, "stranger"); name == "" || info.Parent != "stranger" {
		t.Errorf("%q %+v", name, info)
	}
	if _, err := w.Prepare(t.Context(), "z", p[1], snapshots.WithLabels(late.labels(2))); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// TestIntermediate: a container may be started from a layer in the middle. Its tree goes with that layer.
func TestIntermediate(t *testing.T) {
	w := newWorld(t)
	names := w.mustPull("ns", w.add("a", "one", "two", "three"), "lazy", "lazy", "lazy")
	w.fake.said()
	if got := lowerdirs(t, w.run("box", names[1])); !slices.Equal(got, []string{filepath.Join(w.fake.dir, "sha256_a-2")}) {
		t.Errorf("lower directories: %v", got)
	}
	w.remove("box")
	w.run("box", names[1])
	w.remove("box", names[2], names[1])
	w.is("lower sha256:a 2", "lower sha256:a 2", "lower sha256:a 2", "lower sha256:a 2", "drop sha256_a-3", "drop sha256_a-2")
	w.remove(names[0])
	w.is("forget sha256:a")
}

// TestRemoveFrees: a tree is dropped when the last snapshot that holds it goes, whosever it is.
func TestRemoveFrees(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a", "one", "two"), w.add("b", "one", "zwei")
	a.tree, b.tree = "same", "same"
	an, bn := w.mustPull("ns", a, "lazy", "lazy"), w.mustPull("ns", b, "lazy", "lazy")
	w.run("box", top(bn))
	if err := w.Remove(t.Context(), top(bn)); !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("an image was removed below a container: %v", err)
	}
	w.fake.said()
	w.remove(top(an))
	w.is() // layer one is still of image a
	w.remove("box")
	w.is() // as long as the image is there the next container finds its tree
	w.remove(top(bn))
	w.is("drop same-2", "forget sha256:b")
	w.remove(an[0])
	w.is("forget sha256:a")
	if n := w.count(); n != 0 {
		t.Errorf("%d snapshots are left", n)
	}
}

// TestUsage: of lazy layers it is what is here now.
func TestUsage(t *testing.T) {
	w := newWorld(t)
	names := w.mustPull("ns", w.add("a", "one", "two"), "lazy", "lazy")
	for i, n := range names {
		u, err := w.Usage(t.Context(), n)
		if err != nil || u.Size != int64(i+1)*1000 || u.Inodes != int64(i+1) {
			t.Errorf("layer %d: %+v, %v", i, u, err)
		}
	}
}

// TestConcurrentPulls: many pulls of one image at once make one snapshot of each layer.
func TestConcurrentPulls(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", "one", "two", "three")
	var all sync.WaitGroup
	errs := make(chan error, 16)
	for i := range 16 {
		all.Go(func() {
			_, how, err := w.pull(fmt.Sprint("ns", i), a)
			if err == nil && !slices.Equal(how, []string{"lazy", "lazy", "lazy"}) {
				err = fmt.Errorf("%v", how)
			}
			errs <- err
		})
	}
	all.Wait()
	for range 16 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := w.count(); n != 3 {
		t.Errorf("%d snapshots, not 3", n)
	}
}

// TestMountedWhileHeld: however mounts and drops overlap, what somebody holds is mounted.
func TestMountedWhileHeld(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", "one")
	b := w.add("b", "uno")
	a.tree, b.tree = "same", "same"
	var all sync.WaitGroup
	for i := range 8 {
		image := a.Image
		if i%2 == 1 {
			image = b.Image
		}
		all.Go(func() {
			for n := range 200 {
				l := lazy{image: image, depth: 1}
				release, err := w.lowers.mount(t.Context(), &l)
				if err != nil {
					t.Error(err)
					return
				}
				id := fmt.Sprint(i, "/", n)
				w.lowers.add(id, l)
				release()
				w.fake.mu.Lock()
				ok := w.fake.mounted[l.lower]
				w.fake.mu.Unlock()
				if !ok {
					t.Error("somebody dropped what is held")
				}
				w.lowers.remove(id)
			}
		})
	}
	all.Wait()
	w.fake.mu.Lock()
	defer w.fake.mu.Unlock()
	for dir, still := range w.fake.mounted {
		if still {
			t.Errorf("%s is mounted, and nobody holds it", dir)
		}
	}
	if n := len(w.lowers.users) + len(w.lowers.pins) + len(w.lowers.snaps) + len(w.lowers.dropping) + len(w.lowers.dropped) + len(w.lowers.waiting); n != 0 {
		t.Errorf("%d things are remembered of what is gone", n)
	}
}
