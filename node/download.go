package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
)

// Download is a blob, or a torrent, that is being completed for a command, not for a mount.
type Download struct {
	node     *Node
	top      *live // what is held: the blob, or the torrent
	live     *live // the blob; nil: a torrent of several blobs
	only     func(file int) bool
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
	d := &Download{node: n, top: l, live: l.only(), only: f.only, digest: f.digest, Warnings: append(f.warnings, warnings...)}
	if l.files() > 0 {
		d.live = nil // one blob in v1, but not one file
	}
	return d, nil
}

// Close ends the download; what has come stays in the store.
func (d *Download) Close() { d.node.release(d.top) }

// ID is what the blob is called.
func (d *Download) ID() blob.ID { return d.top.id }

// Blobs are the ids of the blobs in the store that belong to it.
func (d *Download) Blobs() (ids []blob.ID) {
	for _, b := range d.top.blobs() {
		ids = append(ids, b.id)
	}
	return ids
}

// Files is how many files it has if it is a directory; 0: it is one file.
func (d *Download) Files() int { return d.top.files() }

// Name is the file name that the source suggests.
func (d *Download) Name() string { return d.top.meta.Name }

// Named is the digest that the source itself names; zero when it names none.
func (d *Download) Named() blob.Hash { return d.digest }

// Size is the length in bytes.
func (d *Download) Size() int64 { return d.top.size() }

// Status says how far it is.
func (d *Download) Status() control.Transfer { return d.top.status() }

// Room checks that what is missing fits the disk.
func (d *Download) Room() error {
	u := d.node.store.Usage()
	if missing := d.top.size() - d.top.present(); missing > u.Free {
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
	if d.live == nil && want != (blob.Hash{}) {
		return severalFiles(d.top)
	}
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

// wanted are the blobs that are to be completed.
func (d *Download) wanted() []*live {
	if d.only == nil || d.top.torrent == nil || !d.top.torrent.Info.HasV2 {
		return d.top.blobs()
	}
	var all []*live
	for i, at := range d.top.places() {
		if at.part != nil && d.only(i) && !slices.Contains(all, at.part) {
			all = append(all, at.part)
		}
	}
	return all
}

// complete waits for the last byte.
func (d *Download) complete(ctx context.Context, tell func(control.Transfer)) error {
	for _, b := range d.wanted() {
		if err := d.completeBlob(ctx, b, tell); err != nil {
			return err
		}
	}
	tell(d.Status())
	return nil
}

// completeBlob waits for the last byte of one blob. Others of the torrent arrive meanwhile, so that nothing coming
// for this one is no reason to look at it yet.
func (d *Download) completeBlob(ctx context.Context, b *live, tell func(control.Transfer)) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	have, since := d.top.present(), time.Now()
	for unkept := 0; ; {
		select {
		case <-b.store.Completed():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		tell(d.Status())
		if now := d.top.present(); now != have {
			have, since, unkept = now, time.Now(), 0
			continue
		}
		if time.Since(since) < probeAfter {
			continue
		}
		since = time.Now()
		run, absent := b.store.NextAbsent(0, b.store.Geometry().Blocks())
		if !absent {
			continue
		}
		run.Count = 1
		off, n := b.store.Geometry().Bytes(run)
		if err := b.fetch.ReadAt(ctx, make([]byte, n), off); err != nil {
			return err
		}
		// The block could be read: if it is still not here, it cannot be kept.
		if b.store.Has(run) {
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
	if d.live == nil {
		return fmt.Errorf("%w: %s is a torrent of %d files, which cannot be written one after the other: name a directory with -O", blob.ErrInvalid, d.Name(), d.Files())
	}
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
// is on the same file system. Several files become a directory of that name, which must not be there, or be empty.
func (d *Download) Place(path string) error {
	if d.live == nil {
		return d.placeTree(path)
	}
	return placeFile(d.live, 0, d.Size(), path, 0o666)
}

// placeFile gives the size bytes from off on of a complete blob the name path.
func placeFile(l *live, off, size int64, path string, mode os.FileMode) error {
	src := l.store.File()
	if src == nil {
		return fmt.Errorf("%w: %s has no bytes in the cache", blob.ErrAbsent, l.id)
	}
	tmp := fmt.Sprintf("%s.pantala-%d", path, os.Getpid())
	os.Remove(tmp)
	err := errors.ErrUnsupported
	if off == 0 && size == l.store.Size() {
		// linkat(2): a descriptor can be given a name through /proc.
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", src.Fd()), unix.AT_FDCWD, tmp, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		err = copyFile(tmp, src, off, size)
	}
	if err == nil {
		err = os.Chmod(tmp, mode&^umask())
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

// placeTree makes the directory of a torrent's files beside path, and then gives it the name.
func (d *Download) placeTree(path string) (err error) {
	tmp := fmt.Sprintf("%s.pantala-%d", path, os.Getpid())
	if err := os.RemoveAll(tmp); err != nil {
		return control.Local(fmt.Errorf("output: %w", err))
	}
	defer func() {
		if err != nil {
			os.RemoveAll(tmp)
		}
	}()
	if err := os.Mkdir(tmp, 0o777); err != nil {
		return control.Local(fmt.Errorf("output: %w", err))
	}
	// Names were checked when the torrent was read: none leads out of the directory, none through a link, because a
	// link is no directory of it.
	linked := map[*live]bool{}
	for i, at := range d.top.places() {
		if d.only != nil && !d.only(i) {
			continue
		}
		f := &d.top.torrent.Info.Files[i]
		to := filepath.Join(append([]string{tmp}, f.Path...)...)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return control.Local(fmt.Errorf("output: %w", err))
		}
		mode := os.FileMode(0o666)
		if f.Executable {
			mode = 0o777
		}
		switch {
		case f.Symlink != nil:
			err = os.Symlink(strings.Repeat("../", len(f.Path)-1)+strings.Join(f.Symlink, "/"), to)
		case at.part == nil:
			if err = os.WriteFile(to, nil, mode); err == nil {
				err = os.Chmod(to, mode&^umask())
			}
		case linked[at.part]: // the same bytes again: a file of its own, not a second name of the first
			if err = copyFile(to, at.part.store.File(), at.offset, f.Length); err == nil {
				err = os.Chmod(to, mode&^umask())
			}
		default:
			linked[at.part] = true
			err = placeFile(at.part, at.offset, f.Length, to, mode)
		}
		if err != nil {
			return control.Local(fmt.Errorf("output: %w", err))
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return control.Local(fmt.Errorf("output: %w", err))
	}
	return nil
}

// copyFile writes size bytes of src from off on to a new file: where names cannot be linked.
func copyFile(path string, src *os.File, off, size int64) error {
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, io.NewSectionReader(src, off, size))
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
