package fs

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/pantala/pantala/blob"
)

// The classes of error that mounting and unmounting return.
var (
	ErrMountPoint   = errors.New("unusable mount point")
	ErrStale        = errors.New("stale mount")
	ErrBusy         = errors.New("mount is in use")
	ErrNotMounted   = errors.New("not mounted")
	ErrPrerequisite = errors.New("prerequisite missing")
)

// errnoTable is the one place where an error class becomes what an application sees; docs/semantics.md shows
// it. The first class that matches wins.
var errnoTable = []struct {
	class error
	errno syscall.Errno
}{
	{blob.ErrNotFound, syscall.ENOENT},
	{blob.ErrDenied, syscall.EACCES},
	{fs.ErrPermission, syscall.EACCES},
	{context.Canceled, syscall.EINTR},
	{context.DeadlineExceeded, syscall.EIO},
	{blob.ErrUnavailable, syscall.EIO},
	{blob.ErrCorrupt, syscall.EIO},
	{blob.ErrChanged, syscall.EIO},
	{blob.ErrNoSpace, syscall.EIO},
	{blob.ErrClosed, syscall.EIO},
}

// errnoOf is what an application sees for err: 0 for nil, EIO for a class that the table does not name.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, e := range errnoTable {
		if errors.Is(err, e.class) {
			return e.errno
		}
	}
	return syscall.EIO
}
