package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/tree"
	"github.com/pantala/pantala/origin/registry"
)

// rootfs is the merged tree of the first layers of an image, mounted below the state directory. Whoever wants to see
// it binds it, or puts an overlay on it.
type rootfs struct {
	key     blob.Hash
	image   *registry.Image // of whoever opened it
	depth   int
	options control.Options // of whoever opened it: how its layers are fetched
	refs    int             // guarded by images.mu
	ready   chan struct{}
	gone    chan struct{}

	// Constant after ready.
	err     error
	layers  []*layer
	dir     string        // where it is mounted; "": nowhere
	meta    string        // path of its metadata
	flat    *flat         // the file that it is mounted from, through a loop device; nil: none
	backing erofs.Backing // of what the kernel has mounted; "": not known, or it has not
	served  *fs.Mounted   // the mount, where the kernel cannot mount it by itself; else nil
	tree    *erofs.Image  // what served reads
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
}

// treeVersion changes when merging or writing gives another tree for the same layers.
const treeVersion = "pantala-tree-v1"

// treeKey names the tree of the first depth layers of an image.
func treeKey(img *registry.Image, depth int) blob.Hash {
	h := sha256.New()
	h.Write([]byte(treeVersion))
	if n, ok := nydusOf(img); ok { // the same layers may be listed as ordinary ones
		d := n.layer().Digest
		h.Write(d[:])
	}
	for _, l := range img.Layers[:depth] {
		h.Write(l.Digest[:])
	}
	return blob.Hash(h.Sum(nil))
}

// acquireTree returns a tree that is mounted. The caller ends with releaseTree.
func (s *images) acquireTree(ctx context.Context, img *registry.Image, depth int, o control.Options) (*rootfs, error) {
	if depth < 1 || depth > len(img.Layers) {
		return nil, fmt.Errorf("%w: %s has %d layers, and %d of them are asked for", blob.ErrInvalid, img.Ref, len(img.Layers), depth)
	}
	key := treeKey(img, depth)
	for {
		s.mu.Lock()
		t := s.trees[key]
		if t != nil && t.refs == 0 {
			s.mu.Unlock()
			select {
			case <-t.gone:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		first := t == nil
		if first {
			t = &rootfs{key: key, image: img, depth: depth, options: o, ready: make(chan struct{}), gone: make(chan struct{})}
			t.ctx, t.cancel = context.WithCancel(s.n.asking)
			s.trees[key] = t
		}
		t.refs++
		s.mu.Unlock()
		if first {
			s.n.wg.Go(func() {
				defer close(t.ready)
				t.err = s.openTree(t.ctx, t)
			})
		}
		select {
		case <-t.ready:
		case <-ctx.Done():
			s.releaseTree(t)
			return nil, context.Cause(ctx)
		}
		err := t.err
		for _, l := range t.layers {
			if err == nil && s.strict(o) {
				err = s.strictly(l)
			}
		}
		if err != nil {
			s.releaseTree(t)
			return nil, err
		}
		return t, nil
	}
}

// openTree opens the layers, merges them, and mounts the result.
func (s *images) openTree(ctx context.Context, t *rootfs) error {
	select {
	case <-s.settled:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	layers, err := treeLayers(t.image, t.depth)
	if err != nil {
		return err
	}
	a := s.ask(t.image, layers, t.options)
	if t.layers, err = s.acquireAll(ctx, t.image, layers, a); err != nil {
		return err
	}
	s.learnOrder(t, a) // what will be read first comes while the tree is still being made
	meta, err := s.writeTree(t)
	if err != nil {
		return err
	}
	t.meta = meta
	if os.Geteuid() != 0 {
		return nil // who wants to see it mounts it for himself
	}
	if t.dir, err = s.path("mnt", t.key.String()[:32]); err != nil {
		return err
	}
	if mounted(t.dir) { // by an earlier process, over the same layers
		s.n.log.Info("image is still mounted", "image", t.image.Ref, "layers", t.depth, "dir", t.dir)
		t.flat = s.takeFlat(t.meta)
		t.backing = notedBacking(t)
		s.unkeep(t.layers)
		s.readAhead(t)
		return nil
	}
	if err := clearDir(t.dir); err != nil {
		return control.Local(err)
	}
	if err := s.mountTree(ctx, t); err != nil {
		t.dir = ""
		return control.Local(fmt.Errorf("mounting %s: %w", t.image.Ref, err))
	}
	s.readAhead(t)
	s.n.log.Info("image is readable", "image", t.image.Ref, "layers", t.depth, "dir", t.dir, "by", s.how)
	return nil
}

// mountTree mounts a tree at its directory.
func (s *images) mountTree(ctx context.Context, t *rootfs) (err error) {
	switch s.how {
	case config.Files:
		t.served, t.tree, err = s.serve(ctx, t, t.dir)
		return err
	case config.Loop:
		if t.flat = s.takeFlat(t.meta); t.flat == nil {
			if t.flat, err = s.serveFlat(ctx, t.meta, t.layers); err != nil {
				return err
			}
		}
		t.backing, err = erofs.MountFlat(ctx, t.flat.path, t.dir)
	default:
		var devices []string
		for _, l := range t.layers {
			devices = append(devices, l.path)
		}
		t.backing, err = erofs.Mount(ctx, t.meta, devices, t.dir)
	}
	if err == nil {
		s.noteBacking(t)
	}
	return err
}

// unknown are those of layers whose index is not known here.
func (s *images) unknown(layers []registry.Layer, strict bool) (all []registry.Layer) {
	for _, d := range layers {
		if k, ok := s.knownIndexOf(d.Digest); !ok || strict && k.Trust <= blob.Claimed {
			all = append(all, d)
		}
	}
	return all
}

// serve mounts a tree at dir whose every file this process answers for: for users who may not, and kernels that cannot,
// mount EROFS.
func (s *images) serve(ctx context.Context, t *rootfs, dir string) (*fs.Mounted, *erofs.Image, error) {
	img, err := erofs.OpenFile(t.meta)
	if err != nil {
		return nil, nil, err
	}
	m, err := fs.MountImage(ctx, dir, img, devicesOf(t.layers), fs.Options{AllowOther: s.n.cfg.AllowOther, Log: s.n.log, FSName: t.image.Ref.String()})
	if err != nil {
		img.Close()
		return nil, nil, err
	}
	return m, img, nil
}

// devicesOf are the devices of layers, as they are served.
func devicesOf(layers []*layer) []fs.Blob {
	all := make([]fs.Blob, len(layers))
	for i, l := range layers {
		all[i] = l.device
	}
	return all
}

// unserve unmounts what serve has mounted, in use or not. Who still has a file of it open gets errors from then on.
func (s *images) unserve(ctx context.Context, m *fs.Mounted, img *erofs.Image) error {
	ctx, cancel := context.WithTimeout(ctx, unmountWait)
	defer cancel()
	var err error
	used := inUse(m.Dir())
	if !used {
		err = m.Unmount(ctx)
	}
	if used || err != nil { // while it is in the mount table it can be aborted without fusectl
		err = errors.Join(m.Abort(), m.Detach(context.WithoutCancel(ctx)))
	}
	select {
	case <-m.Done():
	case <-time.After(abortWait):
		err = errors.Join(err, fmt.Errorf("%s goes on being served, because it is in use and the connection cannot be cut: mount -t fusectl none /sys/fs/fuse/connections", m.Dir()))
	}
	return errors.Join(err, img.Close())
}

// acquireAll acquires layers, all at the same time. The first that fails ends it; the others are given back when they
// are there, which leaves what has been learnt of them.
func (s *images) acquireAll(ctx context.Context, img *registry.Image, descs []registry.Layer, a *asked) ([]*layer, error) {
	type result struct {
		at    int
		layer *layer
		err   error
	}
	results := make(chan result, len(descs))
	for i, d := range descs {
		s.n.wg.Go(func() {
			l, err := s.acquire(ctx, img, d, a)
			results <- result{i, l, err}
		})
	}
	layers := make([]*layer, len(descs))
	for left := len(descs); left > 0; left-- {
		r := <-results
		layers[r.at] = r.layer
		if r.err == nil {
			continue
		}
		s.n.wg.Go(func() {
			for range left - 1 {
				r := <-results
				layers[r.at] = r.layer
			}
			for _, l := range layers {
				if l != nil {
					s.releaseLayer(l)
				}
			}
		})
		return nil, r.err
	}
	return layers, nil
}

// writeTree merges the layers and writes the metadata, unless an earlier one did.
func (s *images) writeTree(t *rootfs) (string, error) {
	// Of the same layers another index may say something else.
	h := sha256.New()
	for _, l := range t.layers {
		h.Write(l.known.Digest[:])
	}
	path, err := s.path("trees", fmt.Sprintf("%v-%x.erofs", t.key, h.Sum(nil)[:8]))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	var layers []tree.Layer
	for _, l := range t.layers {
		layers = append(layers, tree.Layer{Name: "sha256:" + l.desc.Digest.String(), Entries: l.index.Entries(), Size: l.index.Size, Overlay: build.IsImage(l.index.Format)})
	}
	merged, err := tree.Merge(layers)
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.image.Ref, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return "", control.Local(fmt.Errorf("state directory: %w", err))
	}
	_, err = erofs.Write(f, merged, erofs.Options{UUID: [16]byte(t.key[:16])})
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return "", control.Local(fmt.Errorf("metadata of %s: %w", t.image.Ref, err))
	}
	return path, nil
}

// releaseTree gives an acquired tree back; the last one unmounts it.
func (s *images) releaseTree(t *rootfs) {
	s.mu.Lock()
	t.refs--
	last := t.refs == 0
	s.mu.Unlock()
	if !last {
		return
	}
	t.cancel()
	s.n.wg.Go(func() {
		<-t.ready
		if err := s.closeTree(context.WithoutCancel(s.n.ctx), t); err != nil {
			s.n.log.Warn("an image stays mounted", "image", t.image.Ref, "dir", t.dir, "err", err)
		}
	})
}

// closeTree unmounts a tree and gives its layers back.
func (s *images) closeTree(ctx context.Context, t *rootfs) error {
	t.cancel()
	t.work.Wait()
	var err error
	switch {
	case t.served != nil:
		err = s.unserve(ctx, t.served, t.tree)
	case t.dir != "":
		ctx, cancel := context.WithTimeout(ctx, unmountWait)
		defer cancel()
		if err = unmountDir(ctx, t.dir); err != nil {
			err = errors.Join(err, detachDir(t.dir))
		}
		os.Remove(t.dir)
	}
	s.giveBack(t)
	s.n.rest()
	return err
}

// giveBack gives the layers of a tree back that is not served any more.
func (s *images) giveBack(t *rootfs) {
	if t.flat == nil || s.closeFlat(t.flat, t.layers) {
		for _, l := range slices.Backward(t.layers) {
			s.releaseLayer(l)
		}
	}
	s.mu.Lock()
	delete(s.trees, t.key)
	s.mu.Unlock()
	close(t.gone)
}

// freeTree removes what is kept of a tree that is not mounted any more.
func (s *images) freeTree(t *rootfs) {
	all, _ := filepath.Glob(filepath.Join(s.dir, "trees", t.key.String()+"-*.erofs*"))
	for _, path := range all {
		os.Remove(path)
	}
	s.n.profiles.remove(t.image.Manifest)
}
