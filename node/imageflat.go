package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/fs/erofs"
)

// A kernel that reads EROFS from block devices only (before Linux 6.12) gets a tree as one file of the FUSE mount in which
// else each incomplete layer is one: the metadata, then all layers (fs.Flat). A loop device makes a block device of it.
// Whatever the layers' own files have, this one has as well: it survives the process, its reads are counted, bounded and
// recorded as those of its layers, which it reads from.

// flat is such a file.
type flat struct {
	name, path string
	image      *erofs.Image // its metadata

	layers []*layer // of one that no tree has: acquired for it
}

// flatPrefix begins the name of such a file; that of its metadata follows.
const flatPrefix = "tree-"

func flatName(meta string) string { return flatPrefix + filepath.Base(meta) }

// serveFlat shows a tree as one file.
func (s *images) serveFlat(ctx context.Context, meta string, layers []*layer) (*flat, error) {
	mount, err := s.deviceMount(ctx)
	if err != nil {
		return nil, err
	}
	f := &flat{name: flatName(meta)}
	id, err := s.nodeID(f.name)
	if err != nil {
		return nil, err
	}
	if f.image, err = erofs.OpenFile(meta); err != nil {
		return nil, control.Local(err)
	}
	all, err := fs.NewFlat(f.image, devicesOf(layers))
	if err == nil {
		f.path, err = mount.Add(id, f.name, all)
	}
	if err != nil {
		f.image.Close()
		return nil, control.Local(err)
	}
	return f, nil
}

// takeFlat is the file of a tree, with this metadata, that is served already though no tree has it; nil: there is none.
// The caller has the layers.
func (s *images) takeFlat(meta string) *flat {
	s.mu.Lock()
	f := s.flats[flatName(meta)]
	delete(s.flats, flatName(meta))
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	for _, l := range f.layers {
		s.releaseLayer(l)
	}
	f.layers = nil
	return f
}

// closeFlat ends the serving of a tree's file. False: somebody still has it open, by a mount that was taken out of the
// file tree; it stays, with its layers, until the tree is wanted again or the node is closed.
func (s *images) closeFlat(f *flat, layers []*layer) bool {
	wait := unmountWait // what reads it has been unmounted; reads that the kernel had begun by then end when their time is over
	for _, l := range layers {
		wait = max(wait, l.stored.patience.timeout+unmountWait)
	}
	for end := time.Now().Add(wait); ; {
		s.mu.Lock()
		mount, closing := s.devices, s.closing
		s.mu.Unlock()
		if mount == nil {
			break // a successor's, or gone
		}
		err := mount.Remove(f.name)
		if errors.Is(err, fs.ErrBusy) && !closing {
			if time.Now().Before(end) {
				continue // Remove has waited for two seconds
			}
			s.n.log.Warn("an image stays", "file", f.name, "err", err)
			f.layers = layers
			s.mu.Lock()
			s.flats[f.name] = f
			s.mu.Unlock()
			return false
		}
		if err != nil {
			s.n.log.Warn("an image stays", "file", f.name, "err", err)
		}
		break
	}
	if err := f.image.Close(); err != nil {
		s.n.log.Warn("closing an image", "file", f.name, "err", err)
	}
	return true
}

// dropFlats ends what takeFlat would find, when nothing is wanted any more.
func (s *images) dropFlats() {
	for _, f := range s.flats {
		layers := f.layers
		s.closeFlat(f, layers)
		for _, l := range layers {
			s.releaseLayer(l)
		}
	}
}

// adoptFlat opens the layers of a tree whose file an earlier process has served, and serves it from them.
func (s *images) adoptFlat(ctx context.Context, name string) error {
	meta, err := s.path("trees", strings.TrimPrefix(name, flatPrefix))
	if err != nil {
		return err
	}
	img, err := erofs.OpenFile(meta)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	table := img.Devices()
	img.Close()
	layers := make([]*layer, len(table))
	done := make(chan error, len(table))
	for i, d := range table {
		s.n.wg.Go(func() {
			var err error
			layers[i], err = s.adoptLayer(ctx, d.Tag)
			done <- err
		})
	}
	for range table {
		err = errors.Join(err, <-done)
	}
	var f *flat
	if err == nil {
		f, err = s.serveFlat(ctx, meta, layers)
	}
	if err != nil {
		for _, l := range layers {
			if l != nil {
				s.releaseLayer(l)
			}
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	f.layers = layers
	s.mu.Lock()
	s.flats[name] = f
	s.mu.Unlock()
	return nil
}
