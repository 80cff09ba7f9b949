package registry

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pantala/pantala/blob"
)

// Ref names an image: a repository at a host and a tag or digest in it, or an OCI layout in a local folder. It is
// comparable.
type Ref struct {
	Host   string    // "docker.io", "registry.example:5000", "[::1]:5000"; "" when Local
	Name   string    // the repository, "library/ubuntu"; "" when Local
	Tag    string    // "" when there is only a digest
	Digest blob.Hash // of the manifest or index; zero when there is none. With both, the digest counts
	Local  string    // the absolute path of an OCI layout
}

const (
	hub        = "docker.io"
	defaultTag = "latest"
	maxName    = 255 // of host and repository together, as docker and containerd limit it
)

var (
	// A path component, and a tag, by the OCI distribution specification, section "Pulling manifests".
	componentRE = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	tagRE       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	hostRE      = regexp.MustCompile(`^(?:(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])(?:\.(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]))*|\[[0-9a-fA-F:]*:[0-9a-fA-F:.]*\])(?::[0-9]{1,5})?$`)
)

// Parse reads a reference as docker writes it, with or without "oci://" before it. Without a host it is Docker Hub's,
// without tag and digest its tag is "latest". "oci:///path/to/layout:tag" is a local OCI layout.
func Parse(s string) (Ref, error) {
	bad := func(format string, args ...any) (Ref, error) {
		return Ref{}, fmt.Errorf("image reference %.300q: %w: %s", s, blob.ErrInvalid, fmt.Sprintf(format, args...))
	}
	rest := s
	if len(rest) >= 6 && strings.EqualFold(rest[:6], "oci://") {
		rest = rest[6:]
	}
	var r Ref
	if at := strings.IndexByte(rest, '@'); at >= 0 {
		h, err := parseDigest(rest[at+1:])
		if err != nil {
			return bad("%v", err)
		}
		r.Digest, rest = h, rest[:at]
	}
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		r.Tag, rest = rest[colon+1:], rest[:colon]
		if !tagRE.MatchString(r.Tag) {
			return bad("%q is not a tag: letters, digits, '_', '.' and '-', at most 128", clip(r.Tag))
		}
	}
	if r.Tag == "" && r.Digest.IsZero() {
		r.Tag = defaultTag
	}
	if strings.HasPrefix(rest, "/") {
		if r.Local = filepath.Clean(rest); r.Local == "/" || strings.ContainsRune(r.Local, 0) {
			return bad("expected the path of an OCI layout after oci://")
		}
		return r, nil
	}
	first, more, ok := strings.Cut(rest, "/")
	if ok && isHost(first) {
		r.Host, r.Name = first, more
		if low := strings.ToLower(first); isHost(low) {
			r.Host = low
		} // else its capitals are what makes it a host
	} else {
		r.Host, r.Name = hub, rest
	}
	if r.Host == "index.docker.io" {
		r.Host = hub
	}
	if !hostRE.MatchString(r.Host) {
		return bad("%q is not the name of a host", clip(r.Host))
	}
	if r.Host == hub && !strings.Contains(r.Name, "/") {
		r.Name = "library/" + r.Name
	}
	if len(r.Host)+1+len(r.Name) > maxName {
		return bad("longer than %d characters", maxName)
	}
	for part := range strings.SplitSeq(r.Name, "/") {
		if !componentRE.MatchString(part) {
			if strings.ToLower(part) != part {
				return bad("the name of a repository is in lower case")
			}
			return bad("%q cannot stand in the name of a repository: expected HOST/NAME:TAG or HOST/NAME@sha256:…", clip(part))
		}
	}
	return r, nil
}

// isHost tells a host from the first component of a name at Docker Hub, as docker does.
func isHost(s string) bool {
	return strings.ContainsAny(s, ".:") || s == "localhost" || strings.ToLower(s) != s
}

// parseDigest reads "sha256:…", and says why other digests are not taken.
func parseDigest(s string) (blob.Hash, error) {
	if algo, _, ok := strings.Cut(s, ":"); ok && algo != "sha256" && regexp.MustCompile(`^[a-z0-9]+$`).MatchString(algo) {
		return blob.Hash{}, fmt.Errorf("%w: a digest by %s: only sha256 is supported, which all registries know", blob.ErrInvalid, clip(algo))
	}
	if len(s) == 71 && strings.ToLower(s) != s {
		return blob.Hash{}, fmt.Errorf("%w: digest %q: its digits are in lower case", blob.ErrInvalid, clip(s))
	}
	return blob.ParseDigest(clip(s))
}

// clip bounds what a text quotes of a stranger's words.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// String is the full form that Parse reads back, without "oci://": "docker.io/library/ubuntu:latest".
func (r Ref) String() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if !r.Digest.IsZero() {
		s += "@sha256:" + r.Digest.String()
	}
	return s
}

// Repository is the reference without tag and digest.
func (r Ref) Repository() string {
	if r.Local != "" {
		return r.Local
	}
	return r.Host + "/" + r.Name
}

// At is the reference to another manifest of the same repository.
func (r Ref) At(digest blob.Hash) Ref {
	r.Tag, r.Digest = "", digest
	return r
}
