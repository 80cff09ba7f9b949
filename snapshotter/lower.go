package snapshotter

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// lowers knows which snapshots use which mounted trees, and which images have snapshots. A lazy snapshot holds its
// tree once that was mounted for it; what lies on the snapshot needs no count of its own, because a parent
// outlives its children.
type lowers struct {
	images Images
	log    *slog.Logger

	mu       sync.Mutex
	snaps    map[string]lazy                // by id: every lazy snapshot
	users    map[string]map[string]struct{} // by directory: ids of snapshots that hold it
	pins     map[string]int                 // by directory: calls of mount that were not released
	dropping map[string]chan struct{}       // by directory: closed when Drop has returned
	drops    int                            // directories dropped so far
	dropped  map[string]int                 // by directory: drops at its last Drop; kept while mounting is not 0
	mounting int                            // calls of mount
	waiting  map[string]int                 // by manifest: the same, and of begin
}

func newLowers(images Images, log *slog.Logger) *lowers {
	return &lowers{
		images: images, log: log,
		snaps: map[string]lazy{}, users: map[string]map[string]struct{}{}, pins: map[string]int{},
		dropping: map[string]chan struct{}{}, dropped: map[string]int{}, waiting: map[string]int{},
	}
}

// mount fills in l.lower. The directory stays at least until release is called. What cannot be mounted, and is in no
// snapshot, is forgotten.
func (w *lowers) mount(ctx context.Context, l *lazy) (release func(), err error) {
	w.mu.Lock()
	w.mounting++
	w.waiting[l.image.Manifest]++
	release, err = w.lower(ctx, l)
	if w.mounting--; w.mounting == 0 {
		clear(w.dropped)
	}
	if w.waiting[l.image.Manifest]--; w.waiting[l.image.Manifest] == 0 {
		delete(w.waiting, l.image.Manifest)
	}
	forget := err != nil && !w.wanted(l.image)
	w.mu.Unlock()
	if forget {
		w.images.Forget(l.image)
	}
	return release, err
}

// begin keeps an image wanted until end is called: with false when a pull was given up that may have begun something,
// which is forgotten if the image has no snapshot then.
func (w *lowers) begin(image Image) (end func(well bool)) {
	w.mu.Lock()
	w.waiting[image.Manifest]++
	w.mu.Unlock()
	return func(well bool) {
		w.mu.Lock()
		if w.waiting[image.Manifest]--; w.waiting[image.Manifest] == 0 {
			delete(w.waiting, image.Manifest)
		}
		forget := !well && !w.wanted(image)
		w.mu.Unlock()
		if forget {
			w.images.Forget(image)
		}
	}
}

// wanted reports whether an image has snapshots, or a pull of it is under way. The caller has w.mu.
func (w *lowers) wanted(image Image) bool {
	if w.waiting[image.Manifest] > 0 {
		return true
	}
	for _, l := range w.snaps {
		if l.image.Manifest == image.Manifest {
			return true
		}
	}
	return false
}

// lower asks Images until the answer is one that no Drop has overtaken. The caller has w.mu, which is given up meanwhile.
func (w *lowers) lower(ctx context.Context, l *lazy) (release func(), err error) {
	for {
		before := w.drops
		w.mu.Unlock()
		dir, err := w.images.Lower(ctx, l.image, l.depth)
		w.mu.Lock()
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, fmt.Errorf("image %s: %w", l.image.Ref, err)
		}
		// Somebody else's Drop may have come after Lower looked: then this directory is not, or soon no longer, mounted.
		if done := w.dropping[dir]; done != nil {
			w.mu.Unlock()
			<-done
			w.mu.Lock()
			continue
		}
		if w.dropped[dir] > before {
			continue
		}
		w.pins[dir]++
		l.lower = dir
		return func() { w.unpin(dir) }, nil
	}
}

func (w *lowers) unpin(dir string) {
	w.mu.Lock()
	if w.pins[dir]--; w.pins[dir] == 0 {
		delete(w.pins, dir)
	}
	w.dropUnused(dir)
	w.mu.Unlock()
}

// add takes note of a lazy snapshot, and of the tree that it holds from now on. It gives up the one that it held before.
func (w *lowers) add(id string, l lazy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.snaps[id].lower
	w.snaps[id] = l
	if l.lower != "" {
		if w.users[l.lower] == nil {
			w.users[l.lower] = map[string]struct{}{}
		}
		w.users[l.lower][id] = struct{}{}
	}
	if was != "" && was != l.lower {
		delete(w.users[was], id)
		w.dropUnused(was)
	}
}

// remove takes note that a lazy snapshot is gone.
func (w *lowers) remove(id string) {
	w.mu.Lock()
	l, ok := w.snaps[id]
	if !ok {
		w.mu.Unlock()
		return
	}
	delete(w.snaps, id)
	if l.lower != "" {
		delete(w.users[l.lower], id)
		w.dropUnused(l.lower)
	}
	forget := !w.wanted(l.image)
	w.mu.Unlock()
	if forget {
		w.images.Forget(l.image)
	}
}

// dropUnused drops a directory that nobody holds. The caller has w.mu, which is given up meanwhile.
func (w *lowers) dropUnused(dir string) {
	if len(w.users[dir]) > 0 || w.pins[dir] > 0 || w.dropping[dir] != nil {
		return
	}
	delete(w.users, dir)
	done := make(chan struct{})
	w.dropping[dir] = done
	w.mu.Unlock()
	err := w.images.Drop(dir)
	w.mu.Lock()
	delete(w.dropping, dir)
	w.drops++
	if w.mounting > 0 {
		w.dropped[dir] = w.drops
	}
	close(done)
	if err != nil {
		w.log.Warn("a tree that nobody uses stays mounted", "dir", dir, "err", err)
	}
}

// raise mounts the tree that a chain ends in, if it is lazy, and lets the lazy snapshot hold it.
func (s *Snapshotter) raise(ctx context.Context, c *chain) error {
	if c.id == "" {
		return nil
	}
	was := c.lazy.lower
	release, err := s.lowers.mount(ctx, &c.lazy)
	if err != nil {
		return err
	}
	defer release()
	if was == c.lazy.lower {
		return nil // it holds it since it was first mounted, or since learn
	}
	err = s.write(ctx, func(ctx context.Context) error {
		id, info, _, err := storage.GetInfo(ctx, c.name)
		if err == nil && id != c.id {
			err = fmt.Errorf("snapshot %s is another one now: %w", c.name, errdefs.ErrNotFound)
		}
		if err != nil {
			return err
		}
		_, err = addLabels(ctx, info, map[string]string{labelLower: c.lazy.lower})
		return err
	})
	if err == nil {
		s.lowers.add(c.id, c.lazy)
	}
	return err
}
