package node

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/pantala/pantala/blob"
)

// Magnet is what a magnet link of ours says: BEP 9 and BEP 52 (xt=urn:btmh:1220<v2 infohash>, dn, xl, tr,
// x.pe) and two parameters of our own, x.pt.root and x.pt.digest, from which the info dictionary can be
// rebuilt (blob.CanonicalInfo) and checked against the infohash, so that the blob can be opened at once.
type Magnet struct {
	InfoHash blob.Hash
	Root     blob.Hash // "pieces root"; zero for an empty blob
	Digest   blob.Hash // SHA-256 of all bytes
	Size     int64
	Name     string
	Trackers []string
	Peers    []string // HOST:PORT
}

// IsMagnet reports whether s looks like a magnet link.
func IsMagnet(s string) bool { return len(s) > 7 && strings.EqualFold(s[:7], "magnet:") }

// multihash is the prefix of a SHA-256 sum in a multihash: function 0x12, length 32.
const multihash = "1220"

// ParseMagnet reads a magnet link and checks that its parameters name one blob.
func ParseMagnet(s string) (m Magnet, err error) {
	u, err := url.Parse(s)
	if err != nil || !IsMagnet(s) {
		return m, fmt.Errorf("%w magnet link: %q", blob.ErrInvalid, s)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return m, fmt.Errorf("%w magnet link: %v", blob.ErrInvalid, err)
	}
	found := false
	for _, xt := range q["xt"] {
		sum, ok := strings.CutPrefix(xt, "urn:btmh:"+multihash)
		if !ok {
			continue
		}
		if m.InfoHash, err = blob.ParseHash(sum); err != nil {
			return m, fmt.Errorf("magnet link: xt: %w", err)
		}
		found = true
	}
	if !found {
		return m, fmt.Errorf("%w magnet link: no xt=urn:btmh:1220… (BitTorrent v2): v1 links cannot be mounted", blob.ErrInvalid)
	}
	if !q.Has("x.pt.digest") || !q.Has("x.pt.root") || !q.Has("xl") {
		return m, fmt.Errorf("%w magnet link: xl, x.pt.digest and x.pt.root are needed to open it at once: use the link that `pantala share` printed", blob.ErrInvalid)
	}
	if m.Size, err = strconv.ParseInt(q.Get("xl"), 10, 64); err != nil || m.Size < 0 || m.Size > blob.MaxSize {
		return m, fmt.Errorf("%w magnet link: xl=%q is not a size in bytes", blob.ErrInvalid, q.Get("xl"))
	}
	if m.Digest, err = blob.ParseHash(q.Get("x.pt.digest")); err != nil {
		return m, fmt.Errorf("magnet link: x.pt.digest: %w", err)
	}
	if m.Root, err = blob.ParseHash(q.Get("x.pt.root")); err != nil {
		return m, fmt.Errorf("magnet link: x.pt.root: %w", err)
	}
	if got := blob.InfoHash(blob.CanonicalInfo(m.Digest, m.Size, m.Root)); got != m.InfoHash {
		return m, fmt.Errorf("%w: magnet link: infohash %v does not belong to its digest, size and root (they make %v): the link was altered", blob.ErrCorrupt, m.InfoHash, got)
	}
	m.Name = safeName(q.Get("dn"))
	m.Trackers, m.Peers = q["tr"], q["x.pe"]
	return m, nil
}

// NewMagnet names bytes by what was computed from all of them.
func NewMagnet(digest blob.Hash, size int64, root blob.Hash, name string, trackers []string) Magnet {
	return Magnet{blob.InfoHash(blob.CanonicalInfo(digest, size, root)), root, digest, size, name, trackers, nil}
}

// ID is the blob's name.
func (m Magnet) ID() blob.ID { return blob.ID{Kind: blob.ByInfoHash, Sum: m.InfoHash} }

// String is the link, with its parameters in the order of BEP 9 and ours last.
func (m Magnet) String() string {
	var b strings.Builder
	b.WriteString("magnet:?xt=urn:btmh:" + multihash + hex.EncodeToString(m.InfoHash[:]))
	add := func(k, v string) { b.WriteString("&" + k + "=" + url.QueryEscape(v)) }
	if m.Name != "" {
		add("dn", m.Name)
	}
	add("xl", strconv.FormatInt(m.Size, 10))
	for _, t := range m.Trackers {
		add("tr", t)
	}
	for _, p := range m.Peers {
		add("x.pe", p)
	}
	add("x.pt.root", m.Root.String())
	add("x.pt.digest", m.Digest.String())
	return b.String()
}

// Source is the link without trackers and peers: the same for everybody, and what the cache remembers.
func (m Magnet) Source() string {
	m.Trackers, m.Peers = nil, nil
	return m.String()
}

// maxName is the longest file name of Linux file systems in bytes (NAME_MAX, limits.h).
const maxName = 255

// safeName makes one file name of what somebody else wrote; "" when nothing usable is left.
func safeName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '/' || r == '\uFFFD' {
			return '_'
		}
		return r
	}, s)
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "")
	}
	if s == "." || s == ".." {
		return ""
	}
	return s
}
