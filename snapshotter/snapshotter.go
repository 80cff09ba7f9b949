package snapshotter

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"

	"github.com/pantala/pantala/blob"
)

// Snapshotter keeps snapshots below one directory:
//
//	metadata.db      who is whose parent
//	snapshots/ID/fs  what an active or ordinary snapshot changes
//	          /work  what overlayfs wants beside it
type Snapshotter struct {
	root    string
	meta    *storage.MetaStore
	images  Images
	log     *slog.Logger
	options []string // of every overlay mount
	decided decisions
	lowers  *lowers
}

var _ interface {
	snapshots.Snapshotter
	snapshots.Cleaner
} = (*Snapshotter)(nil)

// New opens the snapshots below root, or begins there. One process at a time may have a root; ErrInvalid when it
// cannot hold snapshots at all.
func New(root string, images Images, log *slog.Logger) (*Snapshotter, error) {
	if strings.ContainsAny(root, `:,\`) {
		return nil, fmt.Errorf("%w: the snapshotter's directory %s has one of : , \\ in its name, which separate options of overlayfs: choose another", blob.ErrInvalid, root)
	}
	if err := os.MkdirAll(filepath.Join(root, "snapshots"), 0o700); err != nil {
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	if ok, err := fs.SupportsDType(root); err != nil {
		return nil, fmt.Errorf("snapshotter: %s: %w", root, err)
	} else if !ok {
		return nil, fmt.Errorf("%w: %s is on a file system without d_type, which overlayfs needs (xfs: mkfs with ftype=1): choose another", blob.ErrInvalid, root)
	}
	meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
	if err != nil {
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	s := &Snapshotter{root: root, meta: meta, images: images, log: log, lowers: newLowers(images, log), options: overlayOptions(root, log)}
	s.decided.init(images, log)
	if err := s.learn(context.Background()); err != nil {
		meta.Close()
		return nil, err
	}
	return s, nil
}

// overlayOptions are what this machine wants in every overlay mount: index=off, because a lower directory serves many uppers,
// and userxattr inside of a user namespace.
func overlayOptions(root string, log *slog.Logger) (options []string) {
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		options = append(options, "index=off")
	}
	user, err := overlayutils.NeedsUserXAttr(root)
	if err != nil {
		log.Warn("cannot tell whether overlayfs needs userxattr here", "assumed", user, "err", err)
	}
	if user {
		options = append(options, "userxattr")
	}
	return options
}

// Close closes the metadata. Mounts stay.
func (s *Snapshotter) Close() error { return s.meta.Close() }

func (s *Snapshotter) dir(id string) string   { return filepath.Join(s.root, "snapshots", id) }
func (s *Snapshotter) upper(id string) string { return filepath.Join(s.root, "snapshots", id, "fs") }
func (s *Snapshotter) work(id string) string  { return filepath.Join(s.root, "snapshots", id, "work") }

func (s *Snapshotter) read(ctx context.Context, f func(context.Context) error) error {
	return s.meta.WithTransaction(ctx, false, f)
}

func (s *Snapshotter) write(ctx context.Context, f func(context.Context) error) error {
	return s.meta.WithTransaction(ctx, true, f)
}

// Stat implements snapshots.Snapshotter.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update implements snapshots.Snapshotter. Labels that are ours stay as they are.
func (s *Snapshotter) Update(ctx context.Context, want snapshots.Info, fields ...string) (info snapshots.Info, err error) {
	for _, f := range fields {
		if name, ok := strings.CutPrefix(f, "labels."); ok && strings.HasPrefix(name, labelPrefix) {
			return info, fmt.Errorf("label %s is pantala's own: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	want.Labels = foreign(want.Labels)
	err = s.write(ctx, func(ctx context.Context) error {
		_, before, _, err := storage.GetInfo(ctx, want.Name)
		if err != nil {
			return err
		}
		if info, err = storage.UpdateInfo(ctx, want, fields...); err != nil {
			return err
		}
		if l, ok := lazyOf(before.Labels); ok {
			info, err = addLabels(ctx, info, l.labels())
		}
		return err
	})
	return info, err
}

// addLabels gives a snapshot more labels.
func addLabels(ctx context.Context, info snapshots.Info, more map[string]string) (snapshots.Info, error) {
	fields := make([]string, 0, len(more))
	for k := range more {
		fields = append(fields, "labels."+k)
	}
	return storage.UpdateInfo(ctx, snapshots.Info{Name: info.Name, Labels: more}, fields...)
}

// Walk implements snapshots.Snapshotter. fn is called outside of a transaction.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	var all []snapshots.Info
	err := s.read(ctx, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			all = append(all, info)
			return nil
		}, filters...)
	})
	if errdefs.IsNotFound(err) {
		return nil // nothing was ever stored
	}
	for _, info := range all {
		if err == nil {
			err = fn(ctx, info)
		}
	}
	return err
}

// Usage implements snapshots.Snapshotter. Of a lazy snapshot it is what of its layer is here.
func (s *Snapshotter) Usage(ctx context.Context, key string) (u snapshots.Usage, err error) {
	var id string
	var info snapshots.Info
	err = s.read(ctx, func(ctx context.Context) error {
		id, info, u, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return u, err
	}
	if l, ok := lazyOf(info.Labels); ok {
		size, inodes := s.images.Usage(l.image, l.depth)
		return snapshots.Usage{Size: size, Inodes: inodes}, nil
	}
	if info.Kind == snapshots.KindActive {
		du, err := fs.DiskUsage(ctx, s.upper(id))
		return snapshots.Usage(du), err
	}
	return u, nil
}

// Mounts implements snapshots.Snapshotter.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var snap storage.Snapshot
	var c chain
	err := s.read(ctx, func(ctx context.Context) (err error) {
		if snap, err = storage.GetSnapshot(ctx, key); err != nil {
			return err
		}
		_, info, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		c, err = chainOf(ctx, info.Parent)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.raise(ctx, &c); err != nil {
		return nil, err
	}
	return s.mounts(snap.Kind, snap.ID, c), nil
}
