package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// digests remembers the digests of complete blobs, so that the next mount with --digest need not hash all bytes
// again. Each has a file of its own, which is believed only while the data file is the one that was hashed:
// whatever writes to it, or puts another in its place, changes what stat(2) says. It has no state of its own.
type digests struct{ dir string }

// remembered is the content of such a file.
type remembered struct {
	Digest string `json:"digest"`
	Inode  uint64 `json:"inode"`
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime"` // ns since 1970
}

// digestsDir is the directory of remembered digests in a state directory.
func digestsDir(state string) string { return filepath.Join(state, "digests") }

func (d digests) path(id blob.ID) string {
	return filepath.Join(d.dir, strings.ReplaceAll(id.String(), ":", "-"))
}

// stamp is what tells the data file of a complete blob from a later one.
func stamp(b *blockio.Blob) (r remembered, ok bool) {
	f := b.File()
	if f == nil || !b.Complete() {
		return r, false
	}
	info, err := f.Stat()
	if err != nil {
		return r, false
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return r, false
	}
	return remembered{Inode: sys.Ino, Size: info.Size(), MTime: info.ModTime().UnixNano()}, true
}

// put remembers the digest of a blob that has just been hashed.
func (d digests) put(b *blockio.Blob, sum blob.Hash) error {
	r, ok := stamp(b)
	if !ok {
		return nil
	}
	r.Digest = "sha256:" + sum.String()
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	// Nothing is synced: what a power loss leaves of it cannot be read, and the blob is hashed again.
	tmp, err := os.CreateTemp(d.dir, "tmp-")
	if err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), d.path(b.ID()))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("digest: %w", err)
	}
	return nil
}

// get is the digest of a blob, when it is known.
func (d digests) get(b *blockio.Blob) (sum blob.Hash, ok bool) {
	now, ok := stamp(b)
	if !ok {
		return sum, false
	}
	raw, err := os.ReadFile(d.path(b.ID()))
	var then remembered
	if err != nil || json.Unmarshal(raw, &then) != nil {
		return sum, false
	}
	now.Digest = then.Digest
	if then != now {
		return sum, false
	}
	sum, err = ParseDigest(then.Digest)
	return sum, err == nil && sum != blob.Hash{}
}

// sweep removes the files of blobs that are not in the store any more, and what was being written.
func (d digests) sweep(s *blockio.Store) error {
	known := map[string]bool{}
	for _, i := range s.List() {
		known[d.path(i.ID)] = true
	}
	files, err := os.ReadDir(d.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("digests: %w", err)
	}
	var errs []error
	for _, f := range files {
		if path := filepath.Join(d.dir, f.Name()); !known[path] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// learn keeps the digest of all bytes of l, which have just been hashed.
func (n *Node) learn(l *live, sum blob.Hash) {
	l.digest.Store(&sum)
	if err := (digests{digestsDir(n.cfg.State)}).put(l.store, sum); err != nil {
		n.log.Warn("the digest is not remembered: the blob will be hashed again", "blob", l.id, "err", err)
	}
}
