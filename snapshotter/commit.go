package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

// Commit implements snapshots.Snapshotter.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	info, err := asked(opts)
	if err != nil {
		return err
	}
	var id string
	err = s.read(ctx, func(ctx context.Context) error {
		id, _, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("commit of %s: %w", key, err)
	}
	usage, err := fs.DiskUsage(ctx, s.upper(id))
	if err != nil {
		return fmt.Errorf("commit of %s: %w", key, err)
	}
	return s.write(ctx, func(ctx context.Context) error {
		if _, err := storage.CommitActive(ctx, key, name, snapshots.Usage(usage), again(info)...); err != nil {
			return fmt.Errorf("commit of %s: %w", key, err)
		}
		return nil
	})
}

// Remove implements snapshots.Snapshotter. Files that cannot be removed now are left to Cleanup.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	var id string
	err := s.write(ctx, func(ctx context.Context) (err error) {
		id, _, err = storage.Remove(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove of %s: %w", key, err)
	}
	if err := os.RemoveAll(s.dir(id)); err != nil {
		s.log.Warn("files of a removed snapshot stay until the next cleanup", "snapshot", key, "err", err)
	}
	s.lowers.remove(id)
	return nil
}

// Cleanup implements snapshots.Cleaner: it removes directories that belong to no snapshot.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	snaps := filepath.Join(s.root, "snapshots")
	var gone []string
	// Renamed inside of the transaction, because after it the same id may be given to a new snapshot.
	err := s.write(ctx, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) { // nothing was ever stored
			return err
		}
		entries, err := os.ReadDir(snaps)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, ok := ids[e.Name()]; ok {
				continue
			}
			dir := filepath.Join(snaps, e.Name())
			if !strings.HasPrefix(e.Name(), goneName) {
				dir = filepath.Join(snaps, goneName+e.Name())
				if err := os.Rename(filepath.Join(snaps, e.Name()), dir); err != nil {
					return err
				}
			}
			gone = append(gone, dir)
		}
		return nil
	})
	for _, dir := range gone {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// goneName begins the name of what is being removed.
const goneName = "gone-"
