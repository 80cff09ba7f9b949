package tracker

import (
	"bytes"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// What one address may ask for: units, of which each layer that is asked about or claimed takes one and a profile
// reportUnits, because it has to be merged. An image of 127 layers is 254 units, so one address, behind which there may
// be many nodes, starts eight new images a second, and 64 at once.
const (
	unitBurst   = 16384
	unitRate    = 2048 // a second
	reportUnits = 512
	maxMetered  = 1 << 16 // addresses: 8 MiB. More share the oldest one's fate: they begin anew
)

// meter bounds what each address may ask for. Safe for concurrent use.
type meter struct {
	mu  sync.Mutex // guards what follows; innermost
	all map[hostID]*allowance
}

type allowance struct {
	units float64
	at    time.Time
}

func newMeter() *meter { return &meter{all: map[hostID]*allowance{}} }

// take asks for units.
func (m *meter) take(now time.Time, who hostID, units int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.all[who]
	if a == nil {
		if len(m.all) >= maxMetered {
			for h := range m.all { // any
				delete(m.all, h)
				break
			}
		}
		a = &allowance{unitBurst, now}
		m.all[who] = a
	}
	a.units = min(unitBurst, a.units+unitRate*now.Sub(a.at).Seconds())
	a.at = now
	if a.units < float64(units) {
		return false
	}
	a.units -= float64(units)
	return true
}

// sweep forgets who has asked for nothing for so long that it would make no difference.
func (m *meter) sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for h, a := range m.all {
		if now.Sub(a.at) > unitBurst/unitRate*time.Second {
			delete(m.all, h)
		}
	}
}

func (s *Server) serveRecords(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusBadRequest, "records is a POST")
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(restWait))
	body, err := readBody(http.MaxBytesReader(w, r.Body, maxRecordsBody), r.ContentLength)
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	var q *recordsRequest
	if err == nil {
		q, err = parseRecordsRequest(body)
	}
	var ip netip.Addr
	if err == nil {
		ip, err = remote(r)
	}
	if err == nil && len(q.report) > 0 {
		if s.merge([][]byte{q.report}) == nil {
			err = malformed("not a profile", nil)
		}
	}
	if err != nil {
		s.refused.Add(1)
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	said, _ := netip.ParseAddr(q.ip)
	addr := whence(ip, said, q.port)
	if no := s.blocked.Load().refuses(&key{}, &q.peer, ip, addr.Addr()); no != nil {
		s.refused.Add(1)
		refuse(w, http.StatusForbidden, no.Error())
		return
	}
	units := len(q.ask) + len(q.claims) + len(q.drop) + int(flag(len(q.report) > 0))*reportUnits
	if !s.meter.take(time.Now(), hostOf(ip), 1+units) {
		s.refused.Add(1)
		refuse(w, http.StatusTooManyRequests, "this address has asked for too much: try again in a second")
		return
	}
	reply := s.records(r.Context(), time.Now(), q, addr)
	send(w, http.StatusOK, reply.append(make([]byte, 0, 64+len(reply.profile)+len(reply.claims)*300)))
}

// records applies a request of a node that is reached at addr.
func (s *Server) records(ctx context.Context, now time.Time, q *recordsRequest, addr netip.AddrPort) *recordsReply {
	host := hostOf(addr.Addr())
	q.drop = slices.DeleteFunc(q.drop, func(layer blob.Hash) bool { return !s.shelf.drop(layer, host, int(addr.Port())) })
	v := vouch{host: host, peer: planPeer{addr, q.peer}, since: now.Unix(), at: now.Unix()}
	for i := range q.claims {
		s.shelf.vouch(now, q.claims[i].layer, q.claims[i].IndexClaim, v)
	}
	one := report{host, now.Unix(), bytes.Clone(q.report)}
	if len(q.report) > 0 {
		s.shelf.report(now, q.image, one)
	}
	if s.commons != nil {
		s.commons.shareRecords(ctx, now, q, v, one)
	}
	reply := &recordsReply{epoch: s.epoch, claims: s.shelf.claims(now, q.ask, host, q.port)}
	if q.want {
		reply.profile = s.shelf.profile(now, q.image, s.merge)
	}
	return reply
}
