package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// busyWait is how long an unmount tries again while somebody has a file of it open: long enough for what
	// has just been killed to be gone.
	busyWait = 2 * time.Second
	// busyTick is the pause between two tries.
	busyTick = 50 * time.Millisecond
	// goneWait is how long the connection may live on after an unmount before we conclude that another mount
	// namespace, such as a container's, has it mounted too.
	goneWait = 2 * time.Second
)

// Unmount takes the mount away. While it is in use it tries again for two seconds, or until ctx ends, and then
// returns [ErrBusy]; the mount goes on working. After nil, Done is closed. It may be called again.
func (m *Mounted) Unmount(ctx context.Context) error {
	m.leaving.Store(true)
	err := m.retryBusy(ctx)
	if err != nil {
		m.leaving.Store(false)
		return err
	}
	timer := time.NewTimer(goneWait)
	defer timer.Stop()
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		m.leaving.Store(false)
		return fmt.Errorf("%w: %s was unmounted but is still served: %w", ErrBusy, m.dir, ctx.Err())
	case <-timer.C:
		m.leaving.Store(false)
		return fmt.Errorf("%w: %s was unmounted here, but another mount namespace (a container?) still has it; stop that, or unmount with --force", ErrBusy, m.dir)
	}
}

// retryBusy unmounts until it works, does something else than EBUSY, or takes too long. A try that is under way
// when the time is up is waited for: fusermount3 could still succeed after we have said that it did not.
func (m *Mounted) retryBusy(ctx context.Context) error {
	deadline := time.Now().Add(busyWait)
	for {
		err := m.unmountOnce(ctx, 0)
		if !errors.Is(err, ErrBusy) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-m.done:
			return nil
		case <-ctx.Done():
			return err
		case <-time.After(busyTick):
		}
	}
}

// Detach takes the mount away although it is in use: it leaves the mount table at once, reads that wait for
// bytes fail with EIO, and files that are open go on being served from bytes that are present. Done closes when
// the last of them is closed, or after [Mounted.Abort].
func (m *Mounted) Detach(ctx context.Context) error {
	m.leaving.Store(true)
	err := m.unmountOnce(ctx, unix.MNT_DETACH)
	if err != nil {
		m.leaving.Store(false)
	}
	m.wakeKeeper()
	return err
}

// unmountOnce is one try to unmount this very mount. The system call runs in a goroutine, because the kernel
// waits in it for READs that nobody waits for any more, which the keeper answers.
func (m *Mounted) unmountOnce(ctx context.Context, flags int) error {
	select {
	case <-m.done:
		return nil
	default:
	}
	ours, err := Mounts()
	if err != nil {
		return err
	}
	mine := slices.IndexFunc(ours, func(i MountInfo) bool { return i.Dev == m.info.Dev && i.Dir == m.dir })
	if mine < 0 {
		return nil // somebody else has unmounted it; Done tells when it is gone
	}
	if top, _ := topAt(ours, m.dir); top.Dev != m.info.Dev {
		return fmt.Errorf("%w: %s is mounted over by %s; unmount that first", ErrBusy, m.dir, top.Source)
	}
	result := make(chan error, 1)
	go func() { result <- detach(m.dir, flags) }()
	tick := time.NewTicker(busyTick)
	defer tick.Stop()
	for {
		select {
		case err := <-result:
			return err
		case <-tick.C:
			m.wakeKeeper()
		case <-ctx.Done():
			return fmt.Errorf("%w: unmounting %s: %w", ErrBusy, m.dir, ctx.Err())
		}
	}
}

// Abort cuts the connection to the kernel: every request that waits and every later one fails with ENOTCONN,
// and Done closes. The mount point stays in the mount table until it is unmounted. It is the last resort: it
// works even when every loop hangs.
func (m *Mounted) Abort() error {
	select {
	case <-m.done:
		return nil // the device number may already belong to another mount
	default:
	}
	table, err := mountTable()
	if err != nil {
		return err
	}
	return abort(table, m.info)
}

// AbortDir is [Mounted.Abort] for a mount of any process.
func AbortDir(dir string) error {
	i, err := find(dir)
	if err != nil {
		return err
	}
	table, err := mountTable()
	if err != nil {
		return err
	}
	return abort(table, i)
}

// find is the mount of ours on dir.
func find(dir string) (MountInfo, error) {
	ours, err := Mounts()
	if err != nil {
		return MountInfo{}, err
	}
	path, err := resolve(dir, ours)
	if err != nil {
		return MountInfo{}, fmt.Errorf("%w: %w; pantala status lists what is mounted", ErrNotMounted, err)
	}
	i, ok := topAt(ours, path)
	if !ok {
		return MountInfo{}, fmt.Errorf("%w: nothing of pantala is mounted on %s; pantala status lists what is", ErrNotMounted, dir)
	}
	return i, nil
}

// abort tries the control file of the connection, then a forced unmount.
func abort(table []MountInfo, i MountInfo) error {
	_, minor, _ := strings.Cut(i.Dev, ":")
	var failures []error
	for _, t := range table {
		if t.Type != "fusectl" { // usually /sys/fs/fuse/connections
			continue
		}
		err := os.WriteFile(filepath.Join(t.Dir, minor, "abort"), []byte("1"), 0)
		if err == nil {
			return nil
		}
		failures = append(failures, err)
	}
	if top, ok := topAt(table, i.Dir); !ok || top.Dev != i.Dev {
		return fmt.Errorf("%w: cannot abort %s, which is not at the top of its mount point; mount fusectl: mount -t fusectl none /sys/fs/fuse/connections", ErrNotMounted, i.Dir)
	}
	// A forced unmount aborts first (fuse_umount_begin); that it then fails with EBUSY if somebody has files
	// open is of no interest here.
	err := unix.Unmount(i.Dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
	if err == nil || err == unix.EBUSY {
		return nil
	}
	return fmt.Errorf("cannot abort %s: %w; stop its server instead", i.Dir, errors.Join(append(failures, err)...))
}

// UnmountDir unmounts a mount of ours that this process need not serve, for example one whose server is dead.
// With force it is detached even if it is in use.
func UnmountDir(dir string, force bool) error {
	i, err := find(dir)
	if err != nil {
		return err
	}
	err = detach(i.Dir, 0)
	if errors.Is(err, ErrBusy) && force {
		err = detach(i.Dir, unix.MNT_DETACH)
	}
	return err
}

// detach unmounts path by umount2(2), or by fusermount3 without the right to that.
func detach(path string, flags int) error {
	err := unix.Unmount(path, flags|unix.UMOUNT_NOFOLLOW)
	if err == unix.EPERM {
		return detachHelper(path, flags)
	}
	switch err {
	case nil:
		return nil
	case unix.EBUSY:
		return busyError(path)
	case unix.EINVAL, unix.ENOENT:
		return fmt.Errorf("%w: %s: %w; pantala status lists what is mounted", ErrNotMounted, path, err)
	}
	return fmt.Errorf("cannot unmount %s: %w; try umount %s as root", path, err, path)
}

func busyError(path string) error {
	return fmt.Errorf("%w: somebody has %s open (fuser -vm %s shows who); close it, or unmount with --force", ErrBusy, path, path)
}

// detachHelper unmounts by fusermount3, which lets the owner of a mount do so.
func detachHelper(path string, flags int) error {
	helper, err := fusermount()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if flags&unix.MNT_DETACH != 0 {
		args = append(args, "-z")
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper, append(args, "--", path)...)
	cmd.Dir = "/"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		text, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		switch {
		case strings.Contains(text, "busy"):
			return busyError(path)
		case strings.Contains(text, "not found in"), strings.Contains(text, "not mounted"):
			return fmt.Errorf("%w: %s; pantala status lists what is mounted", ErrNotMounted, text)
		}
		return fmt.Errorf("cannot unmount %s: %s (%w); try umount %s as root", path, text, err, path)
	}
	return nil
}
