package tracker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
)

// Which of several trackers a session uses. All nodes of one swarm should meet at the same one, and the swarms
// should spread over all of them, without anybody telling anybody: every node puts the trackers of its list in the
// order of a hash over tracker and swarm (rendezvous hashing: Thaler and Ravishankar, 1998), uses the first one
// that answers, and goes back to an earlier one when that answers again. A tracker that is added or taken away
// moves only the swarms that it gets, or had.
//
// A list has tiers: those that the user named, in SRV records those of one priority each, and those that came with
// a magnet link or torrent file. The order holds inside a tier; an earlier tier is always preferred, and in each
// the trackers that plan to those that do not.

const (
	srvScheme = "srv:"
	srvEvery  = time.Minute     // how often SRV records are looked up again; the resolver does not tell how long they hold
	srvLimit  = 2 * time.Second // for one look-up
	maxSRV    = 64              // records that are used of one name
)

// CheckURL reports what is wrong with a tracker as it stands in a list: an announce URL, or srv:NAME.
func CheckURL(raw string) error {
	if name, ok := strings.CutPrefix(raw, srvScheme); ok {
		_, err := parseSRV(name)
		return err
	}
	_, err := parseEndpoint(raw)
	return err
}

// parseSRV reads the name of SRV records (RFC 2782): _pantala._tcp.example.com. They lead to
// http://TARGET:PORT/announce.
func parseSRV(name string) (string, error) {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	ok := len(name) <= 253 && len(labels) >= 3 && strings.HasPrefix(labels[0], "_") && strings.HasPrefix(labels[1], "_")
	for _, l := range labels {
		ok = ok && l != "" && len(l) <= 63 && strings.IndexFunc(l, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}) < 0
	}
	if !ok {
		return "", fmt.Errorf("%w: tracker srv:%s: write the name of DNS SRV records, such as srv:_pantala._tcp.example.com", blob.ErrInvalid, shown(name))
	}
	return name, nil
}

// LookupSRV finds the SRV records of a name; [net.Resolver.LookupSRV] with service and protocol in the name.
type LookupSRV func(ctx context.Context, name string) ([]*net.SRV, error)

func systemSRV(ctx context.Context, name string) ([]*net.SRV, error) {
	_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
	return records, err
}

// directory is the list of trackers of one session. It belongs to one goroutine.
type directory struct {
	key    key
	static []listed
	names  []string // of SRV records
	found  map[string][]listed
	asked  time.Time // when they were last looked up
	lookup LookupSRV
	log    *slog.Logger
}

// listed is one tracker of a directory.
type listed struct {
	endpoint
	tier  int
	score float64 // the greater, the earlier
}

// Tiers: what the user wrote, then each SRV priority, then what came along.
const (
	tierNamed = 0
	tierSRV   = 1       // + priority
	tierOther = 1 << 17 // priorities are 16 bits
)

func newDirectory(k key, named, others []string, lookup LookupSRV, log *slog.Logger) (d *directory, bad error) {
	d = &directory{key: k, found: map[string][]listed{}, lookup: lookup, log: log}
	if d.lookup == nil {
		d.lookup = systemSRV
	}
	for i, raw := range append(slices.Clone(named), others...) {
		tier := tierNamed
		if i >= len(named) {
			tier = tierOther
		}
		var err error
		if name, ok := strings.CutPrefix(raw, srvScheme); ok {
			if name, err = parseSRV(name); err == nil && !slices.Contains(d.names, name) {
				d.names = append(d.names, name)
			}
		} else {
			var e endpoint
			if e, err = parseEndpoint(raw); err == nil {
				d.static = append(d.static, listed{e, tier, d.score(e, 1)})
			}
		}
		if err != nil {
			log.Warn("tracker is not used", "err", err)
			bad = err
		}
	}
	return d, bad
}

// empty reports whether there is no tracker and never will be.
func (d *directory) empty() bool { return len(d.static) == 0 && len(d.names) == 0 }

// score is the place of e among the trackers of its tier: -weight/ln(u), u uniform in (0,1) by a hash over both
// names. With it a tracker of weight w is first for w parts of all swarms (weighted rendezvous hashing).
func (d *directory) score(e endpoint, weight float64) float64 {
	h := sha256.New()
	h.Write(d.key[:])
	h.Write([]byte(strings.ToLower(e.shown)))
	u := (float64(binary.BigEndian.Uint64(h.Sum(nil))>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(u)
}

// refresh looks the SRV names up again when it is time for it. What a name led to stays when that fails.
func (d *directory) refresh(ctx context.Context, now time.Time) {
	if len(d.names) == 0 || !d.asked.IsZero() && now.Sub(d.asked) < srvEvery && len(d.found) == len(d.names) {
		return
	}
	d.asked = now
	for _, name := range d.names {
		limited, cancel := context.WithTimeout(ctx, srvLimit)
		records, err := d.lookup(limited, name)
		cancel()
		if err == nil && len(records) == 0 {
			err = fmt.Errorf("%w: no records", blob.ErrNotFound)
		}
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("looking up trackers failed: going on with those that are known", "name", name, "known", len(d.found[name]), "err", err)
			}
			continue
		}
		var list []listed
		for _, r := range records[:min(len(records), maxSRV)] {
			host := strings.TrimSuffix(r.Target, ".")
			if host == "" {
				continue // RFC 2782: the service is not offered
			}
			e, err := parseEndpoint("http://" + net.JoinHostPort(host, strconv.Itoa(int(r.Port))) + "/announce")
			if err != nil {
				d.log.Warn("tracker is not used", "name", name, "err", err)
				continue
			}
			list = append(list, listed{e, tierSRV + int(r.Priority), d.score(e, float64(max(r.Weight, 1)))})
		}
		d.found[name] = list
	}
}

// order lists all trackers, the one to use first.
func (d *directory) order() []endpoint {
	all := slices.Clone(d.static)
	for _, name := range d.names {
		all = append(all, d.found[name]...)
	}
	slices.SortStableFunc(all, func(a, b listed) int {
		switch {
		case a.tier != b.tier:
			return a.tier - b.tier
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return strings.Compare(a.shown, b.shown)
	})
	var list []endpoint
	for _, l := range all {
		if !slices.ContainsFunc(list, func(e endpoint) bool { return e.shown == l.shown }) {
			list = append(list, l.endpoint)
		}
	}
	return list
}
