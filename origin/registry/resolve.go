package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

// Image is one image for one platform.
type Image struct {
	Ref           Ref       // as it was asked for
	Manifest      blob.Hash // the digest of the manifest that was chosen
	ManifestBytes []byte
	Index         blob.Hash // the digest of the index it was chosen from; zero when there was none
	Config        []byte    // the image configuration
	Layers        []Layer   // bottom first
	// Stale: no server could be asked, and the tag is what it was when one could.
	Stale bool
}

// Layer is one layer of an image.
type Layer struct {
	Digest      blob.Hash // of the stored bytes
	Size        int64     // of the stored bytes
	MediaType   string
	Annotations map[string]string
	DiffID      blob.Hash // of the decoded bytes
	URLs        []string  // where a foreign layer can be had beside the registry
}

const (
	// stalePatience is how long servers are asked about a tag whose digest is remembered: a container that could
	// start should not wait much longer than a human does.
	stalePatience = 5 * time.Second
	// outageHold is for how long after that nobody is asked again.
	outageHold = 10 * time.Second
)

// Resolve finds the image of a reference for a platform. Of its documents only those are asked for that this client
// does not remember. A tag that was resolved less than Options.TTL ago is not asked about again; one that nobody can
// be asked about is what it was, and the Image Stale.
func (c *Client) Resolve(ctx context.Context, ref Ref, p Platform) (*Image, error) {
	var im *Image
	err := c.within(ctx, func(ctx context.Context) (err error) {
		im, err = c.resolve(ctx, ref, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return im, nil
}

func (c *Client) resolve(ctx context.Context, ref Ref, p Platform) (*Image, error) {
	im := &Image{Ref: ref}
	top, err := c.digestOf(ctx, ref, im)
	if err != nil {
		return nil, err
	}
	asked := p != Platform{}
	p = p.normal()
	text, err := c.manifestBytes(ctx, ref, top, -1)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, err
	}
	if m.isIndex {
		im.Index = top
		return im, c.choose(ctx, im, m, p, 1)
	}
	conf, err := c.fill(ctx, im, m, top, text)
	if err != nil {
		return nil, err
	}
	if q := conf.platform(); p.rank(q) < 0 {
		if asked {
			return nil, fmt.Errorf("%w: it is for %s only, and %s was asked for: choose another --platform or image", blob.ErrNotFound, q, p)
		}
		c.log.Warn("this image is for another platform than this machine", "image", ref.String(), "platform", q.String())
	}
	return im, nil
}

func (c *imageConfig) platform() Platform {
	return Platform{c.OS, c.Architecture, c.Variant}.normal()
}

// choose completes an image from an index.
func (c *Client) choose(ctx context.Context, im *Image, m *manifest, p Platform, depth int) error {
	named, nameless := m.candidates(p)
	// Of those without a platform at most a few can be looked at: each costs requests.
	const looks = 8
	for i, d := range append(named, nameless[:min(len(nameless), looks)]...) {
		h, err := d.check(fmt.Sprintf("manifest for %s in the OCI index", p), maxManifest)
		if err != nil {
			return err
		}
		text, err := c.manifestBytes(ctx, im.Ref, h, d.Size)
		if err != nil {
			return err
		}
		sub, err := parseManifest(text)
		if err != nil {
			if i >= len(named) {
				continue // who knows what it is
			}
			return err
		}
		if sub.isIndex {
			if depth == maxDepth {
				return fmt.Errorf("OCI index: %w: one in another, more than %d deep", blob.ErrInvalid, maxDepth)
			}
			err := c.choose(ctx, im, sub, p, depth+1)
			if errors.Is(err, blob.ErrNotFound) && i+1 < len(named)+len(nameless) {
				continue
			}
			return err
		}
		if i >= len(named) && sub.isImage() != nil {
			continue
		}
		conf, err := c.fill(ctx, im, sub, h, text)
		if err != nil {
			return err
		}
		if i >= len(named) && p.rank(conf.platform()) < 0 {
			continue
		}
		return nil
	}
	return fmt.Errorf("%w: there is no manifest for %s in the OCI index; it has: %s: choose one with --platform", blob.ErrNotFound, p, m.platforms())
}

// fill completes an image from its manifest.
func (c *Client) fill(ctx context.Context, im *Image, m *manifest, h blob.Hash, text []byte) (*imageConfig, error) {
	if err := m.isImage(); err != nil {
		return nil, err
	}
	conf, err := c.configBytes(ctx, im.Ref, m.Config)
	if err != nil {
		return nil, err
	}
	layers, parsed, err := m.layers(conf)
	if err != nil {
		return nil, err
	}
	for i := range layers {
		if layers[i].isForeign() {
			return nil, fmt.Errorf("layer %d of %d (sha256:%s): %w: a foreign layer: the registry does not distribute it: use another image", i+1, len(layers), layers[i].Digest, blob.ErrDenied)
		}
	}
	im.Manifest, im.ManifestBytes, im.Config, im.Layers = h, text, conf, layers
	return parsed, nil
}

// digestOf is the digest that a reference means now.
func (c *Client) digestOf(ctx context.Context, ref Ref, im *Image) (blob.Hash, error) {
	switch {
	case !ref.Digest.IsZero():
		return ref.Digest, nil
	case ref.Local != "":
		return localTag(ref)
	}
	rec, known, ok := c.m.tag(ref.String())
	if ok && c.o.TTL > 0 && time.Since(rec.Seen) < c.o.TTL && time.Since(rec.Seen) >= 0 {
		return known, nil
	}
	if !ok || c.m.doc(known) == nil {
		h, err := c.fetchTag(ctx, ref, origin.Options{})
		if err == nil {
			c.m.putTag(ref.String(), h)
		}
		return h, err
	}
	var (
		h   blob.Hash
		err = error(blob.ErrUnavailable)
	)
	if time.Since(rec.failed) > outageHold {
		short, cancel := context.WithTimeout(ctx, stalePatience)
		h, err = c.askTag(short, ref)
		if short.Err() != nil && ctx.Err() == nil && err != nil {
			err = fmt.Errorf("%w: no answer within %v", blob.ErrUnavailable, stalePatience)
		}
		cancel()
		if errors.Is(err, blob.ErrUnavailable) {
			c.log.Warn("no server of the registry can be asked what the tag means now; it is taken for what it was", "image", ref.String(), "digest", rec.Digest, "since", rec.Seen, "err", err)
			c.m.tagFailed(rec)
		}
	}
	switch {
	case err == nil:
		c.m.putTag(ref.String(), h)
		return h, nil
	case errors.Is(err, blob.ErrUnavailable):
		im.Stale = true
		return known, nil
	}
	return h, err
}

// askTag asks for the digest of a tag that was known before. It is a HEAD, which registries with a limit do not count.
func (c *Client) askTag(ctx context.Context, ref Ref) (blob.Hash, error) {
	quick := origin.Options{Retries: -1}
	at, err := c.places(ref, resolve, "pull", "manifests", ref.Tag)
	if err != nil {
		return blob.Hash{}, err
	}
	doc, err := c.c.Read(ctx, sites(at), origin.Query{Method: http.MethodHead, Accept: accept}, c.with(quick))
	if err != nil {
		return blob.Hash{}, err
	}
	if h, err := parseDigest(doc.Header.Get("Docker-Content-Digest")); err == nil {
		return h, nil
	}
	return c.fetchTag(ctx, ref, quick)
}

// with are options for documents, whose bytes are not counted as those of layers.
func (c *Client) with(o origin.Options) origin.Options {
	o.OnBytes = c.asks.OnBytes
	return o
}

// fetchTag reads the manifest of a tag, keeps it, and returns its digest.
func (c *Client) fetchTag(ctx context.Context, ref Ref, o origin.Options) (blob.Hash, error) {
	at, err := c.places(ref, resolve, "pull", "manifests", ref.Tag)
	if err != nil {
		return blob.Hash{}, err
	}
	doc, err := c.c.Read(ctx, sites(at), origin.Query{Accept: accept, Limit: maxManifest, Check: func(d origin.Document) error {
		if err := refuseSchema1(d.Header); err != nil {
			return err
		}
		said := d.Header.Get("Docker-Content-Digest")
		if h, err := parseDigest(said); err == nil && sha256.Sum256(d.Body) != h {
			return fmt.Errorf("the manifest is not what its Docker-Content-Digest %s says", clip(said))
		}
		return nil
	}}, c.with(o))
	if err != nil {
		return blob.Hash{}, err
	}
	h := blob.Hash(sha256.Sum256(doc.Body))
	c.m.putDoc(h, doc.Body)
	return h, nil
}

// manifestBytes is a manifest by its digest; size < 0: not known.
func (c *Client) manifestBytes(ctx context.Context, ref Ref, h blob.Hash, size int64) ([]byte, error) {
	return c.document(ctx, ref, "manifests", accept, "manifest", h, size, maxManifest)
}

// configBytes is an image configuration, which its descriptor may hold itself.
func (c *Client) configBytes(ctx context.Context, ref Ref, d *descriptor) ([]byte, error) {
	h, err := d.check("image configuration", maxImageConfig)
	if err != nil {
		return nil, err
	}
	if d.Data != nil && sha256.Sum256(d.Data) == h && int64(len(d.Data)) == d.Size {
		return d.Data, nil
	}
	return c.document(ctx, ref, "blobs", nil, "image configuration", h, d.Size, maxImageConfig)
}

// document is something small that is named by its digest: remembered, or read and remembered.
func (c *Client) document(ctx context.Context, ref Ref, kind string, accept []string, what string, h blob.Hash, size, most int64) ([]byte, error) {
	check := func(p []byte) error {
		if size >= 0 && int64(len(p)) != size {
			return fmt.Errorf("%s sha256:%s has %d bytes, and its descriptor says %d", what, h, len(p), size)
		}
		if got := sha256.Sum256(p); got != h {
			return fmt.Errorf("%s sha256:%s: its bytes have the digest sha256:%x", what, h, got)
		}
		return nil
	}
	if ref.Local != "" {
		p, err := localDoc(ref, h, most)
		if err != nil {
			return nil, err
		}
		if err := check(p); err != nil {
			return nil, fmt.Errorf("%w: %v", blob.ErrCorrupt, err)
		}
		return p, nil
	}
	if p := c.m.doc(h); p != nil {
		if err := check(p); err != nil {
			return nil, fmt.Errorf("%w: %v", blob.ErrCorrupt, err)
		}
		return p, nil
	}
	at, err := c.places(ref, pull, "pull", kind, "sha256:"+h.String())
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	doc, err := c.c.Read(ctx, sites(at), origin.Query{Accept: accept, Limit: most, Check: func(d origin.Document) error {
		if err := refuseSchema1(d.Header); err != nil {
			return err
		}
		return check(d.Body)
	}}, c.with(origin.Options{}))
	if err != nil {
		return nil, err
	}
	c.far.note(ref.Host, time.Since(asked))
	c.m.putDoc(h, doc.Body)
	return doc.Body, nil
}
