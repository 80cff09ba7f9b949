package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
)

// Download is one blob that is being completed for a command, not for a mount.
type Download struct {
	node     *Node
	live     *live
	digest   blob.Hash
	Warnings []string
}

// Download opens source and starts to complete it. limit bounds the bytes per second, 0 does not. streaming
// is told of the bytes that must be read before the size is known. The caller ends with Close.
func (n *Node) Download(ctx context.Context, source string, o control.Options, limit int64, streaming func(done int64)) (*Download, error) {
	ctx, done, err := n.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	o.LimitRate = limit
	return n.download(ctx, source, o, streaming)
}

func (n *Node) download(ctx context.Context, source string, o control.Options, streaming func(int64)) (*Download, error) {
	o.Fill = fetch.FillEager.String()
	f, err := n.find(ctx, source, o, streaming)
	if err != nil {
		return nil, err
	}
	defer f.discard()
	w, err := n.want(source, o, f)
	if err != nil {
		return nil, err
	}
	l, warnings, err := n.hold(ctx, f, w)
	if err != nil {
		return nil, err
	}
	return &Download{n, l, f.digest, append(f.warnings, warnings...)}, nil
}

// Close ends the download; what has come stays in the store.
func (d *Download) Close() { d.node.release(d.live) }

// ID is what the blob is called.
func (d *Download) ID() blob.ID { return d.live.id }

// Name is the file name that the source suggests.
func (d *Download) Name() string { return d.live.meta.Name }

// Named is the digest that the source itself names; zero when it names none.
func (d *Download) Named() blob.Hash { return d.digest }

// Size is the length in bytes.
func (d *Download) Size() int64 { return d.live.store.Size() }

// Status says how far it is.
func (d *Download) Status() control.Transfer { return d.live.status() }

// Room checks that what is missing fits the disk.
func (d *Download) Room() error {
	u := d.node.store.Usage()
	if missing := d.live.store.Size() - d.live.store.Present(); missing > u.Free {
		return control.Local(fmt.Errorf("%w: %s bytes are missing and the disk has %s left: free some space", blob.ErrNoSpace, humanize.IBytes(uint64(missing)), humanize.IBytes(uint64(u.Free))))
	}
	return nil
}

// progressEvery is how often wait tells how far it is and looks whether bytes still come.
const progressEvery = 200 * time.Millisecond

// probeAfter is how long nothing may come before a read of the first missing block is made: unlike a download
// in the background, it fails within the timeout, with the reason.
const probeAfter = time.Second

// Wait returns when all bytes are here and, unless want is zero, have the digest want. tell is called now and
// then with how far it is.
func (d *Download) Wait(ctx context.Context, want blob.Hash, tell func(control.Transfer)) error {
	check := want != (blob.Hash{}) && !d.live.verified(want)
	return d.wait(ctx, check, tell, func(ctx context.Context) error { return d.node.verify(ctx, d.live, want) })
}

// wait runs hash, which follows behind, beside the download when check is set.
func (d *Download) wait(ctx context.Context, check bool, tell func(control.Transfer), hash func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hashed := make(chan error, 1)
	if check {
		go func() { hashed <- hash(ctx) }()
	} else {
		hashed <- nil
	}
	if err := d.complete(ctx, tell); err != nil {
		cancel()
		<-hashed
		return err
	}
	return <-hashed
}

// complete waits for the last byte.
func (d *Download) complete(ctx context.Context, tell func(control.Transfer)) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	have, since := d.live.store.Present(), time.Now()
	for unkept := 0; ; {
		select {
		case <-d.live.store.Completed():
			tell(d.Status())
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		tell(d.Status())
		if now := d.live.store.Present(); now != have {
			have, since, unkept = now, time.Now(), 0
			continue
		}
		if time.Since(since) < probeAfter {
			continue
		}
		since = time.Now()
		run, absent := d.live.store.NextAbsent(0, d.live.store.Geometry().Blocks())
		if !absent {
			continue
		}
		run.Count = 1
		off, n := d.live.store.Geometry().Bytes(run)
		if err := d.live.fetch.ReadAt(ctx, make([]byte, n), off); err != nil {
			return err
		}
		// The block could be read: if it is still not here, it cannot be kept.
		if d.live.store.Has(run) {
			continue
		}
		if unkept++; unkept == 3 {
			return control.Local(fmt.Errorf("%w: bytes arrive but cannot be written: free some space on the disk and run the command again", blob.ErrNoSpace))
		}
	}
}

// copyChunk is how much CopyTo asks for at once, in bytes: the length of the kernel's largest FUSE read, so
// that readahead treats both alike.
const copyChunk = 1 << 20

// CopyTo writes all bytes to w in order, as they come. When their digest is not want (zero: any) it says so
// after the last byte.
func (d *Download) CopyTo(ctx context.Context, w io.Writer, want blob.Hash, tell func(control.Transfer)) error {
	h := sha256.New()
	buf := make([]byte, min(copyChunk, d.Size()))
	var told time.Time
	for off := int64(0); off < d.Size(); {
		p := buf[:min(int64(len(buf)), d.Size()-off)]
		if err := d.live.fetch.ReadAt(ctx, p, off); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		if _, err := w.Write(p); err != nil {
			return control.Local(fmt.Errorf("output: %w", err))
		}
		if want != (blob.Hash{}) {
			h.Write(p)
		}
		off += int64(len(p))
		if now := time.Now(); now.Sub(told) >= progressEvery {
			told = now
			tell(d.Status())
		}
	}
	tell(d.Status())
	if got := blob.Hash(h.Sum(nil)); want != (blob.Hash{}) && got != want {
		return mismatch(d.live.meta.Source, got, want)
	}
	return nil
}

// Place gives the complete file the name path, in place of what has that name, without copying it when path
// is on the same file system.
func (d *Download) Place(path string) error {
	src := d.live.store.File()
	if src == nil {
		return fmt.Errorf("%w: %s has no bytes in the cache", blob.ErrAbsent, d.live.id)
	}
	tmp := fmt.Sprintf("%s.pantala-%d", path, os.Getpid())
	os.Remove(tmp)
	// linkat(2): a descriptor can be given a name through /proc.
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", src.Fd()), unix.AT_FDCWD, tmp, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		err = copyFile(tmp, src, d.Size())
	}
	if err == nil {
		err = os.Chmod(tmp, 0o666&^umask())
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return control.Local(fmt.Errorf("output: %w", err))
	}
	return nil
}

// copyFile writes size bytes of src to a new file: where names cannot be linked.
func copyFile(path string, src *os.File, size int64) error {
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, io.NewSectionReader(src, 0, size))
	return errors.Join(err, dst.Close())
}

// umask reads the process's file mode creation mask from /proc: umask(2) can only be read by changing it,
// which files that others create at that moment would notice.
func umask() os.FileMode {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o022
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			if m, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return os.FileMode(m) & 0o777
			}
		}
	}
	return 0o022
}
