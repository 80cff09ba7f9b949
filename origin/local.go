package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pantala/pantala/blob"
)

// local is the backend of a file on this machine. It opens the file for every call, so that nothing has to
// be closed and a file that was replaced is noticed. A read of a local file cannot be interrupted: a context
// ends a call between two buffers.
type local struct {
	o    *Object
	opt  Options
	path string
	was  stamp
}

// stamp is what must stay the same for a file to be the same bytes. The change time is not part of it (a
// chmod sets it too), but of the validator: two machines that were cloned have files with the same inode and
// times, and the first write on one of them makes the change times differ.
type stamp struct {
	ino         uint64
	mtime, size int64
}

func openLocal(c *Client, u *url.URL, opt Options) (*Object, error) {
	l := &local{opt: opt, path: filepath.Clean(u.Path)}
	f, st, err := l.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l.was = stampOf(st)
	clean := &url.URL{Scheme: "file", Path: l.path}
	o := &Object{
		c: c, from: l, canonical: blob.CanonicalURL(clean), shown: display(clean),
		validator: fmt.Sprintf("%d-%d-%d", st.Ino, st.Mtim.Nano(), st.Ctim.Nano()),
		name:      sanitise(filepath.Base(l.path)),
	}
	l.o = o
	o.size.Store(st.Size)
	o.ranges.Store(true)
	o.first = make([]byte, min(st.Size, defaultPrefix))
	if err := l.read(f, o.first, 0); err != nil {
		return nil, err
	}
	return o, nil
}

// open opens the file without waiting, as a FIFO would make one do, and checks that it is a regular file.
func (l *local) open() (*os.File, *syscall.Stat_t, error) {
	f, err := os.OpenFile(l.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, l.fail(err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is not a regular file: only those can be mounted", blob.ErrInvalid)
	}
	if err != nil {
		f.Close()
		return nil, nil, l.fail(err)
	}
	return f, fi.Sys().(*syscall.Stat_t), nil
}

func stampOf(st *syscall.Stat_t) stamp { return stamp{st.Ino, st.Mtim.Nano(), st.Size} }

// fail gives an error of the file system its class.
func (l *local) fail(err error) error {
	class, what := blob.ErrUnavailable, err.Error()
	switch {
	case errors.Is(err, blob.ErrInvalid):
		return fmt.Errorf("origin: file %s: %w", l.path, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		class, what = blob.ErrNotFound, "check the path"
	case errors.Is(err, fs.ErrPermission):
		class, what = blob.ErrDenied, "check the permissions of the file and its folders"
	}
	return fmt.Errorf("origin: file %s: %w: %s", l.path, class, what)
}

// same opens the file if it is still the one that was opened first.
func (l *local) same() (*os.File, error) {
	f, st, err := l.open()
	if err != nil {
		return nil, err
	}
	if stampOf(st) != l.was {
		f.Close()
		return nil, l.changed()
	}
	return f, nil
}

func (l *local) changed() error {
	l.o.changed.Store(true)
	return l.o.errChanged()
}

// read fills p and then looks whether the file has stayed the same meanwhile.
func (l *local) read(f *os.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	l.opt.OnBytes(n)
	if err != nil && err != io.EOF {
		return l.fail(err)
	}
	fi, err := f.Stat()
	if err != nil {
		return l.fail(err)
	}
	if n < len(p) || stampOf(fi.Sys().(*syscall.Stat_t)) != l.was {
		return l.changed()
	}
	return nil
}

// fetch implements backend.
func (l *local) fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	f, err := l.same()
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.o.c.ctx, cancel)()
	for next := r.First; next < r.End(); {
		run := blob.Run{First: next, Count: min(blob.MaxBuffer, r.End()-next)}
		if err := l.usable(ctx); err != nil {
			return err
		}
		p, err := into.Buffer(ctx, run)
		if err != nil && ctx.Err() != nil {
			return l.usable(ctx)
		}
		if err != nil {
			return fmt.Errorf("origin: no memory for blocks %v: %w", run, err)
		}
		if err := l.read(f, p, int64(next)*blob.BlockSize); err != nil {
			into.Drop(run)
			return err
		}
		if err := into.Done(run); err != nil {
			if errors.Is(err, blob.ErrChanged) {
				l.o.changed.Store(true)
			}
			return fmt.Errorf("origin: file %s: blocks %v: %w", l.path, run, err)
		}
		next = run.End()
	}
	return nil
}

// stream implements backend.
func (l *local) stream(ctx context.Context, w func(p []byte) error) (int64, error) {
	f, err := l.same()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, min(streamBuffer, l.was.size))
	for off := int64(0); off < l.was.size; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), l.was.size-off)]
		if err := l.usable(ctx); err != nil {
			return off, err
		}
		if err := l.read(f, buf, off); err != nil {
			return off, err
		}
		if err := w(buf); err != nil {
			return off, err
		}
	}
	return l.was.size, nil
}

// usable is why a call must end: its context, or the client's.
func (l *local) usable(ctx context.Context) error {
	if l.o.c.ctx.Err() != nil {
		return fmt.Errorf("origin: %w: this node is stopping", blob.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("origin: file %s: %w", l.path, err)
	}
	return nil
}
