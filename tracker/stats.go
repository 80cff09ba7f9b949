package tracker

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"
)

// maxListed is how many swarms /stats lists: those with most members.
const maxListed = 100

type serverStats struct {
	UptimeSeconds int64        `json:"uptime_seconds"`
	Announces     int64        `json:"announces"`
	Plans         int64        `json:"plans"`
	Refused       int64        `json:"refused"`
	Swarms        int          `json:"swarms"`
	Members       int          `json:"members"`
	Nodes         int          `json:"nodes"`
	Blocked       int          `json:"blocked"`           // entries of the blocklist
	Records       shelfStats   `json:"records"`           // of images
	Sharing       *sharing     `json:"sharing,omitempty"` // absent: all is in memory
	Listed        []swarmStats `json:"list"`
}

type swarmStats struct {
	Key        string     `json:"key"`
	Size       int64      `json:"size"` // bytes; 0: no node has said
	Pieces     uint32     `json:"pieces"`
	Members    int        `json:"members"`
	Complete   int        `json:"complete"`
	Nodes      int        `json:"nodes"`
	Leases     int        `json:"leases"`
	Granted    int64      `json:"leases_granted"`
	Roots      int        `json:"roots"`
	Disputed   int        `json:"disputed"`
	PatienceMS int64      `json:"lease_ms"`
	Elsewhere  int        `json:"elsewhere"`      // nodes that report to other trackers
	Plan       *planStats `json:"plan,omitempty"` // absent: none is needed
}

// keep cuts the list to the biggest swarms.
func (all *serverStats) keep() {
	slices.SortFunc(all.Listed, func(a, b swarmStats) int {
		return cmp.Or(cmp.Compare(b.Members, a.Members), cmp.Compare(a.Key, b.Key))
	})
	all.Listed = all.Listed[:min(len(all.Listed), maxListed)]
}

func (s *Server) serveStats(w http.ResponseWriter) {
	all := serverStats{
		UptimeSeconds: int64(time.Since(s.began).Seconds()), Announces: s.announces.Load(), Plans: s.plans.Load(), Refused: s.refused.Load(),
		Records: s.shelf.stats(),
		Listed:  []swarmStats{},
	}
	if b := s.blocked.Load(); b != nil {
		all.Blocked = b.Len()
	}
	if s.commons != nil {
		all.Sharing = s.commons.stats()
	}
	add := func(k key, one swarmStats) {
		all.Swarms++
		all.Members += one.Members
		all.Nodes += one.Nodes
		if n := len(all.Listed); n >= maxListed && one.Members < all.Listed[n-1].Members {
			return
		}
		one.Key = hex.EncodeToString(k[:])
		if all.Listed = append(all.Listed, one); len(all.Listed) >= 2*maxListed {
			all.keep()
		}
	}
	s.mu.RLock()
	rooms := maps.Clone(s.rooms)
	s.mu.RUnlock()
	planned := 0
	for k, r := range rooms {
		r.mu.Lock()
		one := r.swarm.stats()
		if planned < maxListed {
			if one.Plan = r.swarm.planStats(); one.Plan != nil {
				planned++
			}
		}
		r.mu.Unlock()
		complete, incomplete, _, _ := s.plain.scrape(&k)
		one.Members += int(complete + incomplete)
		one.Complete += int(complete)
		add(k, one)
	}
	s.plain.each(func(c *crowd) {
		if rooms[c.key] == nil {
			complete, incomplete := c.count()
			add(c.key, swarmStats{Members: int(complete + incomplete), Complete: int(complete)})
		}
	})
	all.keep()
	w.Header().Set("Content-Type", "application/json")
	// The status is sent with the first byte: a write that fails has nobody to be told to.
	_ = json.NewEncoder(w).Encode(all)
}

func (s *swarm) stats() swarmStats {
	return swarmStats{
		Size: s.geometry.Size, Pieces: s.pieces, Members: len(s.members), Complete: s.seeds, Nodes: len(s.nodes),
		Leases: len(s.leases), Granted: s.granted, Roots: len(s.roots), Disputed: len(s.disputed), PatienceMS: s.patience.Milliseconds(),
		Elsewhere: s.strange(),
	}
}
