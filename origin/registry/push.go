package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

// pusher is the server to push to: the own one, unless hosts.toml keeps pushes from it.
func (c *Client) pusher(ref Ref, path ...string) (place, error) {
	if ref.Local != "" {
		return place{}, fmt.Errorf("push to %s: %w: only a registry can be pushed to", ref.Repository(), blob.ErrInvalid)
	}
	all, err := c.places(ref, push, "pull,push", path...)
	if err != nil {
		return place{}, err
	}
	return all[len(all)-1], nil
}

// send sends one request of a push and returns its answer, whose status is one of want. The body is closed.
func (c *Client) send(ctx context.Context, p place, method string, u *url.URL, header http.Header, body *io.SectionReader, want ...int) (*http.Response, error) {
	site := p.site
	site.URL = u
	if u.Scheme != p.s.base.Scheme || u.Host != p.s.base.Host {
		site.Auth, site.Header = nil, nil // credentials stay with the server they are for
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", blob.ErrInvalid, method)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil {
		req.ContentLength = body.Size()
		req.GetBody = func() (io.ReadCloser, error) {
			if body.Size() == 0 {
				return http.NoBody, nil
			}
			return io.NopCloser(io.NewSectionReader(body, 0, body.Size())), nil
		}
		req.Body, _ = req.GetBody()
	}
	resp, err := c.c.Do(req, site, c.asks)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for _, code := range want {
		if resp.StatusCode == code {
			io.CopyN(io.Discard, resp.Body, 4<<10)
			return resp, nil
		}
	}
	return resp, site.Fail(resp)
}

// PushBlob puts size bytes into the repository of ref, unless it has them already. It returns their digest.
func (c *Client) PushBlob(ctx context.Context, ref Ref, r io.ReaderAt, size int64) (blob.Hash, error) {
	h, err := c.pushBlob(ctx, ref, r, size)
	if err != nil {
		return h, fmt.Errorf("push to %s: blob of %d bytes: %w", ref.Repository(), size, err)
	}
	return h, nil
}

func (c *Client) pushBlob(ctx context.Context, ref Ref, r io.ReaderAt, size int64) (blob.Hash, error) {
	body := io.NewSectionReader(r, 0, size)
	sum := sha256.New()
	if n, err := io.Copy(sum, body); err != nil || n != size {
		return blob.Hash{}, fmt.Errorf("%w: read %d of %d bytes: %v", blob.ErrInvalid, n, size, err)
	}
	h := blob.Hash(sum.Sum(nil))
	digest := "sha256:" + h.String()
	p, err := c.pusher(ref, "blobs", digest)
	if err != nil {
		return h, err
	}
	if _, err := c.send(ctx, p, http.MethodHead, p.site.URL, nil, nil, http.StatusOK); err == nil {
		return h, nil
	} else if !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrDenied) {
		return h, err // a denial may be of the reading only: the next request tells
	}
	start := p.s.url(ref.Host, ref.Name, "blobs", "uploads")
	start.Path += "/"
	resp, err := c.send(ctx, p, http.MethodPost, start, nil, io.NewSectionReader(strings.NewReader(""), 0, 0), http.StatusAccepted)
	if err != nil {
		return h, err
	}
	to, err := start.Parse(resp.Header.Get("Location"))
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || p.s.base.Scheme == "https" && to.Scheme == "http" {
		return h, fmt.Errorf("%w: the registry names no place to upload to: tell its operator", blob.ErrUnavailable)
	}
	q := to.Query()
	q.Set("digest", digest)
	to.RawQuery = q.Encode()
	_, err = c.send(ctx, p, http.MethodPut, to, http.Header{"Content-Type": {"application/octet-stream"}}, body, http.StatusCreated, http.StatusNoContent, http.StatusOK)
	return h, err
}

// PushManifest puts a manifest or index into the repository of ref: under its tag, or, when ref has a digest or
// nothing, under its own digest, which it returns. A manifest with a subject is entered into the list of what refers
// to it, in the way that the registry knows ([Client.Referrers]).
func (c *Client) PushManifest(ctx context.Context, ref Ref, mediaType string, text []byte) (blob.Hash, error) {
	h := blob.Hash(sha256.Sum256(text))
	name := "sha256:" + h.String()
	if ref.Tag != "" && ref.Digest.IsZero() {
		name = ref.Tag
	}
	err := c.pushManifest(ctx, ref, name, mediaType, text)
	if err != nil {
		return h, fmt.Errorf("push to %s: manifest %s: %w", ref.Repository(), name, err)
	}
	return h, nil
}

func (c *Client) pushManifest(ctx context.Context, ref Ref, name, mediaType string, text []byte) error {
	if len(text) > maxManifest {
		return fmt.Errorf("%w: %d bytes, and registries take at most %d", blob.ErrInvalid, len(text), maxManifest)
	}
	p, err := c.pusher(ref, "manifests", name)
	if err != nil {
		return err
	}
	body := io.NewSectionReader(strings.NewReader(string(text)), 0, int64(len(text)))
	resp, err := c.send(ctx, p, http.MethodPut, p.site.URL, http.Header{"Content-Type": {mediaType}}, body, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	if resp.Header.Get("OCI-Subject") != "" {
		return nil // it keeps the list itself
	}
	return c.enterReferrer(ctx, ref, mediaType, text)
}

// Artifact is a manifest that is not an image: an index of layers, a signature.
type Artifact struct {
	Digest       blob.Hash
	Manifest     []byte
	ArtifactType string
	Annotations  map[string]string
	Config       Layer
	Layers       []Layer // its blobs, for [Client.Layer]
}

// Artifact reads the artefact that ref names by tag or digest.
func (c *Client) Artifact(ctx context.Context, ref Ref) (*Artifact, error) {
	var a *Artifact
	err := c.within(ctx, func(ctx context.Context) (err error) {
		a, err = c.artifact(ctx, ref)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("artefact %s: %w", ref, err)
	}
	return a, nil
}

func (c *Client) artifact(ctx context.Context, ref Ref) (*Artifact, error) {
	h := ref.Digest
	if h.IsZero() {
		var err error
		if ref.Local != "" {
			h, err = localTag(ref)
		} else {
			h, err = c.fetchTag(ctx, ref, origin.Options{})
		}
		if err != nil {
			return nil, err
		}
	}
	text, err := c.manifestBytes(ctx, ref, h, -1)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, err
	}
	if m.isIndex {
		return nil, fmt.Errorf("manifest: %w: it is an OCI index, not an artefact", blob.ErrInvalid)
	}
	a := &Artifact{Digest: h, Manifest: text, ArtifactType: m.ArtifactType, Annotations: m.Annotations}
	if a.ArtifactType == "" {
		a.ArtifactType = m.Config.MediaType
	}
	for i, d := range append([]descriptor{*m.Config}, m.Layers...) {
		h, err := d.check(fmt.Sprintf("blob %d", i), blob.MaxSize)
		if err != nil {
			return nil, err
		}
		l := Layer{Digest: h, Size: d.Size, MediaType: d.MediaType, Annotations: d.Annotations}
		if i == 0 {
			a.Config = l
		} else {
			a.Layers = append(a.Layers, l)
		}
	}
	return a, nil
}
