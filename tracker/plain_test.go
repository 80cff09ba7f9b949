package tracker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
)

// epoch is when the store of a test began.
var epoch = time.Unix(1_000_000, 0)

// tell announces a peer.
func tell(p *plainStore, at time.Duration, k key, id int, addr string, change func(*announceRequest)) (*found, bool, error) {
	r := &announceRequest{key: k, left: 1, numwant: -1}
	binary.BigEndian.PutUint64(r.peer[:], uint64(id)+1)
	if change != nil {
		change(r)
	}
	f := &found{named: true}
	fresh, err := p.announce(epoch.Add(at), r, netip.MustParseAddrPort(addr), f, 50, anyFamily)
	return f, fresh, err
}

func seeding(r *announceRequest)  { r.left = 0 }
func stopping(r *announceRequest) { r.event = stopped }

func TestOnePeerTwoFamilies(t *testing.T) {
	p := newPlainStore(epoch, time.Minute, 1000)
	four, six := "10.0.0.1:1", "[2001:db8::1]:1"
	for _, addr := range []string{four, six, four, six} {
		f, _, err := tell(p, 0, key{}, 1, addr, nil)
		if err != nil || f.complete != 0 || f.incomplete != 1 || len(f.list) != 0 {
			t.Fatalf("%s: %+v, %v", addr, f, err)
		}
	}
	if f, _, _ := tell(p, 0, key{}, 2, "10.0.0.2:1", nil); f.incomplete != 2 || len(f.list) != 2 {
		t.Errorf("both addresses of one peer: %+v", f)
	}
	if f, _, _ := tell(p, 0, key{}, 1, six, seeding); f.complete != 1 || f.incomplete != 1 {
		t.Errorf("a seed by one family is one by both: %+v", f)
	}
	if f, _, _ := tell(p, 0, key{}, 3, "10.0.0.3:1", seeding); f.complete != 2 || len(f.list) != 1 {
		t.Errorf("a seed is told of seeds: %+v", f)
	}
	if f, _, _ := tell(p, 0, key{}, 3, "10.0.0.3:1", func(r *announceRequest) { r.left, r.event = 0, started }); len(f.list) != 3 {
		t.Errorf("who starts and has only a magnet link may say that nothing is left: %+v", f)
	}
	if f, _, _ := tell(p, 0, key{}, 1, four, stopping); f.complete != 1 || f.incomplete != 1 {
		t.Errorf("a peer that leaves leaves with both addresses: %+v", f)
	}
}

func TestSecret(t *testing.T) {
	p := newPlainStore(epoch, time.Minute, 1000)
	with := func(secret uint32, e event) func(*announceRequest) {
		return func(r *announceRequest) { r.secret, r.event = secret, e }
	}
	for _, others := range []int{0, 1, 40} { // alone, in a short table, in an indexed one
		k := key{byte(others)}
		for i := range others {
			tell(p, 0, k, 100+i, "10.9.9.9:1", nil)
		}
		for _, c := range []struct {
			addr   string
			change func(*announceRequest)
			fresh  bool
			ok     bool
		}{
			{"10.0.0.1:1", with(7, started), true, true},
			{"10.0.0.2:1", with(8, none), false, false}, // somebody else who knows the id
			{"10.0.0.2:1", with(7, none), true, true},   // it has moved
			{"10.0.0.2:9", with(9, none), true, true},   // it was started anew where it was
			{"10.0.0.3:1", with(8, stopped), false, true},
		} {
			_, fresh, err := tell(p, 0, k, 1, c.addr, c.change)
			if fresh != c.fresh || (err == nil) != c.ok || err != nil && !errors.Is(err, blob.ErrDenied) {
				t.Fatalf("%d others, %s: fresh %v, %v", others, c.addr, fresh, err)
			}
		}
		if f, _, _ := tell(p, 0, k, 2, "10.0.0.9:1", nil); int(f.incomplete) != others+2 {
			t.Errorf("%d others: a stranger has stopped a peer: %+v", others, f)
		}
	}
}

func TestMaxPeers(t *testing.T) {
	p := newPlainStore(epoch, time.Minute, 10)
	for i := range 10 {
		if _, _, err := tell(p, 0, key{byte(i / 2)}, i, "10.0.0.1:1", nil); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := tell(p, 0, key{}, 99, "10.0.0.1:1", nil)
	if !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("one peer too many: %v", err)
	}
	if _, _, err = tell(p, 0, key{99}, 99, "10.0.0.1:1", nil); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("one swarm too many: %v", err)
	}
	if _, _, err = tell(p, 0, key{}, 0, "10.0.0.1:1", nil); err != nil {
		t.Errorf("a peer that is known: %v", err)
	}
	tell(p, 0, key{}, 0, "10.0.0.1:1", stopping)
	if _, _, err = tell(p, 0, key{}, 99, "10.0.0.1:1", nil); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	const keep = time.Minute
	for _, n := range []int{1, 2, 300, 3 * sweepBudget} {
		p := newPlainStore(epoch, keep, 1<<20)
		sweep := func(from, to time.Duration) {
			for at := from; at <= to; at += time.Second {
				p.sweep(epoch.Add(at))
			}
		}
		for i := range n {
			tell(p, time.Second, key{}, i, "10.0.0.1:1", nil)
			tell(p, time.Second, key{}, i, "[2001:db8::1]:1", nil)
		}
		tell(p, 40*time.Second, key{}, n-1, "10.0.0.1:1", nil) // one goes on, over one family
		sweep(0, keep)
		if got := p.peers.Load(); got != int64(n) {
			t.Errorf("%d of %d peers are left before their time", got, n)
		}
		sweep(keep, keep+keep/4)
		if got := p.peers.Load(); got != 1 {
			t.Errorf("%d of %d peers are left after their time", got, n)
		}
		if complete, incomplete, _, ok := p.scrape(&key{}); !ok || complete+incomplete != 1 {
			t.Errorf("scrape: %d %d %v", complete, incomplete, ok)
		}
		sweep(keep+keep/4, 3*keep)
		if _, _, _, ok := p.scrape(&key{}); ok || p.peers.Load() != 0 {
			t.Errorf("a swarm without peers is kept")
		}
	}
}

// TestSampleIsFair: every peer is told about equally often, none twice in one reply, and never the asker.
func TestSampleIsFair(t *testing.T) {
	for _, n := range []int{51, 52, 60, 400, 3000} {
		p := newPlainStore(epoch, time.Minute, 1<<20)
		for i := range n {
			change := seeding
			if i%4 == 0 {
				change = nil
			}
			tell(p, 0, key{}, i, fmt.Sprintf("10.0.%d.%d:1", i/250, i%250), change)
		}
		told := map[peerID]int{}
		rounds := 40 * n / 50
		for range rounds {
			f, _, _ := tell(p, 0, key{}, 0, "10.0.0.0:1", nil)
			if len(f.list) != 50 {
				t.Fatalf("%d peers of %d", len(f.list), n)
			}
			for i, a := range f.list {
				if slices.Contains(f.list[:i], a) {
					t.Fatalf("%v is told twice", a)
				}
				told[a.id]++
			}
		}
		if _, self := told[peerID{7: 1}]; self || len(told) != n-1 {
			t.Errorf("%d of %d peers were told, the asker: %v", len(told), n-1, self)
		}
		for id, k := range told { // 40 on average, σ ≤ 6.3: ten σ
			if k < 1 || k > 103 {
				t.Errorf("%d peers: %x was told %d times", n, id, k)
			}
		}
		f, _, _ := tell(p, 0, key{}, 1, "10.0.0.1:1", seeding)
		if want := min(50, (n+3)/4); len(f.list) != want {
			t.Errorf("%d peers: a seed is told of %d, want %d", n, len(f.list), want)
		}
	}
}

// TestNoAllocations: an announce of a peer that is known allocates nothing.
func TestNoAllocations(t *testing.T) {
	p := newPlainStore(epoch, time.Minute, 1<<20)
	for i := range 1000 {
		tell(p, 0, key{}, i, "10.0.0.1:1", nil)
	}
	r := &announceRequest{key: key{}, peer: peerID{7: 1}, left: 1}
	var f found
	addr := netip.MustParseAddrPort("10.0.0.1:1")
	if n := testing.AllocsPerRun(100, func() {
		f.reset(false)
		if _, err := p.announce(epoch, r, addr, &f, 50, anyFamily); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// checkTable verifies the invariant of a table.
func checkTable(tab *table) error {
	if tab.seeds > tab.n {
		return fmt.Errorf("%d seeds of %d", tab.seeds, tab.n)
	}
	entries := 0
	for _, e := range tab.index {
		if e != 0 {
			entries++
		}
	}
	if tab.index != nil && entries != int(tab.n) || tab.index == nil && tab.n > scanUntil {
		return fmt.Errorf("index of %d entries for %d spots", entries, tab.n)
	}
	for pos := range tab.n {
		if got, ok := tab.find(&tab.at(pos).id); !ok || got != pos {
			return fmt.Errorf("peer at %d is found at %d, %v", pos, got, ok)
		}
	}
	return nil
}

// modelPeer is a peer as the naive model of the store has it.
type modelPeer struct {
	seed bool
	at   map[bool]modelSpot // by family
}

type modelSpot struct {
	addr   netip.AddrPort
	secret uint32
	seen   time.Duration
}

// TestPlainAgainstModel lets peers do what they like and compares every answer with a naive model.
func TestPlainAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const keep = time.Minute
		p := newPlainStore(epoch, keep, 1<<20)
		model := map[key]map[int]*modelPeer{}
		ended := map[key]int64{}
		now := time.Duration(0)
		swarms := rapid.IntRange(1, 3).Draw(t, "swarms")
		ids := rapid.SampledFrom([]int{2, 5, 20, 60, 700}).Draw(t, "ids")
		if ids == 700 { // beyond one chunk
			for i := range ids {
				tell(p, 0, key{}, i, "10.0.0.1:80", nil)
				if model[key{}] == nil {
					model[key{}] = map[int]*modelPeer{}
				}
				model[key{}][i] = &modelPeer{at: map[bool]modelSpot{false: {addr: netip.MustParseAddrPort("10.0.0.1:80")}}}
			}
		}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			k, id := key{byte(rapid.IntRange(0, swarms-1).Draw(t, "swarm"))}, rapid.IntRange(0, ids-1).Draw(t, "id")
			if rapid.IntRange(0, 9).Draw(t, "pass") == 0 { // all that is old goes, in one sweep of everything
				now += time.Duration(rapid.IntRange(1, 50).Draw(t, "s")) * time.Second
				p.debt = shardCount
				p.sweep(epoch.Add(now))
				for k, peers := range model {
					for id, m := range peers {
						for six, s := range m.at {
							if s.seen < now-keep {
								delete(m.at, six)
							}
						}
						if len(m.at) == 0 {
							delete(peers, id)
						}
					}
					if len(peers) == 0 {
						ended[k] = 0
					}
				}
				continue
			}
			six := rapid.Bool().Draw(t, "six")
			ip := map[bool]string{false: "10.0.0.1", true: "2001:db8::1"}[six]
			if rapid.IntRange(0, 5).Draw(t, "moved") == 0 {
				ip = map[bool]string{false: "10.0.0.2", true: "2001:db8::2"}[six]
			}
			addr := netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(rapid.SampledFrom([]int{0, 80, 81}).Draw(t, "port")))
			r := &announceRequest{
				key: k, left: rapid.SampledFrom([]int64{-1, 0, 5}).Draw(t, "left"), secret: uint32(rapid.IntRange(0, 1).Draw(t, "secret")),
				event: rapid.SampledFrom([]event{none, none, none, started, completed, stopped}).Draw(t, "event"),
			}
			binary.BigEndian.PutUint64(r.peer[:], uint64(id)+1)
			limit := rapid.SampledFrom([]int{0, 1, 3, 10, 1000}).Draw(t, "limit")
			f := &found{named: true}
			_, err := p.announce(epoch.Add(now), r, addr, f, limit, anyFamily)

			peers := model[k]
			if peers == nil {
				peers = map[int]*modelPeer{}
				model[k] = peers
			}
			m := peers[id]
			allowed := func(six bool) bool {
				s, ok := m.at[six]
				return ok && (s.addr.Addr() == addr.Addr() || s.secret == r.secret)
			}
			switch {
			case r.event == stopped:
				for _, six := range []bool{false, true} {
					if m != nil && allowed(six) {
						delete(m.at, six)
					}
				}
				if m != nil && len(m.at) == 0 {
					delete(peers, id)
				}
				if len(peers) == 0 {
					ended[k] = 0
				}
			case m != nil && m.at[six].addr.IsValid() && !allowed(six):
				if !errors.Is(err, blob.ErrDenied) {
					t.Fatalf("another secret: %v", err)
				}
				continue
			default:
				if m == nil {
					m = &modelPeer{at: map[bool]modelSpot{}}
					peers[id] = m
				}
				m.at[six] = modelSpot{addr, r.secret, now}
				if r.left >= 0 {
					m.seed = r.left == 0
				}
				if r.event == completed {
					ended[k]++
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			var complete, incomplete, total int64
			want := map[netip.AddrPort]int{}
			for other, o := range peers {
				if o.seed {
					complete++
				} else {
					incomplete++
				}
				for _, s := range o.at {
					if other != id && s.addr.Port() != 0 && r.event != stopped && !(m.seed && o.seed && r.event != started) {
						want[s.addr]++
					}
				}
			}
			if f.complete != complete || f.incomplete != incomplete {
				t.Fatalf("%d complete and %d not, want %d and %d", f.complete, f.incomplete, complete, incomplete)
			}
			all := 0
			for _, n := range want {
				all += n
			}
			for _, a := range f.list {
				if want[a.addr]--; want[a.addr] < 0 {
					t.Fatalf("%v is told, and should not, or once too often", a)
				}
			}
			if len(f.list) > limit || limit == 1000 && len(f.list) != all {
				t.Fatalf("%d peers of %d for limit %d", len(f.list), all, limit)
			}
			c, i, e, ok := p.scrape(&k)
			if ok != (len(peers) > 0) || ok && (c != complete || i != incomplete || e != ended[k]) {
				t.Fatalf("scrape says %d %d %d %v, want %d %d %d", c, i, e, ok, complete, incomplete, ended[k])
			}
			for _, peers := range model {
				total += int64(len(peers))
			}
			if p.peers.Load() != total {
				t.Fatalf("%d peers counted, there are %d", p.peers.Load(), total)
			}
			p.each(func(c *crowd) {
				if c.many == nil {
					return
				}
				if err := errors.Join(checkTable(&c.many.four), checkTable(&c.many.six)); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}
