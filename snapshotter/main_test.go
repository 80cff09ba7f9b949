package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// needRoot ends a test that changes owners or mounts, when it may not.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("not root: this machine should have it")
	}
	t.Skip("not root")
}

// fake is Images without images: a tree is an empty directory.
type fake struct {
	t   *testing.T
	dir string

	mu      sync.Mutex
	images  map[string]*fakeImage // by manifest
	mounted map[string]bool
	calls   []string
}

type fakeImage struct {
	diffIDs []string
	not     error         // why it is not lazy
	broken  error         // what Lower says
	gate    chan struct{} // Lower waits for it
	tree    string        // name of its tree; its manifest when empty
}

func newFake(t *testing.T) *fake {
	return &fake{t: t, dir: t.TempDir(), images: map[string]*fakeImage{}, mounted: map[string]bool{}}
}

func (f *fake) called(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// said are the calls since it was last asked.
func (f *fake) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

// soFar is what [fake.said] would say.
func (f *fake) soFar() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fake) image(manifest string) *fakeImage {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.images[manifest] == nil {
		return &fakeImage{not: errors.New("no such image")}
	}
	return f.images[manifest]
}

func (f *fake) Prepare(ctx context.Context, i Image) ([]string, error) {
	f.called("prepare %s %s", i.Ref, i.Manifest)
	m := f.image(i.Manifest)
	return m.diffIDs, m.not
}

func (f *fake) Lower(ctx context.Context, i Image, depth int) (string, error) {
	f.called("lower %s %d", i.Manifest, depth)
	m := f.image(i.Manifest)
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if m.broken != nil {
		return "", m.broken
	}
	dir := filepath.Join(f.dir, fmt.Sprintf("%s-%d", strings.ReplaceAll(m.name(i), ":", "_"), depth))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mounted[dir] = true
	return dir, os.MkdirAll(dir, 0o755)
}

func (m *fakeImage) name(i Image) string {
	if m.tree != "" {
		return m.tree
	}
	return i.Manifest
}

func (f *fake) Drop(dir string) error {
	f.called("drop %s", filepath.Base(dir))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mounted[dir] = false
	return os.Remove(dir)
}

func (f *fake) Usage(_ Image, depth int) (int64, int64) { return int64(depth) * 1000, int64(depth) }
func (f *fake) Forget(i Image)                          { f.called("forget %s", i.Manifest) }

// world is a snapshotter with its fake and its log.
type world struct {
	t    *testing.T
	root string
	fake *fake
	said *lockedBuffer
	*Snapshotter
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, root: t.TempDir(), fake: newFake(t), said: &lockedBuffer{}}
	w.open()
	t.Cleanup(func() { w.Snapshotter.Close() })
	return w
}

// open starts the snapshotter, as after a restart when it was started before.
func (w *world) open() {
	w.t.Helper()
	if w.Snapshotter != nil {
		if err := w.Snapshotter.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	s, err := New(w.root, w.fake, slog.New(slog.NewTextHandler(w.said, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.Snapshotter = s
}

// pulled is an image of the tests.
type pulled struct {
	Image
	diffIDs []string
	chain   []string
	*fakeImage
}

func diffID(layer string) string { return digest.FromString(layer).String() }

// add makes an image of layers, known to the fake.
func (w *world) add(name string, layers ...string) pulled {
	w.t.Helper()
	p := pulled{Image: Image{Ref: "registry.test/" + name + ":1", Manifest: "sha256:" + name}, fakeImage: &fakeImage{}}
	for _, l := range layers {
		p.diffIDs = append(p.diffIDs, diffID(l))
	}
	p.fakeImage.diffIDs = p.diffIDs
	var err error
	if p.chain, err = chainIDs(p.diffIDs); err != nil {
		w.t.Fatal(err)
	}
	w.fake.mu.Lock()
	defer w.fake.mu.Unlock()
	w.fake.images[p.Manifest] = p.fakeImage
	return p
}

// labels are what containerd says of layer i (from 0) of an image.
func (p pulled) labels(i int) map[string]string {
	return map[string]string{
		snapshots.LabelSnapshotRef:             p.chain[i],
		snapshotters.TargetRefLabel:            p.Ref,
		snapshotters.TargetManifestDigestLabel: p.Manifest,
		snapshotters.TargetLayerDigestLabel:    "sha256:stored" + p.diffIDs[i],
	}
}

// name is how layer i is stored on a parent, as containerd looks for it.
func (w *world) name(p pulled, i int, parent string) (name string, info snapshots.Info) {
	w.t.Helper()
	err := w.Walk(w.t.Context(), func(_ context.Context, in snapshots.Info) error {
		if in.Kind == snapshots.KindCommitted {
			name, info = in.Name, in
		}
		return nil
	}, fmt.Sprintf(`labels.%q==%s,parent==%q`, snapshots.LabelSnapshotRef, p.chain[i], parent))
	if err != nil {
		w.t.Fatal(err)
	}
	return name, info
}

// pull does what containerd does for an image, in a namespace: it unpacks what it has to. It returns the names of the
// layers and how each came about.
func (w *world) pull(ns string, p pulled) (names []string, how []string, err error) {
	w.t.Helper()
	parent := ""
	for i := range p.diffIDs {
		key := fmt.Sprintf("%s/%d/extract %s", ns, i, p.chain[i])
		_, err := w.Prepare(w.t.Context(), key, parent, snapshots.WithLabels(p.labels(i)))
		switch {
		case errdefs.IsAlreadyExists(err):
			name, info := w.name(p, i, parent)
			if name == "" {
				w.t.Fatalf("layer %d of %s is said to be there, and is not", i, p.Ref)
			}
			if _, lazy := lazyOf(info.Labels); lazy {
				how = append(how, "lazy")
			} else {
				how = append(how, "there")
			}
			parent = name
		case err != nil:
			return names, how, err
		default:
			parent = fmt.Sprintf("%s/%d/%s", ns, i, p.chain[i])
			if err := w.Commit(w.t.Context(), parent, key, snapshots.WithLabels(p.labels(i))); err != nil {
				return names, how, err
			}
			how = append(how, "unpacked")
		}
		names = append(names, parent)
	}
	return names, how, nil
}

// mustPull is pull that has to work, and as expected.
func (w *world) mustPull(ns string, p pulled, want ...string) (names []string) {
	w.t.Helper()
	names, how, err := w.pull(ns, p)
	if err != nil {
		w.t.Fatal(err)
	}
	if d := cmp.Diff(want, how); d != "" {
		w.t.Fatalf("pull of %s: %s", p.Ref, d)
	}
	return names
}

// top is the last name.
func top(names []string) string { return names[len(names)-1] }

// run prepares a container.
func (w *world) run(key, parent string) []mount.Mount {
	w.t.Helper()
	m, err := w.Prepare(w.t.Context(), key, parent)
	if err != nil {
		w.t.Fatal(err)
	}
	again, err := w.Mounts(w.t.Context(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	if d := cmp.Diff(m, again); d != "" {
		w.t.Fatalf("Mounts differs from Prepare: %s", d)
	}
	return m
}

func (w *world) remove(keys ...string) {
	w.t.Helper()
	for _, k := range keys {
		if err := w.Remove(w.t.Context(), k); err != nil {
			w.t.Fatal(err)
		}
	}
}

// lowerdirs are the lower directories of one overlay mount.
func lowerdirs(t *testing.T, m []mount.Mount) []string {
	t.Helper()
	if len(m) != 1 || m[0].Type != "overlay" {
		t.Fatalf("not one overlay mount: %v", m)
	}
	for _, o := range m[0].Options {
		if l, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return strings.Split(l, ":")
		}
	}
	t.Fatalf("no lowerdir: %v", m)
	return nil
}

// is compares what Images was asked for since the last time.
func (w *world) is(want ...string) {
	w.t.Helper()
	if d := cmp.Diff(want, w.fake.said()); d != "" {
		w.t.Fatalf("calls: %s", d)
	}
}
