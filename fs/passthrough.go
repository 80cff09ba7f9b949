package fs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// switchOver waits until the only file of a mount is complete, then hands new opens to the kernel. It runs in a
// goroutine of its own because the kernel makes a notification wait for lookups that only the loops can answer.
func (m *Mounted) switchOver(f *leaf) {
	select {
	case <-m.dead:
		return
	case <-f.blob.Completed():
	}
	if !m.registerBacking(f) || m.opt.AsFile {
		return
	}
	// Whoever opens the file by name from now on gets the complete node. ENOENT: nobody has looked it up yet.
	if err := notifyInvalEntry(m.fd, nodeRoot, f.name); err != nil && err != unix.ENOENT && err != unix.ENODEV {
		m.log.Warn("the kernel was not told that the file is complete; it goes on being read through us", "dir", m.dir, "error", err)
	}
}

// registerBacking makes the store's file the one that the kernel reads for us, once for the life of the mount:
// the kernel accepts a single backing id per inode. It reports whether opens may be passed through.
func (m *Mounted) registerBacking(f *leaf) bool {
	if !m.canPass || !f.whole() || f.size == 0 {
		return false
	}
	file := f.blob.File()
	if file == nil {
		return false
	}
	raw, err := file.SyscallConn()
	if err != nil {
		m.log.Warn("no passthrough: the store's file is closed", "dir", m.dir, "name", f.name, "error", err)
		return false
	}
	var id int32
	var failed error
	if err := raw.Control(func(fd uintptr) { id, failed = registerBacking(m.fd, fd) }); err != nil {
		failed = err
	}
	if failed != nil {
		m.log.Warn("no passthrough: reads of the complete file go on through us", "dir", m.dir, "file", file.Name(), "error", failed, "hint", passthroughHint(failed))
		return false
	}
	f.backing.Store(id)
	m.passing.Store(true)
	m.log.Info("complete: new opens read the local file directly", "dir", m.dir, "name", f.name)
	return true
}

// passthroughHint says why the kernel refuses a backing file (fuse_backing_open).
func passthroughHint(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "it needs CAP_SYS_ADMIN"
	case errors.Is(err, unix.ELOOP):
		return "the state directory lies on a stacked file system such as overlayfs; put it on ext4, xfs or tmpfs"
	case errors.Is(err, unix.EOPNOTSUPP):
		return "the file system of the state directory cannot be a backing store; put it on ext4, xfs or tmpfs"
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL):
		return "the kernel is older than 6.9"
	}
	return "put the state directory on ext4, xfs or tmpfs"
}
