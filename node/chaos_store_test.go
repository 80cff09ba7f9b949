package node

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// check opens the store of a stopped node and compares what it holds.
func (n *chaosNode) check() { n.w.checkStore(fmt.Sprint("node ", n.i), StoreDir(n.conf.State)) }

// image copies the store of a node that works, as a crash would leave it, and compares what the copy holds.
// The log goes first: what it says was written before.
func (n *chaosNode) image() {
	from, to := StoreDir(n.conf.State), filepath.Join(n.w.dir, "image")
	defer os.RemoveAll(to)
	blobs, _ := filepath.Glob(filepath.Join(from, "*"))
	for _, dir := range blobs {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			continue
		}
		for _, name := range []string{"log", "leaves", "data", "meta.json"} {
			if err := copySparse(filepath.Join(to, filepath.Base(dir), name), filepath.Join(dir, name)); err != nil {
				os.RemoveAll(filepath.Join(to, filepath.Base(dir))) // evicted meanwhile
				break
			}
		}
	}
	n.w.images.Add(1)
	n.w.checkStore(fmt.Sprint("image of node ", n.i), to)
}

func copySparse(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	dst.Close()
	return err
}

// checkStore compares every block that a store believes to have, and every root, with the object's.
func (w *world) checkStore(what, dir string) {
	s, err := blockio.Open(dir, blockio.Options{})
	if err != nil {
		w.t.Errorf("%s: %v", what, err)
		return
	}
	defer s.Close()
	for _, info := range s.List() {
		i := slices.IndexFunc(w.objects, func(o *object) bool { return redact(o.source()) == info.Meta.Source })
		if i < 0 {
			w.t.Errorf("%s: has %s of %s", what, info.ID, info.Meta.Source)
			continue
		}
		if info.Meta.Validator == "" {
			continue // of an origin that named no version: it may be any
		}
		data := w.objects[i].bytes(info.Meta.Validator)
		if data == nil {
			continue // named by Last-Modified
		}
		b, err := s.Open(info.ID, info.Geometry, info.Meta)
		if err != nil {
			w.t.Errorf("%s: %v", what, err)
			continue
		}
		if err := sameBlob(b, data); err != nil {
			w.t.Errorf("%s: %s: %v", what, info.Meta.Source, err)
		}
		if err := b.Close(); err != nil {
			w.t.Errorf("%s: %v", what, err)
		}
	}
}

// sameBlob compares what b holds with data.
func sameBlob(b *blockio.Blob, data []byte) error {
	g := b.Geometry()
	if g.Size != int64(len(data)) {
		return fmt.Errorf("%d bytes, not %d", g.Size, len(data))
	}
	p := make([]byte, blob.BlockSize)
	have := int64(0)
	for i := range g.Blocks() {
		if !b.Has(blob.Run{First: i, Count: 1}) {
			continue
		}
		off, n := g.Bytes(blob.Run{First: i, Count: 1})
		have += n
		if err := b.ReadAt(p[:n], off); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		if string(p[:n]) != string(data[off:off+n]) {
			return fmt.Errorf("block %d is wrong", i)
		}
	}
	if have != b.Present() {
		return fmt.Errorf("%d bytes are present, it says %d", have, b.Present())
	}
	for p := range g.Pieces() {
		root, trust := b.Root(p)
		if trust == blob.Unknown {
			if b.PieceComplete(p) {
				return fmt.Errorf("piece %d is complete without a root", p)
			}
			continue
		}
		var leaves []blob.Hash
		for i, run := uint32(0), g.PieceBlocks(p); i < run.Count; i++ {
			off, n := g.Bytes(blob.Run{First: run.First + i, Count: 1})
			leaves = append(leaves, blob.Leaf(data[off:off+n]))
		}
		if root != g.PieceRoot(leaves) {
			return fmt.Errorf("piece %d has a wrong root (%v)", p, trust)
		}
	}
	return nil
}
