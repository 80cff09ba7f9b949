package tracker

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// placement collects what a session says about its place in the trees.
type placement struct {
	mu    sync.Mutex
	list  []relay.Assignment
	peers map[netip.AddrPort]bool
	early bool // an assignment came before an address of its
}

func (p *placement) options(o *SessionOptions) {
	p.peers = map[netip.AddrPort]bool{}
	o.Bulk, o.Origin = true, true
	o.OnPeers = func(list []netip.AddrPort) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, a := range list {
			p.peers[a] = true
		}
	}
	o.OnAssignment = func(a relay.Assignment) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, parents := range a.Parents {
			for _, one := range parents {
				p.early = p.early || !p.peers[netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 1000+uint16(one.ID[1]))]
			}
		}
		p.list = append(p.list, a)
	}
}

// last is the newest assignment, and how many there were.
func (p *placement) last() (relay.Assignment, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.list) == 0 {
		return relay.Assignment{}, 0
	}
	return p.list[len(p.list)-1], len(p.list)
}

// TestAssignmentTravels: a place in the trees arrives at once, behind the addresses in it; so do complaints; and
// without a tracker it stays.
func TestAssignmentTravels(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		s.makePlanner = newChain
		var at [3]placement
		a := attend(t, w, 1, at[0].options)
		if _, n := at[0].last(); n != 0 {
			t.Fatal("an assignment for one node")
		}
		b := attend(t, w, 2, at[1].options)
		c := attend(t, w, 3, at[2].options)
		synctest.Wait()
		for i := range at {
			got, _ := at[i].last()
			if got.Stripes != stripes || at[i].early {
				t.Fatalf("node %d is told %+v, before the addresses: %v", i+1, got, at[i].early)
			}
		}
		if got, _ := at[1].last(); got.Head != 0 || got.Parents[0][0].ID[1] != 1 || got.Parents[1][0].ID[1] != 3 {
			t.Errorf("the one in the middle is told %+v", got)
		}
		if st := c.Status(); st.Tree == nil || !slices.Equal(st.Tree.Head, []int{1}) || len(st.Tree.Parents[0]) != 1 {
			t.Errorf("status %+v", st.Tree)
		}
		time.Sleep(time.Second)
		w.seen("one")
		begin := time.Now()
		one := relay.Complaint{Parent: relay.NodeID{'-', 1}, Stripe: 0, Reason: relay.Slow, Rate: 9}
		b.Complain([]relay.Complaint{one, one})
		synctest.Wait()
		r := w.seen("one")
		if len(r) != 1 || !r[0].at.Equal(begin) || !slices.Equal(r[0].plan.blame, []relay.Complaint{one}) {
			t.Errorf("the complaint travelled as %+v", r)
		}
		time.Sleep(time.Second)
		for _, later := range w.seen("one") {
			if later.plan.blame != nil {
				t.Error("the complaint was repeated")
			}
		}

		// The tracker dies: nobody is told anything, and complaints are not kept.
		_, before := at[1].last()
		w.set("one", s, down)
		b.Complain(make([]relay.Complaint, 3))
		a.store.put(0, rootOf(0), blob.Direct)
		time.Sleep(time.Minute)
		if _, n := at[1].last(); n != before {
			t.Error("without a tracker there is another plan")
		}
		// Another one without a plan takes its place.
		other := NewServer(ServerOptions{})
		other.makePlanner = nil
		defer other.Close()
		w.set("one", other, up)
		time.Sleep(lastRetry + pollWait + orphanFor)
		for i := range at {
			if got, _ := at[i].last(); got.Stripes != 0 {
				t.Errorf("node %d keeps the plan of a tracker that is gone: %+v", i+1, got)
			}
		}
		if st := c.Status(); st.Tree != nil {
			t.Errorf("status %+v", st.Tree)
		}
		close2(t, a, b, c)
	})
}

// TestDescription: what a node says about itself travels when it changes, and small changes of a rate do not.
func TestDescription(t *testing.T) {
	bubble(t, func(t *testing.T, w *wire, s *Server) {
		a := attend(t, w, 1, func(o *SessionOptions) { o.Zone, o.Seed = "eu/a", true })
		time.Sleep(time.Second)
		w.seen("one")
		a.SetUplink(1000)
		a.SetUplink(1100)
		a.SetBulk(true)
		a.SetOrigin(true)
		time.Sleep(time.Second)
		var last *planRequest
		for _, r := range w.seen("one") {
			if r.plan.want {
				last = r.plan
			}
		}
		want := about{bulk: true, origin: true, prefer: true, up: 1000, zone: "eu/a"}
		if last == nil || last.about != want {
			t.Errorf("it said %+v, want %+v", last, want)
		}
		close2(t, a)
	})
}
