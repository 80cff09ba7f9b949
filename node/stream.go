package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
)

// streamDir holds objects of unknown size while they are read: beside the store, which removes what it does
// not know.
func streamDir(state string) string { return filepath.Join(state, "stream") }

// findStream reads an object of unknown size into a file first: only then can it be cut and named.
func (n *Node) findStream(ctx context.Context, f found, streaming func(int64)) (_ found, err error) {
	dir := streamDir(n.cfg.State)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return f, control.Local(fmt.Errorf("stream: %w", err))
	}
	tmp, err := os.CreateTemp(dir, "blob-")
	if err != nil {
		return f, control.Local(fmt.Errorf("stream: %w", err))
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	var size int64
	var local error
	err = f.object.Stream(ctx, func(p []byte) error {
		if _, local = tmp.Write(p); local != nil {
			return local
		}
		size += int64(len(p))
		streaming(size)
		return nil
	})
	switch {
	case errors.Is(local, syscall.ENOSPC):
		return f, control.Local(fmt.Errorf("%w: %s: %v: free some space, or put --state on a larger disk", blob.ErrNoSpace, dir, local))
	case local != nil:
		return f, control.Local(fmt.Errorf("stream: %w", local))
	case ctx.Err() != nil:
		err = context.Cause(ctx) // why, such as: the daemon is being stopped
		return f, err
	case err != nil:
		return f, err
	}
	f.geometry = blob.GeometryFor(size)
	if err = f.geometry.Check(); err != nil {
		return f, err
	}
	f.id = f.object.ID() // the object has learnt its size
	f.streamed, f.object = tmp.Name(), nil
	return f, nil
}

// discard removes what findStream has written and nobody has adopted. Whoever called find calls it in the end.
func (f found) discard() {
	if f.streamed != "" {
		os.Remove(f.streamed)
	}
}

// adopt puts the bytes of a streamed file into the store and removes the file.
func adopt(b *blockio.Blob, path string) error {
	defer os.Remove(path)
	f, err := os.Open(path)
	if err != nil {
		return control.Local(fmt.Errorf("stream: %w", err))
	}
	defer f.Close()
	buf := make([]byte, blob.MaxBuffer*blob.BlockSize)
	g := b.Geometry()
	for at := uint32(0); at < g.Blocks(); at += blob.MaxBuffer {
		r := blob.Run{First: at, Count: min(blob.MaxBuffer, g.Blocks()-at)}
		off, n := g.Bytes(r)
		if _, err := f.ReadAt(buf[:n], off); err != nil {
			return control.Local(fmt.Errorf("stream: %w", err))
		}
		if err := b.Put(r, buf[:n], blob.Direct); err != nil {
			return control.Local(err)
		}
	}
	return nil
}

// putFirst keeps the bytes that opening the object brought along: the run of whole blocks at its start.
func putFirst(b *blockio.Blob, first []byte) error {
	g := b.Geometry()
	r := blob.Run{Count: uint32(len(first) / blob.BlockSize)}
	if int64(len(first)) >= g.Size {
		r.Count = g.Blocks()
	}
	for at := uint32(0); at < r.Count; at += blob.MaxBuffer {
		part := blob.Run{First: at, Count: min(blob.MaxBuffer, r.Count-at)}
		off, n := g.Bytes(part)
		if err := b.Put(part, first[off:off+n], blob.Direct); err != nil {
			return err
		}
	}
	return nil
}
