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
	Listed        []swarmStats `json:"list"`
}

type swarmStats struct {
	Key        string `json:"key"`
	Size       int64  `json:"size"` // bytes; 0: no node has said
	Pieces     uint32 `json:"pieces"`
	Members    int    `json:"members"`
	Complete   int    `json:"complete"`
	Nodes      int    `json:"nodes"`
	Leases     int    `json:"leases"`
	Granted    int64  `json:"leases_granted"`
	Roots      int    `json:"roots"`
	Disputed   int    `json:"disputed"`
	PatienceMS int64  `json:"lease_ms"`
}

func (s *Server) serveStats(w http.ResponseWriter) {
	all := serverStats{
		UptimeSeconds: int64(time.Since(s.began).Seconds()), Announces: s.announces.Load(), Plans: s.plans.Load(), Refused: s.refused.Load(),
		Listed: []swarmStats{},
	}
	s.mu.Lock()
	rooms := maps.Clone(s.rooms)
	s.mu.Unlock()
	for k, r := range rooms {
		r.mu.Lock()
		one := r.swarm.stats()
		r.mu.Unlock()
		one.Key = hex.EncodeToString(k[:])
		all.Swarms++
		all.Members += one.Members
		all.Nodes += one.Nodes
		all.Listed = append(all.Listed, one)
	}
	slices.SortFunc(all.Listed, func(a, b swarmStats) int {
		return cmp.Or(cmp.Compare(b.Members, a.Members), cmp.Compare(a.Key, b.Key))
	})
	all.Listed = all.Listed[:min(len(all.Listed), maxListed)]
	w.Header().Set("Content-Type", "application/json")
	// The status is sent with the first byte: a write that fails has nobody to be told to.
	_ = json.NewEncoder(w).Encode(all)
}

func (s *swarm) stats() swarmStats {
	return swarmStats{
		Size: s.geometry.Size, Pieces: s.pieces, Members: len(s.members), Complete: s.whole, Nodes: len(s.nodes),
		Leases: len(s.leases), Granted: s.granted, Roots: len(s.roots), Disputed: len(s.disputed), PatienceMS: s.patience.Milliseconds(),
	}
}
