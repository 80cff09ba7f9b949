package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/device"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/snapshotter"
)

// door is the node as containerd's snapshotter sees it. An image that containerd has begun to pull is held, with its
// whole tree, until containerd forgets it: then neighbours can have its bytes, and its container starts at once.
type door struct{ s *images }

var _ snapshotter.Images = door{}

// preparation is a tree that is being made ready before anybody asks for it; stop ends that.
type preparation struct{ stop context.CancelFunc }

// Prepare implements snapshotter.Images.
func (d door) Prepare(ctx context.Context, i snapshotter.Image) ([]string, error) {
	s := d.s
	if os.Geteuid() != 0 {
		return nil, errors.New("mounting an image needs root: run pantala as root")
	}
	img, err := s.imageOf(ctx, i)
	if err != nil {
		return nil, err
	}
	diffIDs := make([]string, len(img.Layers))
	for n, l := range img.Layers {
		diffIDs[n] = "sha256:" + l.DiffID.String()
	}
	p := new(preparation)
	var wanted context.Context
	wanted, p.stop = context.WithCancel(s.n.asking)
	s.mu.Lock()
	forgets := s.forgets[i.Manifest]
	s.begun[i.Manifest] = append(s.begun[i.Manifest], p)
	s.mu.Unlock()
	s.n.wg.Go(func() { // Lower, which is asked for next, tells of an error
		defer p.stop()
		t, err := s.acquireTree(wanted, img, len(img.Layers), control.Options{})
		if err == nil {
			s.hold(i, t)
		}
		s.mu.Lock()
		rest := slices.DeleteFunc(s.begun[i.Manifest], func(o *preparation) bool { return o == p })
		if s.begun[i.Manifest] = rest; len(rest) == 0 {
			delete(s.begun, i.Manifest)
		}
		forgotten := s.forgets[i.Manifest] != forgets
		s.mu.Unlock()
		if forgotten {
			d.Forget(i)
		}
	})
	return diffIDs, nil
}

// Lower implements snapshotter.Images.
func (d door) Lower(ctx context.Context, i snapshotter.Image, depth int) (string, error) {
	img, err := d.s.imageOf(ctx, i)
	if err != nil {
		return "", err
	}
	t, err := d.s.acquireTree(ctx, img, depth, control.Options{})
	if err != nil {
		return "", err
	}
	d.s.hold(i, t)
	return t.dir, nil
}

// Drop implements snapshotter.Images. Layers that no other tree needs go as well, even though others of the image may
// be needed for longer.
func (d door) Drop(dir string) error {
	s := d.s
	s.mu.Lock()
	var dropped []*rootfs
	for manifest, held := range s.held {
		if t := held[dir]; t != nil {
			delete(held, dir)
			dropped = append(dropped, t)
		}
		if len(held) == 0 {
			delete(s.held, manifest)
		}
	}
	s.mu.Unlock()
	s.discard(dropped)
	return nil
}

// Forget implements snapshotter.Images.
func (d door) Forget(i snapshotter.Image) {
	s := d.s
	s.mu.Lock()
	s.forgets[i.Manifest]++
	held := slices.Collect(maps.Values(s.held[i.Manifest]))
	delete(s.held, i.Manifest)
	for _, p := range s.begun[i.Manifest] {
		p.stop()
	}
	s.mu.Unlock()
	s.discard(held)
	if len(held) > 0 {
		return
	}
	// Its pull has failed, or what was mounted was dropped: what layers have left is found by the manifest.
	s.n.wg.Go(func() {
		img, err := s.imageOf(s.n.asking, i)
		if err != nil {
			s.n.log.Warn("something of a removed image may stay", "image", i.Ref, "err", err)
			return
		}
		s.freeLayers(img, len(img.Layers))
	})
}

// discard gives trees back, and removes what is kept of them and of layers that nobody uses any more.
func (s *images) discard(trees []*rootfs) {
	for _, t := range trees {
		s.releaseTree(t)
	}
	s.n.wg.Go(func() {
		for _, t := range trees {
			s.mu.Lock()
			used := t.refs > 0
			s.mu.Unlock()
			if used {
				continue
			}
			<-t.gone
			s.freeLayers(t.image, t.depth)
			s.freeTree(t)
		}
	})
}

// Usage implements snapshotter.Images.
func (d door) Usage(i snapshotter.Image, depth int) (size, inodes int64) {
	s := d.s
	s.mu.Lock()
	var desc *registry.Layer
	for _, t := range s.held[i.Manifest] {
		if depth >= 1 && depth <= len(t.image.Layers) {
			desc = &t.image.Layers[depth-1]
		}
	}
	s.mu.Unlock()
	if desc == nil {
		return 0, 0
	}
	if info, ok := s.n.store.Lookup(blob.DigestID(desc.Digest)); ok {
		size, inodes = size+info.Allocated, inodes+4 // data, leaves, log, meta.json
	}
	if path, err := s.path("decoded", desc.Digest.String()); err == nil {
		if st, err := os.Stat(path); err == nil {
			size, inodes = size+allocated(st), inodes+1
		}
	}
	return size, inodes
}

// hold keeps a tree for containerd, once however often it is asked for: the caller's reference becomes that one, or is
// given back.
func (s *images) hold(i snapshotter.Image, t *rootfs) {
	s.mu.Lock()
	held := s.held[i.Manifest]
	if held == nil {
		held = map[string]*rootfs{}
		s.held[i.Manifest] = held
	}
	again := held[t.dir] == t || s.closing
	if !again {
		held[t.dir] = t
	}
	s.mu.Unlock()
	if again {
		s.releaseTree(t)
	}
}

// free removes what is kept of a layer that no tree needs: at once, or when whoever is still opening it has given it
// back, unless somebody has wanted it anew by then.
func (s *images) free(d registry.Layer) {
	s.mu.Lock()
	l := s.layers[d.Digest]
	if l != nil {
		l.doomed = !s.wanted(d.Digest)
	}
	s.mu.Unlock()
	if l == nil {
		s.erase(d)
	}
}

// wanted reports whether a tree that somebody has is made of a layer. Needs mu.
func (s *images) wanted(digest blob.Hash) bool {
	for _, t := range s.trees {
		if layers, err := treeLayers(t.image, t.depth); err == nil && t.refs > 0 && slices.ContainsFunc(layers, func(l registry.Layer) bool { return l.Digest == digest }) {
			return true
		}
	}
	return false
}

// erase removes what is kept of a layer that nobody uses.
func (s *images) erase(d registry.Layer) {
	path, err := s.path("decoded", d.Digest.String())
	if err == nil {
		err = device.Remove(path)
	}
	ids := []blob.ID{blob.DigestID(d.Digest)}
	if k, ok := s.knownIndexOf(d.Digest); ok {
		ids = append(ids, k.link().ID())
	}
	for _, id := range ids {
		if info, ok := s.n.store.Lookup(id); ok && !info.Pinned {
			err = errors.Join(err, s.n.store.Remove(id))
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.n.log.Warn("something of a removed image stays", "layer", d.Digest, "err", err)
	}
}

// imageOf resolves what containerd names: the very manifest, which is remembered once it has been read.
func (s *images) imageOf(ctx context.Context, i snapshotter.Image) (*registry.Image, error) {
	ref, err := registry.Parse(i.Ref)
	if err != nil {
		return nil, err
	}
	if i.Manifest != "" {
		digest, err := blob.ParseDigest(i.Manifest)
		if err != nil {
			return nil, err
		}
		ref = ref.At(digest)
	}
	img, _, err := s.resolve(ctx, ref.String(), "", control.Options{})
	return img, err
}

// SnapshotsDir is where a node with this state directory keeps containerd's snapshots.
func SnapshotsDir(state string) string { return filepath.Join(imagesDir(state), "snapshots") }

// ServeSnapshotter serves containerd's snapshotter on a unix socket until the node is closed.
func (n *Node) ServeSnapshotter(socket string) error {
	s, err := n.imageDoor()
	if err != nil {
		return err
	}
	server, err := snapshotter.New(SnapshotsDir(n.cfg.State), door{s}, n.log)
	if err != nil {
		return control.Local(fmt.Errorf("snapshotter: %w", err))
	}
	served := make(chan struct{})
	n.mu.Lock()
	n.doors = append(n.doors, func() error {
		<-served
		return server.Close()
	})
	n.mu.Unlock()
	n.wg.Go(func() {
		defer close(served)
		if err := server.Serve(n.asking, socket); err != nil && n.asking.Err() == nil {
			n.log.Error("containerd's snapshotter is not served any more", "err", err)
			n.mu.Lock()
			n.end()
			n.mu.Unlock()
		}
	})
	return nil
}
