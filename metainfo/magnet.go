package metainfo

import (
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pantala/pantala/blob"
)

// Magnet is a magnet link (BEP 9, BEP 52, BEP 53): infohashes, and hints where to find what they name.
type Magnet struct {
	V1       [20]byte  // xt=urn:btih: (40 hexadecimal digits, or 32 of base32); zero: not given
	V2       blob.Hash // xt=urn:btmh:1220…; zero: not given
	Name     string    // dn, safe to use as a file name; may be ""
	Size     int64     // xl in bytes; -1: not given
	Trackers []string  // tr
	WebSeeds []string  // ws
	Sources  []string  // xs: URLs of the .torrent
	Peers    []string  // x.pe: HOST:PORT
	Only     []Range   // so: which files are wanted, by index; nil: all
	// Root and Digest are two parameters of our own, x.pt.root and x.pt.digest, from which the info dictionary can be
	// rebuilt (blob.CanonicalInfo), so that the blob can be opened before anybody has been asked. Zero: not given.
	Root   blob.Hash
	Digest blob.Hash
	// HasCanonical: both are given, and checked against V2.
	HasCanonical bool
}

// Range is the files First to Last of a selection (BEP 53), both included.
type Range struct{ First, Last int }

// IsMagnet reports whether s looks like a magnet link.
func IsMagnet(s string) bool { return len(s) > 7 && strings.EqualFold(s[:7], "magnet:") }

// maxMagnet is the longest magnet link in bytes.
const maxMagnet = 64 << 10

// multihash is the prefix of a SHA-256 sum in a multihash: function 0x12, length 32.
const multihash = "1220"

// ParseMagnet reads a magnet link. Unknown parameters are ignored, as are hints that are malformed; what says which
// bytes are meant is not.
func ParseMagnet(s string) (m Magnet, err error) {
	if len(s) > maxMagnet {
		return m, fmt.Errorf("%w magnet link: longer than %d bytes", blob.ErrInvalid, maxMagnet)
	}
	u, err := url.Parse(s)
	if err != nil || !IsMagnet(s) {
		return m, fmt.Errorf("%w magnet link: %.200q", blob.ErrInvalid, s)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return m, fmt.Errorf("%w magnet link: %v: is a %% or & in it unquoted? Put the link in single quotes", blob.ErrInvalid, err)
	}
	q = plain(q)
	if err := m.parseTopics(q["xt"]); err != nil {
		return m, err
	}
	m.Size = -1
	if q.Has("xl") {
		if m.Size, err = strconv.ParseInt(q.Get("xl"), 10, 64); err != nil || m.Size < 0 || m.Size > blob.MaxSize {
			return m, fmt.Errorf("%w magnet link: xl=%q is not a size in bytes", blob.ErrInvalid, q.Get("xl"))
		}
	}
	if m.Only, err = parseOnly(q.Get("so")); err != nil {
		return m, err
	}
	if name, err := safeName(q.Get("dn")); err == nil {
		m.Name = name
	} else if s := strings.NewReplacer("/", "_", "\x00", "_").Replace(q.Get("dn")); s != "" {
		m.Name, _ = safeName(s)
	}
	m.Trackers = hints(q["tr"], maxTrackers, func(s string) bool { return usable(s, "http", "https", "udp") })
	m.WebSeeds = hints(q["ws"], maxSeeds, func(s string) bool { return usable(s, "http", "https") })
	m.Sources = hints(append(q["xs"], q["as"]...), 16, func(s string) bool { return usable(s, "http", "https") })
	m.Peers = hints(q["x.pe"], 256, func(s string) bool { _, _, err := net.SplitHostPort(s); return err == nil && len(s) < 300 })
	return m, m.parseCanonical(q)
}

// plain adds up numbered parameters, such as tr.1 and tr.2, and lowers their names.
func plain(q url.Values) url.Values {
	all := url.Values{}
	keys := make([]string, 0, len(q))
	for k := range q {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		name := strings.ToLower(k)
		if base, n, ok := strings.Cut(name, "."); ok && len(n) > 0 && strings.Trim(n, "0123456789") == "" {
			name = base
		}
		all[name] = append(all[name], q[k]...)
	}
	return all
}

func hints(all []string, most int, ok func(string) bool) (kept []string) {
	for _, s := range all {
		if len(kept) < most && ok(s) && !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// parseTopics reads the infohashes.
func (m *Magnet) parseTopics(topics []string) error {
	for _, xt := range topics {
		low := strings.ToLower(xt)
		if sum, ok := strings.CutPrefix(low, "urn:btmh:"); ok {
			sum, ok = strings.CutPrefix(sum, multihash)
			if !ok {
				return fmt.Errorf("%w magnet link: xt=%.80q is not a SHA-256 multihash (1220 and 64 hexadecimal digits)", blob.ErrInvalid, xt)
			}
			h, err := blob.ParseHash(sum)
			if err != nil {
				return fmt.Errorf("magnet link: xt: %w", err)
			}
			if m.V2 != (blob.Hash{}) && m.V2 != h {
				return fmt.Errorf("%w magnet link: two different v2 infohashes", blob.ErrInvalid)
			}
			m.V2 = h
		}
		if sum, ok := strings.CutPrefix(low, "urn:btih:"); ok {
			h, err := parseV1(sum)
			if err != nil {
				return err
			}
			if m.V1 != [20]byte{} && m.V1 != h {
				return fmt.Errorf("%w magnet link: two different v1 infohashes", blob.ErrInvalid)
			}
			m.V1 = h
		}
	}
	if m.V1 == [20]byte{} && m.V2 == (blob.Hash{}) {
		return fmt.Errorf("%w magnet link: no infohash: xt=urn:btmh:1220… (BitTorrent v2) or xt=urn:btih:… (v1) is needed", blob.ErrInvalid)
	}
	return nil
}

func parseV1(s string) (h [20]byte, err error) {
	switch len(s) {
	case 40:
		_, err = hex.Decode(h[:], []byte(s))
	case 32:
		_, err = base32.StdEncoding.Decode(h[:], []byte(strings.ToUpper(s)))
	default:
		err = fmt.Errorf("%d characters", len(s))
	}
	if err != nil {
		return [20]byte{}, fmt.Errorf("%w magnet link: xt=urn:btih:%.80s is not a v1 infohash (40 hexadecimal digits, or 32 of base32): %v", blob.ErrInvalid, s, err)
	}
	return h, nil
}

// parseOnly reads "0,2,4-6" (BEP 53).
func parseOnly(s string) (only []Range, err error) {
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 31)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 31)
		}
		if err != nil || last < first || len(only) == 1024 {
			return nil, fmt.Errorf("%w magnet link: so=%.80q is not a list of file numbers such as 0,2,4-6 (BEP 53)", blob.ErrInvalid, s)
		}
		only = append(only, Range{int(first), int(last)})
	}
	return only, nil
}

// Wants reports whether the link selects the file with this index.
func (m *Magnet) Wants(file int) bool {
	return m.Only == nil || slices.ContainsFunc(m.Only, func(r Range) bool { return r.First <= file && file <= r.Last })
}

// parseCanonical reads our own parameters and checks that they name one blob.
func (m *Magnet) parseCanonical(q url.Values) (err error) {
	if !q.Has("x.pt.digest") || !q.Has("x.pt.root") || m.Size < 0 || m.V2 == (blob.Hash{}) {
		return nil
	}
	if m.Digest, err = blob.ParseHash(q.Get("x.pt.digest")); err != nil {
		return fmt.Errorf("magnet link: x.pt.digest: %w", err)
	}
	if m.Root, err = blob.ParseHash(q.Get("x.pt.root")); err != nil {
		return fmt.Errorf("magnet link: x.pt.root: %w", err)
	}
	if got := blob.InfoHash(blob.CanonicalInfo(m.Digest, m.Size, m.Root)); got != m.V2 {
		return fmt.Errorf("%w: magnet link: infohash %v does not belong to its digest, size and root (they make %v): the link was altered", blob.ErrCorrupt, m.V2, got)
	}
	m.HasCanonical = true
	return nil
}

// ID names what the link means: btmh:<hex>, or btih:<hex> without v2.
func (m Magnet) ID() blob.ID {
	if m.V2 != (blob.Hash{}) {
		return blob.ID{Kind: blob.ByInfoHash, Sum: m.V2}
	}
	return V1ID(m.V1)
}

// String is the link, with its parameters in the order of BEP 9 and ours last.
func (m Magnet) String() string {
	var b strings.Builder
	b.WriteString("magnet:?")
	sep := ""
	if m.V2 != (blob.Hash{}) {
		b.WriteString("xt=urn:btmh:" + multihash + m.V2.String())
		sep = "&"
	}
	if m.V1 != [20]byte{} {
		b.WriteString(sep + "xt=urn:btih:" + hex20(m.V1))
	}
	add := func(k, v string) { b.WriteString("&" + k + "=" + url.QueryEscape(v)) }
	if m.Name != "" {
		add("dn", m.Name)
	}
	if m.Size >= 0 {
		add("xl", strconv.FormatInt(m.Size, 10))
	}
	for _, list := range []struct {
		key    string
		values []string
	}{{"tr", m.Trackers}, {"ws", m.WebSeeds}, {"xs", m.Sources}, {"x.pe", m.Peers}} {
		for _, v := range list.values {
			add(list.key, v)
		}
	}
	if m.Only != nil {
		var parts []string
		for _, r := range m.Only {
			if r.First == r.Last {
				parts = append(parts, strconv.Itoa(r.First))
			} else {
				parts = append(parts, fmt.Sprintf("%d-%d", r.First, r.Last))
			}
		}
		b.WriteString("&so=" + strings.Join(parts, ","))
	}
	if m.HasCanonical {
		add("x.pt.root", m.Root.String())
		add("x.pt.digest", m.Digest.String())
	}
	return b.String()
}

// Source is the link without what is only a hint where to look: the same for everybody, and what the cache
// remembers.
func (m Magnet) Source() string {
	m.Trackers, m.WebSeeds, m.Sources, m.Peers = nil, nil, nil, nil
	return m.String()
}
