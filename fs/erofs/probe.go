package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// Support is what this machine can do.
type Support struct {
	Files error // nil: Mount works
	Loop  error // nil: MountFlat works
}

// String is a line for people.
func (s Support) String() string {
	switch {
	case s.Files == nil:
		return "EROFS over files"
	case s.Loop == nil:
		return "EROFS through a loop device, because over files: " + s.Files.Error()
	}
	return "no EROFS: over files: " + s.Files.Error() + "; through a loop device: " + s.Loop.Error()
}

// Probe finds out by mounting an empty tree in both ways, in a temporary directory. It takes
// some milliseconds.
func Probe(ctx context.Context) Support {
	dir, err := os.MkdirTemp("", "pantala-probe-")
	if err != nil {
		return Support{err, err}
	}
	defer os.RemoveAll(dir)
	meta, device, at := filepath.Join(dir, "meta"), filepath.Join(dir, "device"), filepath.Join(dir, "mnt")
	if err := probeFiles(meta, device, at); err != nil {
		return Support{err, err}
	}
	var s Support
	s.Files = tryMount(ctx, at, func() error { _, err := Mount(ctx, meta, []string{device}, at); return err })
	s.Loop = tryMount(ctx, at, func() error { _, err := MountFlat(ctx, meta, at); return err })
	return s
}

// probeFiles makes what Probe mounts: an image with one empty layer.
func probeFiles(meta, device, at string) error {
	if err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(device, nil, 0o600)); err != nil {
		return err
	}
	t, err := tree.Merge([]tree.Layer{{Name: "probe", Entries: noEntries}})
	if err != nil {
		return err
	}
	f, err := os.Create(meta)
	if err != nil {
		return err
	}
	_, err = Write(f, t, Options{})
	return errors.Join(err, f.Close())
}

func tryMount(ctx context.Context, at string, how func() error) error {
	if err := how(); err != nil {
		return err
	}
	if err := Unmount(ctx, at); err != nil {
		return fmt.Errorf("it could be mounted, but not unmounted: %w", err)
	}
	return nil
}

func noEntries(func(index.Entry, error) bool) {}
