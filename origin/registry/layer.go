package registry

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

// Blob is a layer, or another blob of a repository, as an origin: blob.Source and what fetch wants beside it. Its
// bytes are not checked against its digest here. It needs no closing.
type Blob struct {
	c     *Client
	ref   Ref
	layer Layer

	mu  sync.Mutex
	by  *hostsEntry    // what obj was made of; guarded by mu
	obj *origin.Object // guarded by mu
}

var _ blob.Source = (*Blob)(nil)

// Layer is a layer of an image that Resolve returned. It asks nobody yet; ctx is only looked at.
func (c *Client) Layer(ctx context.Context, ref Ref, l Layer) *Blob {
	return &Blob{c: c, ref: ref, layer: l}
}

// Digest names the blob.
func (b *Blob) Digest() blob.Hash { return b.layer.Digest }

// Size is its length in bytes.
func (b *Blob) Size() int64 { return b.layer.Size }

// String is the blob in texts.
func (b *Blob) String() string {
	return fmt.Sprintf("%s@sha256:%s", b.ref.Repository(), b.layer.Digest)
}

// object is the blob at the servers that the configuration names now: a changed hosts.toml counts from the next
// request on.
func (b *Blob) object(ctx context.Context) (*origin.Object, error) {
	if b.ref.Local != "" {
		return b.local(ctx)
	}
	e := b.c.h.of(b.ref.Host)
	b.mu.Lock()
	obj := b.obj
	if b.by != e {
		obj = nil
	}
	b.mu.Unlock()
	if obj != nil {
		return obj, nil
	}
	if e.err != nil {
		return nil, e.err
	}
	at, err := b.c.placesOf(e, b.ref, pull, "pull", "blobs", "sha256:"+b.layer.Digest.String())
	if err != nil {
		return nil, err
	}
	if obj, err = b.c.c.Known(b.String(), b.layer.Size, sites(at), origin.Options{}); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by != e {
		b.by, b.obj = e, obj
	}
	return b.obj, nil
}

// local is the blob in an OCI layout.
func (b *Blob) local(ctx context.Context) (*origin.Object, error) {
	b.mu.Lock()
	obj := b.obj
	b.mu.Unlock()
	if obj != nil {
		return obj, nil
	}
	at := url.URL{Scheme: "file", Path: filepath.Join(b.ref.Local, "blobs", "sha256", b.layer.Digest.String())}
	obj, err := b.c.c.Open(ctx, at.String(), origin.Options{})
	if err != nil {
		return nil, err
	}
	if obj.Size() != b.layer.Size {
		return nil, fmt.Errorf("%s: %w: the file has %d bytes, and the manifest says %d", b, blob.ErrCorrupt, obj.Size(), b.layer.Size)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.obj = obj
	return obj, nil
}

// Ranges reports whether Fetch works. A server that has not been asked yet is taken for one that knows ranges.
func (b *Blob) Ranges() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.obj == nil || b.obj.Ranges()
}

// Has implements blob.Source.
func (b *Blob) Has(r blob.Run) bool {
	return b.Ranges() && uint64(r.First)+uint64(r.Count) <= uint64(blob.GeometryFor(b.layer.Size).Blocks())
}

// Fetch implements blob.Source.
func (b *Blob) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	obj, err := b.object(ctx)
	if err != nil {
		return fmt.Errorf("layer %s: %w", b, err)
	}
	if err := obj.Fetch(ctx, r, into); err != nil {
		return fmt.Errorf("layer %s: %w", b, err)
	}
	return nil
}

// Stream gives the whole blob to w, as [origin.Object.Stream] does.
func (b *Blob) Stream(ctx context.Context, w func(p []byte) error) error {
	obj, err := b.object(ctx)
	if err != nil {
		return fmt.Errorf("layer %s: %w", b, err)
	}
	if err := obj.Stream(ctx, w); err != nil {
		return fmt.Errorf("layer %s: %w", b, err)
	}
	return nil
}
