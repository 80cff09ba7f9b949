package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/image/device"
	"github.com/pantala/pantala/image/erofslayer"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/soci"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/tracker"
)

// The index of a layer is a blob of its own, called by its infohash like anything that is shared, so that whoever has
// the claim can check every block of it. Who sees all bytes of a layer first makes the index and claims at the
// trackers that it is the layer's; the others find the claim, open the index from peers, and read of the layer only
// what is asked for. A claim is as good as the tracker (docs/decisions/0002): --strict takes none.

const (
	// headWait bounds how long peers may take to give the head of an index.
	headWait = 3 * time.Second
)

// knownIndex says which index a layer has.
type knownIndex struct {
	Digest blob.Hash        `json:"-"`
	Root   blob.Hash        `json:"-"`
	Size   int64            `json:"size"`
	Trust  blob.Trust       `json:"trust"`
	Format string           `json:"format"`
	Sum    string           `json:"digest"` // of the index, as text
	Top    string           `json:"root"`
	Ref    string           `json:"ref"`    // of an image with the layer: where it was first read
	Stored int64            `json:"stored"` // length of the layer's blob
	DiffID string           `json:"diff_id,omitempty"`
	Pushed bool             `json:"pushed,omitempty"` // the repository of Ref has it
	Blobs  []knownBlob      `json:"blobs,omitempty"`  // of a Nydus image, the bootstrap first
	peers  []netip.AddrPort // that may have it
}

// diffID is of the layer; zero when it is not known.
func (k knownIndex) diffID() blob.Hash {
	h, err := blob.ParseHash(k.DiffID)
	if err != nil {
		return blob.Hash{}
	}
	return h
}

// link is how the index is opened.
func (k knownIndex) link() metainfo.Magnet { return NewMagnet(k.Digest, k.Size, k.Root, "", nil) }

// indexed is an index that has been opened.
type indexed struct {
	index *index.Index
	file  *live
	known knownIndex
}

// knownIndexOf reads back what rememberIndex wrote; what cannot be read is not known.
func (s *images) knownIndexOf(layer blob.Hash) (k knownIndex, ok bool) {
	p, err := s.path("layers", layer.String())
	if err != nil {
		return k, false
	}
	raw, err := os.ReadFile(p)
	if err != nil || json.Unmarshal(raw, &k) != nil || k.Size <= 0 {
		return k, false
	}
	var e1, e2 error
	k.Digest, e1 = blob.ParseHash(k.Sum)
	k.Root, e2 = blob.ParseHash(k.Top)
	return k, e1 == nil && e2 == nil
}

func (s *images) rememberIndex(l *layer, k knownIndex) {
	layer := l.desc.Digest
	k.Sum, k.Top, k.Ref, k.Stored = k.Digest.String(), k.Root.String(), l.image.Ref.String(), l.desc.Size
	k.Blobs = knownBlobs(l)
	if !l.desc.DiffID.IsZero() {
		k.DiffID = l.desc.DiffID.String()
	}
	p, err := s.path("layers", layer.String())
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(k); err == nil {
			err = replace(p, raw)
		}
	}
	if err != nil {
		s.n.log.Warn("the index of a layer is not remembered: it will be looked for again", "layer", layer, "err", err)
	}
}

// asked is what others know of an image. They are asked once for all of it: trackers which indexes its layers have, and
// what is read first; the registry which indexes somebody has signed.
type asked struct {
	done chan struct{} // closed when Found is there
	tracker.Found
	looked  chan struct{} // closed when signed is there
	signed  map[blob.Hash]knownIndex
	options control.Options                // how layers are fetched that are opened with it
	strict  bool                           // no index will do that others only claim
	soci    func() map[blob.Hash]soci.Ztoc // looked up when it is first called; nil: nobody can be asked
}

// strict reports whether a request believes no index that others only claim.
func (s *images) strict(o control.Options) bool { return s.n.cfg.Strict || o.Strict }

// ask asks about an image, and about those of its first layers whose index is not known here.
func (s *images) ask(img *registry.Image, first []registry.Layer, o control.Options) *asked {
	a := &asked{done: make(chan struct{}), looked: make(chan struct{}), options: o, strict: s.strict(o)}
	layers := s.unknown(first, a.strict)
	if !img.Stale { // a registry that does not answer is not asked again
		a.soci = sync.OnceValue(func() map[blob.Hash]soci.Ztoc { return s.askSoci(s.n.asking, img) })
	}
	if len(s.keys) == 0 || len(layers) == 0 || img.Stale {
		close(a.looked)
	} else {
		s.n.wg.Go(func() {
			defer close(a.looked)
			a.signed = s.askSigned(s.n.asking, img, layers)
		})
	}
	if s.records == nil {
		close(a.done)
		return a
	}
	var unknown []blob.Hash
	if !a.strict {
		for _, l := range layers {
			unknown = append(unknown, l.Digest)
		}
	}
	s.n.wg.Go(func() {
		defer close(a.done)
		found, err := s.records.Ask(s.n.asking, img.Manifest, unknown...)
		if err != nil {
			s.n.log.Info("no tracker says what it knows of an image", "image", img.Manifest, "err", err)
		}
		a.Found = found
	})
	return a
}

// nobodyKnows is the answer of those who know nothing.
func (s *images) nobodyKnows() *asked {
	a := &asked{done: make(chan struct{}), looked: make(chan struct{}), strict: s.n.cfg.Strict}
	close(a.done)
	close(a.looked)
	return a
}

// indexes are the claims about a layer, the most likely first.
func (a *asked) indexes(ctx context.Context, layer blob.Hash) []tracker.IndexClaim {
	select {
	case <-a.done:
		return a.Found.Indexes[layer]
	case <-ctx.Done():
		return nil
	}
}

// findIndex finds an index of the layer: one that is known here, one that is signed, one that others claim, one that the
// image itself brings along, one that the registry has beside it. nil without an error: there is none.
func (s *images) findIndex(ctx context.Context, l *layer, a *asked) (*indexed, error) {
	log := s.n.log.With("layer", l.desc.Digest)
	if k, ok := s.knownIndexOf(l.desc.Digest); ok && !(a.strict && k.Trust <= blob.Claimed) {
		found, err := s.openIndex(ctx, l, k)
		if err == nil {
			return found, nil
		}
		log.Info("the index that was used last time is not here any more", "err", err)
	}
	if k, ok := a.signedIndex(ctx, l.desc.Digest); ok {
		found, err := s.openIndex(ctx, l, k)
		if err == nil {
			found.known.Format = found.index.Format
			s.rememberIndex(l, found.known)
			return found, nil
		}
		log.Warn("an index that is signed cannot be used", "index", k.Digest, "err", err)
	}
	if found := s.tryClaims(ctx, l, a.indexes(ctx, l.desc.Digest)); found != nil {
		return found, nil
	}
	if !a.strict {
		if found := s.tryClaims(ctx, l, s.askPeers(ctx, l)); found != nil {
			return found, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if found, err := s.ownIndex(ctx, l); found != nil || err != nil {
		return found, err
	}
	return s.claimedSoci(ctx, l, a)
}

// tryClaims opens the first of several claimed indexes that can be opened; nil: none can.
func (s *images) tryClaims(ctx context.Context, l *layer, claims []tracker.IndexClaim) *indexed {
	for _, claim := range claims {
		k := knownIndex{Digest: claim.Digest, Root: claim.Root, Size: claim.Size, Trust: blob.Claimed, peers: claim.Peers}
		found, err := s.openIndex(ctx, l, k)
		if err == nil {
			found.known.Format = found.index.Format
			s.rememberIndex(l, found.known)
			return found
		}
		s.n.log.Info("an index that somebody claims cannot be used", "layer", l.desc.Digest, "index", claim.Digest, "err", err)
	}
	return nil
}

// talkWait bounds how long peers of a layer may take to say which index it has: some round trips, and the time in which
// peers are found on a local network.
const talkWait = 300 * time.Millisecond

// askPeers asks the peers of a layer for its index, where there are any or others than trackers look for them.
func (s *images) askPeers(ctx context.Context, l *layer) []tracker.IndexClaim {
	any := s.n.finders.finds()
	for _, j := range l.stored.joined() {
		any = any || len(j.torrent.Peers()) > 0
	}
	if !any {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, talkWait)
	defer cancel()
	return l.stored.askIndex(ctx)
}

// maxIndexSize bounds an index, in bytes: 4 % of the largest layer that is reasonable, 25 GiB.
const maxIndexSize = 1 << 30

// openIndex opens an index from the store and from peers, and checks that it is one of this layer.
func (s *images) openIndex(ctx context.Context, l *layer, k knownIndex) (_ *indexed, err error) {
	if k.Size > maxIndexSize {
		return nil, fmt.Errorf("%w: an index of %d bytes", blob.ErrInvalid, k.Size)
	}
	file, err := s.holdIndex(ctx, l, k, "")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.n.release(file)
		}
	}()
	bounded, cancel := context.WithTimeout(ctx, headWait)
	defer cancel()
	x, err := index.Open(bounded, file.fetch)
	if err != nil {
		if bounded.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: no peer gave it within %v", blob.ErrUnavailable, headWait)
		}
		return nil, err
	}
	switch {
	case x.Layer != l.desc.Digest || x.Stored != l.desc.Size:
		return nil, fmt.Errorf("%w: it is the index of another layer, sha256:%v of %d bytes", blob.ErrCorrupt, x.Layer, x.Stored)
	case !l.desc.DiffID.IsZero() && !x.DiffID.IsZero() && x.DiffID != l.desc.DiffID:
		return nil, fmt.Errorf("%w: it says that the layer is sha256:%v uncompressed, the image says sha256:%v", blob.ErrCorrupt, x.DiffID, l.desc.DiffID)
	}
	return &indexed{x, file, k}, nil
}

// holdIndex opens the blob of an index. streamed is a file that has all of it, or "".
func (s *images) holdIndex(ctx context.Context, l *layer, k knownIndex, streamed string) (*live, error) {
	m := k.link()
	f := found{
		id: m.ID(), geometry: blob.GeometryFor(k.Size), root: k.Root, digest: k.Digest, peers: k.peers, streamed: streamed, seed: s.pushedIndex(l, k),
		meta: blockio.Meta{Source: m.Source(), Name: "index-" + l.desc.Digest.String()},
	}
	if err := f.geometry.Check(); err != nil {
		return nil, err
	}
	// Windows of spans are read as they are needed; the whole index is small beside the layer.
	w, err := s.n.want(f.meta.Source, control.Options{Fill: fetch.FillIdle.String()}, f)
	if err != nil {
		return nil, err
	}
	file, _, err := s.n.hold(ctx, f, w)
	return file, err
}

// redecode forgets what was decoded of a layer by another index than the one it has now: it may lie elsewhere, and its
// spans were held against that one's digests.
func (s *images) redecode(l *layer, before, now knownIndex) error {
	if before.Digest.IsZero() || before.Digest == now.Digest {
		return nil
	}
	s.mu.Lock()
	open := s.layers[l.desc.Digest]
	s.mu.Unlock()
	if open != nil && open != l || s.adopted(l.desc.Digest) {
		return nil // it is being read
	}
	path, err := s.path("decoded", l.desc.Digest.String())
	if err == nil {
		err = control.Local(device.Remove(path))
	}
	return err
}

// sequential reads a blob from its start.
type sequential struct {
	ctx  context.Context
	from blob.ReaderAt
	at   int64
}

// Read implements io.Reader.
func (r *sequential) Read(p []byte) (int, error) {
	n := int(min(int64(len(p)), r.from.Size()-r.at))
	if n == 0 {
		return 0, io.EOF
	}
	if err := r.from.ReadAt(r.ctx, p[:n], r.at); err != nil {
		return 0, err
	}
	r.at += int64(n)
	return n, nil
}

// scratch is a file that goes when it is closed.
func (s *images) scratch() (*os.File, error) {
	f, err := os.CreateTemp(s.dir, "windows-")
	if err != nil {
		return nil, control.Local(fmt.Errorf("state directory: %w", err))
	}
	os.Remove(f.Name())
	return f, nil
}

// buildIndex reads the whole layer as it arrives, decodes it into the file decoded, unless that is "", and makes its
// index.
func (s *images) buildIndex(ctx context.Context, l *layer, from blob.ReaderAt, decoded string) (_ *indexed, err error) {
	s.n.log.Info("nobody has an index of the layer: reading it whole", "layer", l.desc.Digest, "size", l.desc.Size)
	d := l.desc
	o := build.Options{MaxSize: s.n.cfg.MaxLayerSize, MaxRatio: s.n.cfg.MaxLayerRatio, Want: build.Want{Digest: d.Digest, Size: d.Size, DiffID: d.DiffID}, Image: erofslayer.Is(d.MediaType)}
	if decoded != "" {
		device.Remove(decoded) // whatever an earlier attempt left
		out, err := os.OpenFile(decoded, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, control.Local(fmt.Errorf("decoded layers: %w", err))
		}
		defer out.Close()
		o.Decoded = out
	}
	scratch, err := s.scratch()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	o.Scratch = scratch
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	l.refuse.Store(&refuse)
	defer l.refuse.Store(nil)
	s.shrinker.busy(true)
	defer s.shrinker.busy(false)
	built, err := build.Build(ctx, &sequential{ctx: ctx, from: from}, o)
	if err != nil {
		if decoded != "" {
			device.Remove(decoded)
		}
		if why := context.Cause(ctx); errors.Is(why, blob.ErrCorrupt) {
			return nil, why
		}
		return nil, err
	}
	s.n.learn(l.stored, d.Digest)
	before, _ := s.knownIndexOf(d.Digest)
	x, err := s.adoptIndex(ctx, l, built.Format, blob.Built, built.Encode)
	if err == nil && decoded == "" {
		err = s.redecode(l, before, x.known)
	}
	return x, err
}

// writeIndex writes an index to a file, which whoever opens it takes over.
func (s *images) writeIndex(encode func(io.Writer) (int64, error)) (k knownIndex, path string, err error) {
	f, err := os.CreateTemp(s.dir, "index-")
	if err != nil {
		return k, "", err
	}
	defer f.Close()
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	size, err := encode(w)
	if err = errors.Join(err, w.Flush()); err != nil {
		return k, "", fmt.Errorf("index: %w", err)
	}
	if _, err = f.Seek(0, io.SeekStart); err != nil {
		return k, "", err
	}
	g := blob.GeometryFor(size)
	sums, err := hashFile(s.n.asking, f, g, func(int64) {})
	if err != nil {
		return k, "", err
	}
	return knownIndex{Digest: sums.digest, Root: sums.root(g), Size: size}, f.Name(), nil
}

// vouch claims at the trackers, and to peers, that a layer has this index, until it is taken back.
func (s *images) vouch(l *layer, k knownIndex) {
	l.stored.vouchIndex(k.Root, k.Digest, k.Size, k.Trust)
	if s.records == nil {
		return
	}
	layer := l.desc.Digest
	if err := s.records.ClaimIndex(layer, tracker.IndexClaim{Root: k.Root, Digest: k.Digest, Size: k.Size, Trust: k.Trust}); err != nil {
		s.n.log.Warn("no tracker knows of the index of a layer", "layer", layer, "err", err)
	}
}
