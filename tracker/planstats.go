package tracker

import (
	"strconv"

	"github.com/pantala/pantala/relay"
)

// maxPlanned is how many nodes of one swarm /stats describes.
const maxPlanned = 64

// planStats is what /stats says about the relay trees of a swarm.
type planStats struct {
	Source  string         `json:"source"` // what the heads read from: origin, or peers
	Nodes   int            `json:"nodes"`  // in the trees
	Changes int64          `json:"changes"`
	Heads   []string       `json:"heads"` // peer ids, by stripe; "": none is needed
	Depth   []int          `json:"depth"` // by stripe: edges from the source to the farthest node
	List    []plannedStats `json:"list"`  // the first 64
}

type plannedStats struct {
	Peer     string   `json:"peer"`
	Addr     string   `json:"addr"`
	Zone     string   `json:"zone,omitempty"`
	Seed     bool     `json:"seed,omitempty"` // was set up to read for others
	Up       int64    `json:"up"`             // bytes per second; 0: not known
	Pieces   uint32   `json:"pieces"`
	Parents  []string `json:"parents"`  // peer ids, by stripe; "": it is the head
	Children []int    `json:"children"` // by stripe
}

// shownPeer is a peer id for people.
func shownPeer(id peerID) string {
	s := strconv.QuoteToASCII(string(id[:]))
	return s[1 : len(s)-1]
}

// planStats is nil while there is no plan.
func (s *swarm) planStats() *planStats {
	if s.planner == nil {
		return nil
	}
	p := &planStats{Source: "peers", Nodes: s.trees.bulk, Changes: s.assignments, List: []plannedStats{}}
	if s.byOrigin {
		p.Source = "origin"
	}
	children := map[peerID]*[stripes]int{}
	first := func(n *node, k int) (peerID, bool) {
		if k < len(n.assigned.Parents) && len(n.assigned.Parents[k]) > 0 {
			return peerID(n.assigned.Parents[k][0].ID), true
		}
		return peerID{}, false
	}
	for _, n := range s.nodes {
		for k := range stripes {
			if id, ok := first(n, k); ok && n.takesPart() {
				if children[id] == nil {
					children[id] = new([stripes]int)
				}
				children[id][k]++
			}
		}
	}
	for k := range stripes {
		head := ""
		if h := s.heads[k]; h != nil {
			head = shownPeer(h.member.id)
		}
		p.Heads = append(p.Heads, head)
		deepest := 0
		for _, n := range s.nodes {
			depth := 0
			for at := n; at != nil && at.takesPart() && depth <= relay.MaxStripes*8; depth++ {
				id, ok := first(at, k)
				if at = nil; ok && s.byID[id] != nil {
					at = s.byID[id].plan
				}
			}
			deepest = max(deepest, depth)
		}
		p.Depth = append(p.Depth, deepest)
	}
	for _, n := range s.nodes {
		if len(p.List) == maxPlanned {
			break
		}
		if !n.takesPart() && children[n.member.id] == nil {
			continue
		}
		one := plannedStats{Peer: shownPeer(n.member.id), Addr: n.member.addr.String(), Zone: n.zone, Seed: n.prefer, Up: n.up, Pieces: n.had}
		for k := range stripes {
			parent := ""
			if id, ok := first(n, k); ok {
				parent = shownPeer(id)
			}
			one.Parents = append(one.Parents, parent)
		}
		one.Children = make([]int, stripes)
		if c := children[n.member.id]; c != nil {
			copy(one.Children, c[:])
		}
		p.List = append(p.List, one)
	}
	return p
}
