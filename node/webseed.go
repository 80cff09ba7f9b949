package node

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/origin"
)

// webSeeds are the HTTP servers that have the bytes of a torrent (BEP 19). Nobody vouches for what they send: a piece
// is read whole, checked against the infohash's own hashes, and only then handed on. The object behind a URL is
// opened when its bytes are first wanted; a server that fails rests for a while.
type webSeeds struct {
	n       *Node
	info    *metainfo.Info
	bases   []string
	options origin.Options

	mu      sync.Mutex                // guards what follows; not held over I/O
	objects map[string]*origin.Object // by URL
	resting map[string]time.Time      // base URLs that failed, until when
}

// seedRest is how long a server is left alone that failed: origin has asked it again and again before it gives up.
const seedRest = 10 * time.Second

// webSeeds are those of a torrent; nil: none.
func (n *Node) webSeeds(m *metainfo.MetaInfo, o control.Options) *webSeeds {
	if len(m.WebSeeds) == 0 {
		return nil
	}
	return &webSeeds{
		n: n, info: m.Info, bases: m.WebSeeds, options: n.originOptions(o),
		objects: map[string]*origin.Object{}, resting: map[string]time.Time{},
	}
}

// seedOf makes the web seeds of a torrent that is one blob, of the canonical one, an origin of it.
func (n *Node) seedOf(m *metainfo.MetaInfo, o control.Options) func(*live) fetch.Origin {
	seeds := n.webSeeds(m, o)
	if seeds == nil {
		return nil
	}
	return func(l *live) fetch.Origin { return seeds.of(l, partsOf(m.Info)[0]) }
}

// seedURL is the URL of a file (BEP 19): the base itself, or, where it ends with a slash or there are several files,
// the torrent's name and the file's path behind it.
func seedURL(base string, i *metainfo.Info, file int) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	names := append([]string{i.Name}, i.Files[file].Path...)
	if i.Single {
		if !strings.HasSuffix(u.Path, "/") {
			return base
		}
		names = names[:1]
	}
	for k := range names {
		names[k] = url.PathEscape(names[k])
	}
	sep := "/"
	if strings.HasSuffix(u.Path, "/") {
		sep = ""
	}
	raw := u.EscapedPath() + sep + strings.Join(names, "/")
	if plain, err := url.PathUnescape(raw); err == nil {
		u.Path, u.RawPath = plain, raw
	}
	return u.String()
}

// of is an origin for one part.
func (s *webSeeds) of(l *live, p part) fetch.Origin {
	o := &seedOrigin{seeds: s, l: l, part: p}
	o.piece = make(chan struct{}, 2)
	return o
}

// open is the object that has a file of the torrent, at one server.
func (s *webSeeds) open(ctx context.Context, base string, file int) (*origin.Object, error) {
	at := seedURL(base, s.info, file)
	s.mu.Lock()
	o := s.objects[at]
	s.mu.Unlock()
	if o != nil && !o.Changed() {
		return o, nil
	}
	o, err := s.n.origin.Open(ctx, at, s.options)
	if err != nil {
		return nil, err
	}
	if want := s.info.Files[file].Length; o.Size() != want {
		return nil, fmt.Errorf("%w: web seed %s has %d bytes, the torrent's file %d", blob.ErrCorrupt, redact(at), o.Size(), want)
	}
	if !o.Ranges() {
		return nil, fmt.Errorf("%w: web seed %s cannot give a range of a file", blob.ErrUnavailable, redact(at))
	}
	s.mu.Lock()
	s.objects[at] = o
	s.mu.Unlock()
	return o, nil
}

// usable are the servers that do not rest.
func (s *webSeeds) usable() (bases []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.bases {
		if time.Now().After(s.resting[b]) {
			bases = append(bases, b)
		}
	}
	return bases
}

func (s *webSeeds) rest(base string, err error) {
	s.n.log.Warn("a web seed rests", "seed", redact(base), "for", seedRest, "err", err)
	s.mu.Lock()
	s.resting[base] = time.Now().Add(seedRest)
	s.mu.Unlock()
}

// seedOrigin is the web seeds as the origin of one part.
type seedOrigin struct {
	seeds *webSeeds
	l     *live
	part  part
	piece chan struct{} // bounds the pieces that are held in memory
}

var _ fetch.Origin = (*seedOrigin)(nil)

// Has implements blob.Source: the hashes of the pieces must be known.
func (o *seedOrigin) Has(r blob.Run) bool {
	if len(o.seeds.usable()) == 0 {
		return false
	}
	if !o.seeds.info.HasV2 || o.part.geometry.Pieces() == 1 {
		return true
	}
	pieces := o.part.geometry.PiecesOf(r)
	for p := pieces.First; p < pieces.End(); p++ {
		if _, t := o.l.store.Root(p); t < blob.Pinned {
			return false
		}
	}
	return true
}

// Ranges implements fetch.Origin.
func (o *seedOrigin) Ranges() bool { return true }

// Stream implements fetch.Origin; it is never called, because Ranges.
func (o *seedOrigin) Stream(context.Context, func([]byte) error) error {
	return fmt.Errorf("%w: web seeds are read in pieces", blob.ErrInvalid)
}

// Fetch implements blob.Source.
func (o *seedOrigin) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	for at := r.First; at < r.End(); {
		whole := o.whole(at)
		part := whole.Intersect(blob.Run{First: at, Count: r.End() - at})
		if err := o.fetchPiece(ctx, whole, part, into); err != nil {
			return err
		}
		at = part.End()
	}
	return nil
}

// whole are the blocks that can only be verified together with a block: its piece.
func (o *seedOrigin) whole(block uint32) blob.Run {
	g := o.part.geometry
	if i := o.seeds.info; !i.HasV2 {
		per := uint32(i.PieceLength / blob.BlockSize)
		first := block / per * per
		return blob.Run{First: first, Count: min(per, g.Blocks()-first)}
	}
	return g.PieceBlocks(g.PieceOf(block))
}

// fetchPiece reads and verifies a piece, keeps it, and hands on the wanted part of it.
func (o *seedOrigin) fetchPiece(ctx context.Context, whole, part blob.Run, into blob.Sink) error {
	select {
	case o.piece <- struct{}{}:
		defer func() { <-o.piece }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	off, n := o.part.geometry.Bytes(whole)
	buf := make([]byte, n)
	err := fmt.Errorf("%w: all web seeds rest after errors", blob.ErrUnavailable)
	for _, base := range o.seeds.usable() {
		if err = o.read(ctx, base, off, buf); err == nil {
			err = o.verify(whole, buf)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			if err := hand(ctx, o.part.geometry, whole, part, buf, into); err != nil {
				return err
			}
			return o.keep(whole, buf)
		}
		o.seeds.rest(base, err)
	}
	if errors.Is(err, blob.ErrCorrupt) || errors.Is(err, blob.ErrChanged) { // another source may have the right bytes
		err = fmt.Errorf("%w: %v", blob.ErrUnavailable, err)
	}
	return err
}

// read fills buf from offset off of the part: of the file in v2, of the piece space in v1.
func (o *seedOrigin) read(ctx context.Context, base string, off int64, buf []byte) error {
	info := o.seeds.info
	if info.HasV2 {
		return o.readFile(ctx, base, o.part.file, off, buf)
	}
	clear(buf) // pads are zero
	end := off + int64(len(buf))
	for i := range info.Files {
		f := &info.Files[i]
		from, to := max(off, f.Offset), min(end, f.Offset+f.Length)
		if from >= to {
			continue
		}
		if err := o.readFile(ctx, base, i, from-f.Offset, buf[from-off:to-off]); err != nil {
			return err
		}
	}
	return nil
}

func (o *seedOrigin) readFile(ctx context.Context, base string, file int, off int64, p []byte) error {
	object, err := o.seeds.open(ctx, base, file)
	if err != nil {
		return err
	}
	g := blob.GeometryFor(object.Size())
	r := g.Covering(off, int64(len(p)))
	return object.Fetch(ctx, r, &window{geometry: g, off: off, to: p})
}

// verify checks a piece and makes its hashes known to the store.
func (o *seedOrigin) verify(whole blob.Run, buf []byte) error {
	g, info := o.part.geometry, o.seeds.info
	leaves := make([]blob.Hash, whole.Count)
	blob.Leaves(leaves, buf)
	if !info.HasV2 {
		p := int64(whole.First) * blob.BlockSize / info.PieceLength
		if sha1.Sum(buf) != info.Pieces[p] {
			return fmt.Errorf("%w: piece %d from a web seed does not have its SHA-1 sum", blob.ErrCorrupt, p)
		}
	}
	for pieces, p := g.PiecesOf(whole), uint32(0); p < pieces.Count; p++ {
		piece := pieces.First + p
		run := g.PieceBlocks(piece)
		its := leaves[run.First-whole.First : run.End()-whole.First]
		root := g.PieceRoot(its)
		switch want, t := o.l.store.Root(piece); {
		case info.HasV2 && g.Pieces() == 1:
			if g.RootOfLeaves(its) != o.part.root {
				return fmt.Errorf("%w: %s from a web seed does not have its root", blob.ErrCorrupt, o.part.name)
			}
		case info.HasV2 && (t < blob.Pinned || want != root):
			return fmt.Errorf("%w: piece %d of %s from a web seed does not have its root", blob.ErrCorrupt, piece, o.part.name)
		}
		if err := o.l.store.SetRoot(piece, root, blob.Pinned); err != nil {
			return err
		}
		if err := o.l.store.SetLeaves(piece, its); err != nil {
			return err
		}
	}
	return nil
}

// keep stores what has been verified and was not asked for, as far as there is room.
func (o *seedOrigin) keep(whole blob.Run, buf []byte) error {
	g := o.part.geometry
	for at := whole.First; at < whole.End(); at += blob.MaxBuffer {
		r := blob.Run{First: at, Count: min(blob.MaxBuffer, whole.End()-at)}
		if o.l.store.Has(r) {
			continue
		}
		var fresh int64
		for i := r.First; i < r.End(); i++ {
			if !o.l.store.Has(blob.Run{First: i, Count: 1}) {
				fresh += int64(g.BlockLen(i))
			}
		}
		from, n := g.Bytes(r)
		from -= int64(whole.First) * blob.BlockSize
		switch err := o.l.store.Put(r, buf[from:from+n], blob.Pinned); {
		case err == nil:
			o.l.brought.Add(fresh)
		case !errors.Is(err, blob.ErrNoSpace):
			return err
		}
	}
	return nil
}

// hand gives the blocks of part, which lie in whole, whose bytes are in buf.
func hand(ctx context.Context, g blob.Geometry, whole, part blob.Run, buf []byte, into blob.Sink) error {
	for at := part.First; at < part.End(); at += blob.MaxBuffer {
		r := blob.Run{First: at, Count: min(blob.MaxBuffer, part.End()-at)}
		b, err := into.Buffer(ctx, r)
		if err != nil {
			return err
		}
		from, _ := g.Bytes(r)
		copy(b, buf[from-int64(whole.First)*blob.BlockSize:])
		if err := into.Done(r); err != nil {
			return err
		}
	}
	return nil
}

// window is a Sink that keeps the bytes of an object from off on, as many as to holds.
type window struct {
	geometry blob.Geometry
	off      int64
	to       []byte

	mu   sync.Mutex
	lent map[blob.Run][]byte
}

var _ blob.Sink = (*window)(nil)

// Buffer implements blob.Sink.
func (w *window) Buffer(_ context.Context, r blob.Run) ([]byte, error) {
	_, n := w.geometry.Bytes(r)
	b := make([]byte, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lent == nil {
		w.lent = map[blob.Run][]byte{}
	}
	w.lent[r] = b
	return b, nil
}

// Done implements blob.Sink.
func (w *window) Done(r blob.Run) error {
	w.mu.Lock()
	b := w.lent[r]
	delete(w.lent, r)
	w.mu.Unlock()
	from, _ := w.geometry.Bytes(r)
	if skip := w.off - from; skip > 0 {
		b, from = b[min(skip, int64(len(b))):], w.off
	}
	if at := from - w.off; at < int64(len(w.to)) {
		copy(w.to[at:], b)
	}
	return nil
}

// Drop implements blob.Sink.
func (w *window) Drop(r blob.Run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.lent, r)
}
