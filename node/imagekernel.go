package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	pfs "github.com/pantala/pantala/fs"
)

// bindReadOnly shows what is mounted at from also at to (mount(2), MS_BIND).
func bindReadOnly(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("showing the image at %s: %w", to, err)
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(fmt.Errorf("making %s read-only: %w", to, err), detachDir(to))
	}
	return nil
}

// unmountDir unmounts a directory. While it is busy it tries again until ctx ends: after an overlay or EROFS has gone,
// what was below it stays busy for a moment.
func unmountDir(ctx context.Context, dir string) error {
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // it is not mounted any more
			return nil
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmounting %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is in use: close what uses it (lsof +f -- %s), or unmount it with --force: %w", dir, dir, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// detachDir takes a mount out of the file tree, in use or not.
func detachDir(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("detaching %s: %w", dir, err)
	}
	return nil
}

// clearDir makes a directory of the state, after taking away what a process that is gone has served there.
func clearDir(dir string) error {
	dead, err := pfs.Below(dir)
	for _, m := range slices.Backward(dead) {
		err = errors.Join(err, detachDir(m.Dir))
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// allocated is how many bytes a file takes on disk: st_blocks counts 512 bytes each (stat(2)).
func allocated(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}
