package metainfo

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/bencode"
	"github.com/pantala/pantala/blob"
)

// MetaInfo is a .torrent.
type MetaInfo struct {
	Info *Info
	// Announce are URLs of trackers in tiers: those of a later tier are for when the earlier ones are down (BEP 12).
	Announce [][]string
	// WebSeeds are URLs of HTTP servers that have the bytes (BEP 19).
	WebSeeds []string
	// Nodes are HOST:PORT of the distributed hash table (BEP 5).
	Nodes []string
	// Layers are the hashes of the pieces of each file that has more than one, by the file's root. They have been
	// checked against it.
	Layers    map[blob.Hash][]blob.Hash
	Comment   string
	CreatedBy string
	Created   time.Time // zero: not said
}

// Limits of what stands around the info dictionary.
const (
	maxTrackers = 256
	maxSeeds    = 256
	maxURL      = 2048
	maxText     = 4096
)

// Parse reads a .torrent.
func Parse(r io.Reader) (*MetaInfo, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("torrent file: %w", err)
	}
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%w torrent file: larger than %d bytes", blob.ErrInvalid, MaxSize)
	}
	m, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("torrent file: %w", err)
	}
	return m, nil
}

func parse(raw []byte) (*MetaInfo, error) {
	if len(raw) == 0 || raw[0] != 'd' {
		return nil, fmt.Errorf("%w: it does not start like one (a bencoded dictionary): is it the right file?", blob.ErrInvalid)
	}
	d, err := parseDict(raw, nesting)
	if err != nil {
		return nil, fmt.Errorf("%w: is it complete?", err)
	}
	if d["info"] == nil {
		return nil, fmt.Errorf("%w: the key \"info\" is missing", blob.ErrInvalid)
	}
	m := &MetaInfo{}
	if m.Info, err = ParseInfo(d["info"]); err != nil {
		return nil, err
	}
	if m.Info.HasV2 {
		if err := m.parseLayers(d["piece layers"]); err != nil {
			return nil, err
		}
	}
	if err := m.parseAnnounce(d); err != nil {
		return nil, err
	}
	if m.WebSeeds, err = listOrOne(d, "url-list", maxSeeds); err != nil {
		return nil, err
	}
	m.WebSeeds = slices.DeleteFunc(m.WebSeeds, func(s string) bool { return !usable(s, "http", "https") })
	if raw := d["nodes"]; raw != nil {
		m.parseNodes(raw)
	}
	var errs [3]error
	m.Comment, errs[0] = d.text("comment")
	m.CreatedBy, errs[1] = d.text("created by")
	created, err := d.number("creation date", 1<<40)
	if errs[2] = err; created != 0 {
		m.Created = time.Unix(created, 0)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	m.Comment, m.CreatedBy = clip(m.Comment), clip(m.CreatedBy)
	return m, nil
}

// clip makes text of others printable.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "_") }

// parseLayers reads the "piece layers" of BEP 52.
func (m *MetaInfo) parseLayers(raw []byte) error {
	layers := map[string][]byte{}
	if raw != nil {
		err := bencode.EachPair(raw, 2, func(k string, v []byte) error {
			row, err := bencode.String(v)
			layers[k] = row
			return err
		})
		if err != nil {
			return fmt.Errorf("\"piece layers\": %w", err)
		}
	}
	m.Layers = map[blob.Hash][]blob.Hash{}
	for i := range m.Info.Files {
		f, g := &m.Info.Files[i], m.Info.Geometry(i)
		if g.Pieces() < 2 {
			continue
		}
		row, ok := layers[string(f.Root[:])]
		if !ok {
			return fmt.Errorf("%w: \"piece layers\" has no entry for %q: the file is incomplete", blob.ErrInvalid, f.String())
		}
		hashes, err := CheckLayer(g, f.Root, row)
		if err != nil {
			return fmt.Errorf("\"piece layers\" of %q: %w", f.String(), err)
		}
		m.Layers[f.Root] = hashes
	}
	return nil
}

// CheckLayer reads the piece hashes of a file that lies in row one after the other, and checks that they lead to
// its root.
func CheckLayer(g blob.Geometry, root blob.Hash, row []byte) ([]blob.Hash, error) {
	if want := 32 * int(g.Pieces()); len(row) != want {
		return nil, fmt.Errorf("%w: %d bytes for %d pieces, which are %d", blob.ErrInvalid, len(row), g.Pieces(), want)
	}
	hashes := make([]blob.Hash, g.Pieces())
	for p := range hashes {
		copy(hashes[p][:], row[32*p:])
	}
	if got := g.Root(hashes); got != root {
		return nil, fmt.Errorf("%w: they lead to the root %v, not to %v", blob.ErrCorrupt, got, root)
	}
	return hashes, nil
}

// parseAnnounce reads "announce-list" (BEP 12), or else "announce". URLs of a kind that we do not speak are left
// out.
func (m *MetaInfo) parseAnnounce(d dict) error {
	n := 0
	add := func(tier []string, s string) []string {
		if n++; n > maxTrackers || !usable(s, "http", "https", "udp") {
			return tier
		}
		return append(tier, s)
	}
	if raw := d["announce-list"]; raw != nil {
		err := bencode.EachItem(raw, 2, func(raw []byte) error {
			var tier []string
			err := bencode.EachItem(raw, 1, func(raw []byte) error {
				s, err := bencode.String(raw)
				tier = add(tier, string(s))
				return err
			})
			if len(tier) > 0 {
				m.Announce = append(m.Announce, tier)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("\"announce-list\": %w", err)
		}
	}
	one, err := d.text("announce")
	if err != nil {
		return err
	}
	if len(m.Announce) == 0 {
		if tier := add(nil, one); tier != nil {
			m.Announce = [][]string{tier}
		}
	}
	return nil
}

// usable reports whether s is a URL of one of the schemes.
func usable(s string, schemes ...string) bool {
	if len(s) > maxURL {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && slices.Contains(schemes, strings.ToLower(u.Scheme))
}

// listOrOne reads a list of strings, or one string.
func listOrOne(d dict, key string, most int) (all []string, err error) {
	raw := d[key]
	if raw == nil {
		return nil, nil
	}
	if raw[0] != 'l' {
		s, err := d.text(key)
		if s == "" {
			return nil, err
		}
		return []string{s}, err
	}
	err = bencode.EachItem(raw, 1, func(raw []byte) error {
		s, err := bencode.String(raw)
		if len(all) < most && !slices.Contains(all, string(s)) {
			all = append(all, string(s))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%q: %w", key, err)
	}
	return all, nil
}

// parseNodes reads the "nodes" of BEP 5; they are hints, and so what is malformed is left out.
func (m *MetaInfo) parseNodes(raw []byte) {
	bencode.EachItem(raw, 2, func(raw []byte) error {
		var host string
		var port int64
		n := 0
		err := bencode.EachItem(raw, 1, func(raw []byte) (err error) {
			switch n++; n {
			case 1:
				var s []byte
				s, err = bencode.String(raw)
				host = string(s)
			case 2:
				port, err = bencode.Int(raw, 65535)
			}
			return err
		})
		if err == nil && host != "" && len(host) <= 255 && port > 0 && len(m.Nodes) < 64 {
			if strings.Contains(host, ":") {
				host = "[" + strings.Trim(host, "[]") + "]"
			}
			m.Nodes = append(m.Nodes, fmt.Sprintf("%s:%d", host, port))
		}
		return nil
	})
}

// Trackers are all of Announce in order, each once.
func (m *MetaInfo) Trackers() (all []string) {
	for _, tier := range m.Announce {
		for _, t := range tier {
			if !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
	}
	return all
}

// Append writes the .torrent. DHT nodes are not written: they are of the moment.
func (m *MetaInfo) Append(b []byte) []byte {
	b = append(b, 'd')
	if len(m.Announce) > 0 {
		b = bencode.AppendText(b, "announce", m.Announce[0][0])
		b = append(bencode.AppendString(b, "announce-list"), 'l')
		for _, tier := range m.Announce {
			b = appendList(b, tier)
		}
		b = append(b, 'e')
	}
	b = bencode.AppendText(b, "comment", m.Comment)
	b = bencode.AppendText(b, "created by", m.CreatedBy)
	if !m.Created.IsZero() {
		b = bencode.AppendPair(b, "creation date", m.Created.Unix())
	}
	b = append(bencode.AppendString(b, "info"), m.Info.Raw...)
	if m.Info.HasV2 {
		b = append(bencode.AppendString(b, "piece layers"), 'd')
		roots := make([]blob.Hash, 0, len(m.Layers))
		for root := range m.Layers {
			roots = append(roots, root)
		}
		slices.SortFunc(roots, func(x, y blob.Hash) int { return cmp.Compare(string(x[:]), string(y[:])) })
		for _, root := range roots {
			b = bencode.AppendString(b, root[:])
			row := make([]byte, 0, 32*len(m.Layers[root]))
			for i := range m.Layers[root] {
				row = append(row, m.Layers[root][i][:]...)
			}
			b = bencode.AppendString(b, row)
		}
		b = append(b, 'e')
	}
	if len(m.WebSeeds) > 0 {
		b = appendList(bencode.AppendString(b, "url-list"), m.WebSeeds)
	}
	return append(b, 'e')
}

func appendList(b []byte, all []string) []byte {
	b = append(b, 'l')
	for _, s := range all {
		b = bencode.AppendString(b, s)
	}
	return append(b, 'e')
}
