package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/build"
	"github.com/pantala/pantala/origin/registry"
)

// What a command wants to know of an image is found out layer by layer, beside whatever trees are mounted: the blobs of
// layers and indexes are shared with them, but nothing is decoded to disk and no device is made.

// looked is an image that a command looks at.
type looked struct {
	s     *images
	image *registry.Image
	reply control.Image
	asked *asked
}

// look finds out what an image is. The caller calls done when it needs it no longer.
func (n *Node) look(ctx context.Context, r control.ImageRequest) (_ context.Context, _ *looked, done func(), err error) {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	if err := n.expect(r.Expect); err != nil {
		return nil, nil, nil, err
	}
	s, err := n.imageDoor()
	if err != nil {
		return nil, nil, nil, err
	}
	img, warnings, err := s.resolve(ctx, r.Ref, r.Platform, control.Options{})
	if err != nil {
		return nil, nil, nil, err
	}
	k := &looked{s: s, image: img, asked: s.ask(img, img.Layers, control.Options{})}
	k.reply = control.Image{Ref: img.Ref.String(), Manifest: "sha256:" + img.Manifest.String(), Platform: platformOf(img), Warnings: warnings}
	nydus, _ := nydusOf(img)
	for _, d := range img.Layers {
		l := s.described(d)
		l.Kind = nydus.kind(d)
		k.reply.Layers = append(k.reply.Layers, l)
	}
	return ctx, k, end, nil
}

// platformOf is what the image's configuration says it runs on.
func platformOf(img *registry.Image) string {
	var c struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	}
	if json.Unmarshal(img.Config, &c) != nil || c.OS == "" {
		return "unknown"
	}
	return registry.Platform{OS: c.OS, Arch: c.Architecture, Variant: c.Variant}.String()
}

// described is what the manifest says of a layer, and what is here of it.
func (s *images) described(d registry.Layer) control.ImageLayer {
	l := control.ImageLayer{Digest: "sha256:" + d.Digest.String(), MediaType: d.MediaType, Size: d.Size, DiffID: "sha256:" + d.DiffID.String()}
	if info, ok := s.n.store.Lookup(blob.DigestID(d.Digest)); ok {
		l.Present = info.Present
	}
	if path, err := s.path("decoded", d.Digest.String()); err == nil {
		if st, err := os.Stat(path); err == nil {
			l.Decoded = allocated(st)
		}
	}
	return l
}

// private is a layer that is opened for a command only.
func (k *looked) private(i int) *layer {
	return &layer{image: k.image, desc: k.image.Layers[i]}
}

// tell writes down which index a layer has; found is nil when it could not be opened.
func (k *looked) tell(i int, known knownIndex, here bool, found *indexed) {
	x := &control.LayerIndex{Digest: "sha256:" + known.Digest.String(), Root: known.Root.String(), Size: known.Size, Trust: known.Trust.String(), Here: here, Format: known.Format}
	if found != nil {
		x.Format, x.Spans, x.Entries, x.Decoded = found.index.Format, len(found.index.Spans), found.index.Count(), found.index.Size
	}
	k.reply.Layers[i].Index = x
}

// lookers is how many layers are looked at at the same time: enough to wait for peers only once, mostly.
const lookers = 16

// ImageInspect implements control.Images.
func (n *Node) ImageInspect(ctx context.Context, r control.ImageRequest) (control.Image, error) {
	ctx, k, done, err := n.look(ctx, r)
	if err != nil {
		return control.Image{}, err
	}
	defer done()
	var g errgroup.Group
	g.SetLimit(lookers)
	for i := range k.image.Layers {
		if k.reply.Layers[i].Kind != "" {
			continue // it has no index of its own, and needs none
		}
		g.Go(func() error {
			k.inspect(ctx, i)
			return nil
		})
	}
	g.Wait()
	return k.reply, ctx.Err()
}

// inspect finds out which index a layer has, without reading the layer.
func (k *looked) inspect(ctx context.Context, i int) {
	l := k.private(i)
	known, here := k.s.knownIndexOf(l.desc.Digest)
	if !here {
		var ok bool
		if known, ok = k.asked.signedIndex(ctx, l.desc.Digest); !ok {
			claims := k.asked.indexes(ctx, l.desc.Digest)
			if len(claims) == 0 {
				return
			}
			c := claims[0]
			known = knownIndex{Digest: c.Digest, Root: c.Root, Size: c.Size, Trust: blob.Claimed, peers: c.Peers}
		}
	}
	found, err := k.s.openIndex(ctx, l, known)
	if err == nil {
		defer k.s.n.release(found.file)
	}
	k.tell(i, known, here, found)
}

// counted tells how much was read of a blob.
type counted struct {
	blob.ReaderAt
	tell func(n int)
}

// ReadAt implements blob.ReaderAt.
func (c counted) ReadAt(ctx context.Context, p []byte, off int64) error {
	err := c.ReaderAt.ReadAt(ctx, p, off)
	if err == nil {
		c.tell(len(p))
	}
	return err
}

// reading is the progress of reading layers, of total bytes.
func reading(what string, total int64, progress func(control.Progress)) func(n int) {
	var done atomic.Int64
	return func(n int) {
		if progress != nil {
			progress(control.Progress{What: what, Done: min(done.Add(int64(n)), total), Total: total})
		}
	}
}

func (k *looked) size() (total int64) {
	for _, d := range k.image.Layers {
		total += d.Size
	}
	return total
}

// ImageCheck implements control.Images. Layers come one after the other: each of them keeps all processors busy.
func (n *Node) ImageCheck(ctx context.Context, r control.ImageRequest, progress func(control.Progress)) (control.Image, error) {
	ctx, k, done, err := n.look(ctx, r)
	if err != nil {
		return control.Image{}, err
	}
	defer done()
	tell := reading("checking", 2*k.size(), progress) // once as a whole, and once span by span
	for i := range k.image.Layers {
		err := k.check(ctx, i, tell)
		if ctx.Err() != nil {
			return control.Image{}, context.Cause(ctx)
		}
		if err != nil {
			k.reply.Layers[i].Fault = control.FaultOf(fmt.Errorf("layer %d, sha256:%v: %w", i, k.image.Layers[i].Digest, err))
		}
	}
	return k.reply, nil
}

// check reads a layer whole, and holds its digests and its index against it.
func (k *looked) check(ctx context.Context, i int, tell func(int)) error {
	l, s := k.private(i), k.s
	if err := s.openStored(ctx, l, control.Options{}); err != nil {
		return err
	}
	defer func() {
		s.n.release(l.stored)
		before := k.reply.Layers[i]
		k.reply.Layers[i] = s.described(l.desc)
		k.reply.Layers[i].Kind, k.reply.Layers[i].Index = before.Kind, before.Index
	}()
	if k.reply.Layers[i].Kind != "" {
		return k.checkNydus(ctx, l, tell)
	}
	found, err := s.findIndex(ctx, l, k.asked)
	if err != nil {
		return err
	}
	stored := counted{l.stored.fetch, tell}
	if found == nil { // the digests are all there is to be checked, and making an index checks them
		if found, err = s.buildIndex(ctx, l, stored, ""); err != nil {
			return err
		}
		defer s.n.release(found.file)
		tell(int(l.desc.Size))
		k.tell(i, found.known, true, found)
		return nil
	}
	defer s.n.release(found.file)
	k.tell(i, found.known, true, found)
	if found.index.DiffID.IsZero() {
		found.index.DiffID = l.desc.DiffID
	}
	scratch, err := s.scratch()
	if err != nil {
		return err
	}
	defer scratch.Close()
	all, err := build.Check(ctx, found.index, stored, found.file.fetch, scratch)
	if err != nil {
		if errors.Is(err, blob.ErrCorrupt) {
			s.n.log.Error("a layer and what is known of it differ", "layer", l.desc.Digest, "index", found.known.Digest, "err", err)
		}
		return err
	}
	s.n.learn(l.stored, l.desc.Digest)
	if all && found.known.Trust <= blob.Claimed {
		// All that it says was compared with the layer's own bytes: it needs nobody's word any more.
		found.known.Trust = blob.Built
		s.rememberIndex(l, found.known)
		k.tell(i, found.known, true, found)
	}
	return nil
}
