package origin

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"

	"github.com/pantala/pantala/blob"
)

// backend is the way to the bytes of an object: over HTTP, or from a file.
type backend interface {
	// fetch delivers the blocks of r, which lies inside the object.
	fetch(ctx context.Context, r blob.Run, into blob.Sink) error
	// stream gives all bytes to w and returns their number.
	stream(ctx context.Context, w func(p []byte) error) (int64, error)
}

// Object is one version of what is behind a URL. It is safe for concurrent use.
type Object struct {
	c         *Client
	from      backend
	canonical string
	shown     string // the URL for texts; see display
	validator string
	nonce     string // "" when the validator names the version beyond this Open
	name      string
	first     []byte

	size    atomic.Int64 // -1: not known
	ranges  atomic.Bool
	changed atomic.Bool
}

var _ blob.Source = (*Object)(nil)

// newNonce makes an ID that nobody else can have.
func newNonce() string { return "open " + rand.Text() }

// URL is the canonical form of the URL that was opened: no user, no signature parameters; see
// [blob.CanonicalURL].
func (o *Object) URL() string { return o.canonical }

// ID names this version of the object. It is stable only if Shareable, and meaningful only once Size is
// known.
func (o *Object) ID() blob.ID {
	if o.nonce != "" {
		return blob.URLID(o.canonical, o.nonce, o.Size())
	}
	return blob.URLID(o.canonical, o.validator, o.Size())
}

// Size is the length of the object in bytes; -1 as long as it is not known. A complete Stream learns it.
func (o *Object) Size() int64 { return o.size.Load() }

// Validator names the version: a strong ETag, or Last-Modified (RFC 9110 section 8.8); "" when the server
// gives none, so that only the size is compared between two answers.
func (o *Object) Validator() string { return o.validator }

// Shareable reports whether the ID means the same bytes on every node, and tomorrow: there is a validator,
// and it is not a Last-Modified of this very second.
func (o *Object) Shareable() bool { return o.nonce == "" }

// Name is a safe file name for the object.
func (o *Object) Name() string { return o.name }

// Ranges reports whether Fetch works; if not, only Stream does.
func (o *Object) Ranges() bool { return o.ranges.Load() }

// First is the start of the object, as much as Open has got of it: at most Options.Prefix bytes, and all of the object if
// it is not longer than that and the network did not hesitate. Not to be written to.
func (o *Object) First() []byte { return o.first }

// Changed reports whether the origin now has another version. It stays true.
func (o *Object) Changed() bool { return o.changed.Load() }

// Has reports whether Fetch may be asked for r: as long as the object has not changed and ranges work.
func (o *Object) Has(r blob.Run) bool {
	return !o.Changed() && o.Ranges() && uint64(r.First)+uint64(r.Count) <= uint64(o.geometry().Blocks())
}

// geometry is how the object is cut; that of an empty blob while the size is not known.
func (o *Object) geometry() blob.Geometry { return blob.GeometryFor(max(o.Size(), 0)) }

// Fetch delivers the blocks of r in order, with one request for all of them, straight from the socket into
// the buffers of the sink. What breaks on the way is asked for again from the first byte that is missing,
// Options.Retries times in a row without progress, and from the mirrors in turn. See [blob.Source].
func (o *Object) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	if uint64(r.First)+uint64(r.Count) > uint64(o.geometry().Blocks()) {
		return fmt.Errorf("origin: %w: blocks %v of %s, which has %d bytes", blob.ErrInvalid, r, o.shown, o.Size())
	}
	if r.Empty() {
		return nil
	}
	return o.call(ctx, func() error { return o.from.fetch(ctx, r, into) })
}

// Stream gives the whole object to w, from byte 0 on, in slices of 256 KiB, of which only the last may be
// shorter, and which are valid only during the call. It is for objects of unknown size or without ranges. What breaks is taken up where it was
// only if a validator vouches that it is still the same object. An error of w ends it, and is returned.
func (o *Object) Stream(ctx context.Context, w func(p []byte) error) error {
	return o.call(ctx, func() error {
		n, err := o.from.stream(ctx, w)
		if err == nil {
			o.size.CompareAndSwap(-1, n)
		}
		return err
	})
}

// call runs f as a call that Close waits for.
func (o *Object) call(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("origin: %s: %w", o.shown, err)
	}
	if o.Changed() {
		return o.errChanged()
	}
	if err := o.c.enter(); err != nil {
		return err
	}
	defer o.c.calls.Done()
	return f()
}

// errChanged is what every call returns once the object has changed.
func (o *Object) errChanged() error {
	return fmt.Errorf("origin: %s: %w since it was opened: mount it again to get the new version", o.shown, blob.ErrChanged)
}
