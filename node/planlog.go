package node

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/pantala/pantala/relay"
)

// logAssignment writes at level debug which place in the relay trees the tracker has given us: of each stripe the
// beginnings of the peer ids of its parents, the one that counts first, or "head".
func (n *Node) logAssignment(blob string, a relay.Assignment) {
	if !n.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	var stripes []string
	for s, parents := range a.Parents {
		var who []string
		if a.Head>>s&1 != 0 {
			who = append(who, "head")
		}
		for _, p := range parents {
			who = append(who, fmt.Sprintf("%x", p.ID[16:]))
		}
		stripes = append(stripes, strings.Join(who, ","))
	}
	id := n.swarm.PeerID()
	n.log.Debug("place in the relay trees", "blob", blob, "id", fmt.Sprintf("%x", id[16:]), "gen", a.Gen, "stripes", strings.Join(stripes, " "))
}

// logComplaints writes at level debug what the tracker is told about parents.
func (n *Node) logComplaints(blob string, list []relay.Complaint) {
	for _, c := range list {
		n.log.Debug("complaint", "blob", blob, "parent", fmt.Sprintf("%x", c.Parent[16:]), "stripe", c.Stripe, "why", c.Reason, "rate", c.Rate)
	}
}
