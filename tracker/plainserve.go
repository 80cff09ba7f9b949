package tracker

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

// What the tracker does for everybody, behind HTTP and UDP alike: nodes that plan and plain peers are one swarm.

// whence is the address at which the sender, seen at ip, can be reached: what it says when it comes from this
// machine or a private network (it knows better, and could do no harm that it cannot do anyway), else what we see.
func whence(ip, said netip.Addr, port uint16) netip.AddrPort {
	ip = ip.Unmap().WithZone("")
	if said.IsValid() && !said.IsUnspecified() && !said.IsMulticast() && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()) {
		ip = said.Unmap().WithZone("")
	}
	return netip.AddrPortFrom(ip, port)
}

// remote is the address a request comes from.
func remote(r *http.Request) (netip.Addr, error) {
	seen, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: remote address %s", blob.ErrInvalid, shown(r.RemoteAddr))
	}
	return seen.Addr(), nil
}

// announce applies an announce of a peer that is reached at addr, and fills f, which has been reset.
func (s *Server) announce(now time.Time, r *announceRequest, addr netip.AddrPort, f *found, which families) error {
	s.announces.Add(1)
	if f.blocked = s.blocked.Load(); f.blocked != nil && r.event != stopped {
		if err := f.blocked.refuses(&r.key, &r.peer, addr.Addr()); err != nil {
			return err
		}
	}
	limit := s.maxPeers
	if r.numwant >= 0 {
		limit = min(limit, r.numwant)
	}
	if r.event == stopped {
		limit = 0
	}
	room := s.room(r.key, false)
	if room == nil {
		_, err := s.plain.announce(now, r, addr, f, limit, which)
		return err
	}
	planned := room.swarm.seen(now, &r.peer)
	// Nodes that plan are told first: they have most to give. At least half of the reply is left to others.
	source := room.swarm.sources[r.peer] != nil
	complete, incomplete, _, _ := s.plain.scrape(&r.key)
	ours := max(limit/2, limit-int(min(complete+incomplete, int64(limit))))
	room.swarm.sample(f, &r.peer, ours, which, r.left == 0)
	nodes, seeds := int64(len(room.swarm.nodes)), int64(room.swarm.seeds)
	room.mu.Unlock()

	var fresh bool
	var err error
	if planned {
		f.complete, f.incomplete = complete, incomplete
	} else if fresh, err = s.plain.announce(now, r, addr, f, limit-f.peers(), which); err != nil {
		return err
	}
	f.complete += seeds
	f.incomplete += nodes - seeds
	if !planned && addr.Port() != 0 && (fresh || r.left == 0 || source) {
		room.mu.Lock()
		room.swarm.stranger(now, planPeer{addr, r.peer}, r.left == 0 && r.event != stopped, fresh)
		room.wake()
		room.mu.Unlock()
	}
	return nil
}

// scrape returns the counts of a swarm; ok is false when it is not known.
func (s *Server) scrape(k *key) (complete, incomplete, ended int64, ok bool) {
	if b := s.blocked.Load(); b != nil && b.torrents[*k] {
		return 0, 0, 0, false
	}
	complete, incomplete, ended, ok = s.plain.scrape(k)
	if room := s.room(*k, false); room != nil {
		complete += int64(room.swarm.seeds)
		incomplete += int64(len(room.swarm.nodes) - room.swarm.seeds)
		room.mu.Unlock()
		ok = true
	}
	return complete, incomplete, ended, ok
}

// answerAnnounce appends the reply to the query of an announce from ip.
func (s *Server) answerAnnounce(b, query []byte, ip netip.Addr, now time.Time, d *desk) []byte {
	r, f := &d.r, &d.f
	if err := parseAnnounce(query, d.room[:], r); err != nil {
		s.refused.Add(1)
		return appendFailure(b, err.Error())
	}
	f.reset(!r.compact)
	if err := s.blocked.Load().refuses(&r.key, &r.peer, ip); err != nil {
		s.refused.Add(1)
		return appendFailure(b, err.Error())
	}
	if err := s.announce(now, r, whence(ip, r.ip, r.port), f, anyFamily); err != nil {
		s.refused.Add(1)
		return appendFailure(b, err.Error())
	}
	return f.append(b, s.interval)
}

// answerScrape appends the reply to the query of a scrape.
func (s *Server) answerScrape(b, query []byte) []byte {
	var keys []key
	err := eachParam(query, make([]byte, 64), func(k, v []byte) error {
		if string(k) != "info_hash" {
			return nil
		}
		if len(v) != 20 || len(keys) == maxScrape {
			return fmt.Errorf("%w: scrape wants at most %d info_hash of 20 bytes", blob.ErrInvalid, maxScrape)
		}
		keys = append(keys, key(v))
		return nil
	})
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("%w: scrape without info_hash: this tracker does not list all it knows", blob.ErrDenied)
	}
	if err != nil {
		s.refused.Add(1)
		return appendFailure(b, err.Error())
	}
	slices.SortFunc(keys, func(a, b key) int { return slices.Compare(a[:], b[:]) })
	b = append(appendString(append(b, 'd'), "files"), 'd')
	for _, k := range slices.Compact(keys) {
		complete, incomplete, ended, ok := s.scrape(&k)
		if !ok {
			continue
		}
		b = append(appendString(b, k[:]), 'd')
		b = appendInt(appendString(b, "complete"), complete)
		b = appendInt(appendString(b, "downloaded"), ended)
		b = appendInt(appendString(b, "incomplete"), incomplete)
		b = append(b, 'e')
	}
	return append(b, 'e', 'e')
}

func (s *Server) serveAnnounce(w http.ResponseWriter, r *http.Request) {
	ip, err := remote(r)
	if err != nil {
		s.refused.Add(1)
		refuse(w, http.StatusOK, err.Error())
		return
	}
	send(w, http.StatusOK, s.answerAnnounce(nil, []byte(r.URL.RawQuery), ip, time.Now(), new(desk)))
}

func (s *Server) serveScrape(w http.ResponseWriter, r *http.Request) {
	send(w, http.StatusOK, s.answerScrape(nil, []byte(r.URL.RawQuery)))
}
