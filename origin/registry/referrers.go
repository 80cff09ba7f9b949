package registry

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

// Referrer is a manifest that refers to another one.
type Referrer struct {
	Digest       blob.Hash
	Size         int64
	MediaType    string
	ArtifactType string
	Annotations  map[string]string
}

// maxPages bounds the pages of a list of referrers that are read.
const maxPages = 16

// Referrers lists what refers to a manifest of a repository (OCI distribution specification 1.1, section "Listing
// Referrers"): of one artifact type, or of all with "". Registries that know no such list are asked for the tag that
// stands in for it. Nothing refers to a manifest of an OCI layout in a folder.
func (c *Client) Referrers(ctx context.Context, ref Ref, subject blob.Hash, artifactType string) ([]Referrer, error) {
	if ref.Local != "" {
		return nil, nil
	}
	var list []descriptor
	err := c.within(ctx, func(ctx context.Context) (err error) {
		list, err = c.referrers(ctx, ref, subject, artifactType)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", ref.At(subject), err)
	}
	var all []Referrer
	for _, d := range list {
		h, err := d.check("referrer", maxManifest)
		if err != nil || artifactType != "" && d.ArtifactType != artifactType {
			continue
		}
		all = append(all, Referrer{h, d.Size, d.MediaType, d.ArtifactType, d.Annotations})
	}
	return all, nil
}

func (c *Client) referrers(ctx context.Context, ref Ref, subject blob.Hash, artifactType string) (all []descriptor, err error) {
	at, err := c.places(ref, pull|referrers, "pull", "referrers", "sha256:"+subject.String())
	if err != nil {
		return nil, err
	}
	for i := range at {
		if artifactType != "" {
			q := at[i].site.URL.Query()
			q.Set("artifactType", artifactType)
			at[i].site.URL.RawQuery = q.Encode()
		}
	}
	for range maxPages {
		doc, err := c.c.Read(ctx, sites(at), origin.Query{Accept: []string{v1.MediaTypeImageIndex}, Limit: maxManifest}, c.with(origin.Options{}))
		if errors.Is(err, blob.ErrUnavailable) && ctx.Err() == nil || errors.Is(err, blob.ErrNotFound) {
			// 404 and 405 and the like: it does not know the list. One that is down fails below as well.
			list, err := c.taggedReferrers(ctx, ref, subject)
			return append(all, list...), err
		}
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(doc.Body)
		if err != nil {
			return nil, err
		}
		all = append(all, m.Manifests...)
		next := nextPage(doc.Header.Get("Link"))
		if next == "" {
			return all, nil
		}
		at = at[doc.Site : doc.Site+1] // pages are those of one server
		u, err := at[0].site.URL.Parse(next)
		if err != nil || u.Scheme != at[0].s.base.Scheme || u.Host != at[0].s.base.Host {
			return all, nil
		}
		at[0].site.URL = u
	}
	return all, nil
}

// nextPage is the URL of rel="next" in a Link header (RFC 8288), "" when there is none.
func nextPage(link string) string {
	for part := range strings.SplitSeq(link, ",") {
		target, params, _ := strings.Cut(part, ">")
		params = strings.ToLower(strings.ReplaceAll(params, " ", ""))
		if t, ok := strings.CutPrefix(strings.TrimSpace(target), "<"); ok && (strings.Contains(params, `rel="next"`) || strings.Contains(params, "rel=next")) {
			return t
		}
	}
	return ""
}

// fallbackTag is the tag under which the referrers of a manifest are listed where the registry keeps no list (OCI
// distribution specification 1.1, section "Referrers Tag Schema").
func fallbackTag(subject blob.Hash) string { return "sha256-" + subject.String() }

// taggedReferrers reads the list under the tag; none is as good as an empty one.
func (c *Client) taggedReferrers(ctx context.Context, ref Ref, subject blob.Hash) ([]descriptor, error) {
	tag := ref
	tag.Digest, tag.Tag = blob.Hash{}, fallbackTag(subject)
	h, err := c.fetchTag(ctx, tag, origin.Options{})
	if errors.Is(err, blob.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := c.manifestBytes(ctx, tag, h, -1)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, err
	}
	return m.Manifests, nil
}

// enterReferrer adds a manifest with a subject to the list under the tag. Two who do so at once can lose one of their
// entries; the specification has nothing against that.
func (c *Client) enterReferrer(ctx context.Context, ref Ref, mediaType string, text []byte) error {
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil || m.Subject == nil {
		return nil // nothing that refers to anything
	}
	subject, err := m.Subject.check("subject", maxManifest)
	if err != nil {
		return err
	}
	list, err := c.taggedReferrers(ctx, ref, subject)
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(text))
	kind := m.ArtifactType
	if kind == "" && m.Config != nil {
		kind = m.Config.MediaType
	}
	for _, d := range list {
		if d.Digest == digest {
			return nil
		}
	}
	list = append(list, descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(text)), ArtifactType: kind, Annotations: m.Annotations})
	index, err := json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, v1.MediaTypeImageIndex, list})
	if err != nil {
		return fmt.Errorf("%w: %v", blob.ErrInvalid, err)
	}
	p, err := c.pusher(ref, "manifests", fallbackTag(subject))
	if err != nil {
		return err
	}
	body := io.NewSectionReader(strings.NewReader(string(index)), 0, int64(len(index)))
	_, err = c.send(ctx, p, http.MethodPut, p.site.URL, http.Header{"Content-Type": {v1.MediaTypeImageIndex}}, body, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	return err
}
