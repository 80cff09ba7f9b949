package tracker

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

// TestScheduler runs scripts against the state machine. A script is lines of
//
//	A joins [have RUNS]         a full report; if that ends the solo of another, 30 ms pass
//	A arrives [have RUNS]       a full report; no time passes
//	A wants [reading RUNS] [now RUNS] [ahead RUNS] [read BYTES]
//	A did RUNS [wrong]          completed pieces from the origin, with right or wrong roots
//	A got RUNS                  completed pieces from peers: no roots
//	A polls | A hangs up        opens, closes a long poll
//	A leaves
//	foreign joins|seeds         a BEP 3 client
//	+2s                         time passes, in ticks
//	A sees WORDS                what the next reply to A says: [solo] [lease RUNS] [held RUNS] [roots RUNS]
//	                            [disputed RUNS] [peers NAMES] or nothing
//	A has hard|soft|no news
//	patience 4s
//
// RUNS are 0-3,7. The blob has 64 pieces of 256 KiB unless "pieces N" comes first; a lease lasts 2 s.
func TestScheduler(t *testing.T) {
	for _, c := range scripts {
		t.Run(c.name, func(t *testing.T) {
			p := newPlay()
			for n, line := range strings.Split(strings.TrimSpace(c.script), "\n") {
				if err := p.line(strings.TrimSpace(line)); err != nil {
					t.Fatalf("line %d: %s: %v", n+1, strings.TrimSpace(line), err)
				}
				if err := check(p.s); err != nil {
					t.Fatalf("after line %d: %s: %v", n+1, strings.TrimSpace(line), err)
				}
			}
		})
	}
}

var scripts = []struct{ name, script string }{
	{"solo gets what it wants up to its share", `
		A joins
		A sees solo
		A wants ahead 0-63
		A sees solo lease 0-31`},
	{"two that start together split", `
		A joins
		B joins
		A wants ahead 0-63
		B wants ahead 0-63
		A sees lease 0-15 held 16-31 peers B
		B sees lease 16-31 held 0-15 peers A
		A did 0-7
		A sees lease 8-15,32-39 held 16-31
		B sees lease 16-31 held 8-15,32-39 roots 0-7
		B did 16
		A sees lease 8-15,32-39 held 17-31,40 roots 16`},
	{"urgent before ahead, and beyond a full window", `
		A joins
		B joins
		A wants now 40 ahead 0-63
		A sees lease 0-14,40 peers B
		A wants now 50-51 ahead 0-63
		A sees lease 0-14,40,50-51
		B wants now 40,52 ahead 0-63
		B sees lease 15-29,52 held 0-14,40,50-51 peers A`},
	{"urgent is bounded too", `
		pieces 8
		A joins
		B joins
		A wants now 0-7
		A sees lease 0-1 peers B
		A did 0
		A sees lease 1-2`},
	{"small blobs: two pieces at a time", `
		pieces 4
		A joins
		B joins
		C joins
		A wants ahead 0-3
		B wants ahead 0-3
		C wants ahead 0-3
		A sees lease 0-1 held 2-3 peers B,C
		B sees lease 2-3 held 0-1 peers A,C
		C sees held 0-3 peers A,B`},
	{"what somebody has is not leased", `
		A joins have 0-9
		B joins
		B wants ahead 0-15
		B sees lease 10-15 roots 0-9 peers A
		A got 20
		B wants now 20
		B sees lease 10-15`},
	{"a seed leaves nothing to lease, until it goes", `
		A joins have 0-63
		B joins
		A polls
		B polls
		B wants ahead 0-3
		B sees roots 0-63 peers A
		A leaves
		B sees solo lease 0-3`},
	{"stalled lease goes to whoever wants it", `
		A joins
		B joins
		A polls
		B polls
		A wants now 0
		B wants now 0
		A sees lease 0 peers B
		B sees held 0 peers A
		+1900ms
		B has no news
		+200ms
		B has hard news
		B sees lease 0
		A has hard news
		A sees held 0`},
	{"progress keeps all leases of the wish", `
		A joins
		B joins
		A polls
		B polls
		A wants ahead 0-3
		B wants now 3
		+1500ms
		A did 0
		+1500ms
		A did 1
		+1500ms
		A did 2
		A sees lease 3 peers B
		B sees held 3 roots 0-2 peers A
		+2100ms
		B sees lease 3`},
	{"nobody else wants it: the holder keeps a stalled lease", `
		A joins
		B joins
		A polls
		B polls
		A wants now 5
		+10s
		A sees lease 5 peers B
		A did 5
		B sees roots 5 peers A`},
	{"what was taken away too early comes back: more patience", `
		A joins
		B joins
		A polls
		B polls
		A wants now 0
		B wants now 0
		+2200ms
		B sees lease 0 peers A
		A did 0
		patience 4s
		B sees lease 0 roots 0`},
	{"a lease outside the wish lasts as long as reading usually takes", `
		A joins
		B joins
		A polls
		B polls
		A wants now 0
		+100ms
		A did 0
		A wants now 1
		A wants
		B wants now 1
		B sees held 1 roots 0 peers A
		+800ms
		B sees lease 1`},
	{"taking up again what was given up", `
		A joins
		B joins
		A polls
		B polls
		A wants now 1
		A wants
		+3s
		B wants
		A wants now 1
		B wants now 1
		A sees lease 1 peers B
		B sees held 1 peers A`},
	{"leaving frees at once", `
		A joins
		B joins
		B polls
		A wants ahead 0-3
		B wants ahead 0-3
		B sees held 0-3 peers A
		A leaves
		B has hard news
		B sees solo lease 0-3`},
	{"vanishing frees after three lease times", `
		A joins
		B joins
		A polls
		B polls
		A did 9
		A hangs up
		+5900ms
		B wants ahead 9
		B sees roots 9 peers A
		+400ms
		B sees solo lease 9`},
	{"company: the first keeps what it wants now", `
		A joins
		A polls
		A wants ahead 0-31
		A sees solo lease 0-31
		A wants ahead 8-31
		B joins
		A has hard news
		A sees lease 8-31 peers B
		B wants ahead 0-31
		B sees lease 0-7 held 8-31 peers A`},
	{"reading is leased at once, beyond the share", `
		pieces 8
		A joins
		B joins
		A wants reading 2-6 now 1 ahead 0-7
		A sees lease 1-6 peers B
		B wants reading 4,7 ahead 0-7
		B sees lease 0,7 held 1-6 peers A
		A did 2-6
		A wants now 1 ahead 0-7
		A sees lease 1 held 0,7`},
	{"reading does not take what another holds, but what it lets lie", `
		A joins
		B joins
		A polls
		B polls
		A wants ahead 0-3
		B wants reading 2-5
		B sees lease 4-5 held 2-3 peers A
		B did 2
		B sees lease 4-5 held 3
		+2100ms
		B wants reading 3-5
		B sees lease 3-5
		A sees lease 0-1 held 3 roots 2 peers B`},
	{"bytes that come keep a lease though no piece is complete", `
		A joins
		B joins
		A polls
		B polls
		A wants reading 0 read 1
		B wants now 0
		+1500ms
		A wants reading 0 read 20000
		+1500ms
		A wants reading 0 read 40000
		+1500ms
		A wants reading 0 read 40000
		B sees held 0 peers A
		+700ms
		B sees lease 0`},
	{"what somebody has is not leased to who reads it", `
		A joins have 0-9
		B joins
		B wants reading 8-11
		B sees lease 10-11 roots 0-9 peers A`},
	{"reading with progress keeps the lease, without it does not", `
		A joins
		B joins
		A polls
		B polls
		A wants reading 0-2
		B wants now 2
		+1500ms
		A did 0
		+1500ms
		A did 1
		+1500ms
		B sees held 2 roots 0-1 peers A
		+700ms
		B sees lease 2
		A wants reading 2
		A sees held 2 peers B`},
	{"end of solo: nothing for others until the first has said what it reads", `
		A joins
		A wants ahead 0-7
		A sees solo lease 0-7
		B arrives
		A has hard news
		B wants now 0 ahead 0-63
		B sees held 0-7 peers A
		C arrives
		C wants ahead 0-63
		C sees held 0-7 peers A,B
		A wants reading 0-11
		B has soft news
		A sees lease 0-11 peers B,C
		A wants reading 0-11
		B has hard news
		B sees lease 12-21 held 0-11,22-31 peers C
		C sees lease 22-31 held 0-21`},
	{"end of solo: a wish that was under way is no answer", `
		A joins
		A sees solo
		B arrives
		A wants
		B wants ahead 0-1
		B sees peers A
		A sees peers B
		A wants reading 1
		B has hard news
		B sees lease 0 held 1`},
	{"end of solo: others wait for 30 ms", `
		A joins
		B arrives
		B wants ahead 0-1
		+29ms
		B sees peers A
		+1ms
		B has hard news
		B sees lease 0-1`},
	{"end of solo: what others read is leased to them meanwhile", `
		A joins
		B arrives
		B wants reading 4 ahead 0-1
		B sees lease 4 peers A
		+30ms
		B sees lease 0-1,4`},
	{"end of solo: the first leaves, or all others do", `
		A joins
		B arrives
		C arrives
		B wants ahead 0-1
		B sees peers A,C
		A leaves
		B has hard news
		B sees lease 0-1
		B leaves
		C wants ahead 0-1
		C sees solo lease 0-1
		D arrives
		D leaves
		E arrives
		E wants ahead 1-3
		E sees held 1 peers C
		+30ms
		E sees lease 2-3 held 1`},
	{"end of solo: leases that the first gave up are free", `
		A joins
		A wants ahead 0-31
		A sees solo lease 0-31
		B arrives
		A sees lease 0-31 peers B
		A wants reading 0-3
		A sees lease 0-3
		B wants ahead 0-7
		B sees lease 4-7 held 0-3 peers A`},
	{"claims: the holder's word counts, another's waits", `
		A joins
		B joins
		C joins
		A polls
		B polls
		C polls
		A wants now 0
		B did 0
		C sees peers A,B
		A did 0
		C sees roots 0`},
	{"claims: another's word counts when the holder is gone", `
		A joins
		B joins
		C joins
		B polls
		C polls
		A wants now 0
		B did 0
		C sees peers A,B
		A leaves
		C sees roots 0`},
	{"claims: without a lease the first counts", `
		A joins
		B joins
		A did 3
		B sees roots 3 peers A
		A sees peers B`},
	{"conflict: disputed for everybody, leased to nobody", `
		A joins
		B joins
		C joins
		A polls
		B polls
		C polls
		A did 3
		C sees roots 3 peers A,B
		B did 3 wrong
		A has hard news
		C has hard news
		A sees disputed 3 peers B,C
		B sees disputed 3 peers A,C
		C sees disputed 3
		C wants now 3
		C sees disputed 3
		A did 3
		C sees disputed 3`},
	{"conflict past a lease", `
		A joins
		B joins
		A wants now 3
		B did 3 wrong
		A did 3
		A sees disputed 3 peers B`},
	{"a swarm of liars: nothing is believed any more", `
		pieces 1100
		A joins
		B joins
		A did 0-1098
		B did 0-1098 wrong
		A did 1099
		B sees disputed 0-1099 peers A`},
	{"starving: peers that have it do not deliver", `
		A joins have 0-9
		B joins
		A polls
		B polls
		B wants ahead 0-3
		+2900ms
		B sees roots 0-9 peers A
		+400ms
		B has hard news
		B sees lease 0-3
		B did 0-1
		B wants ahead 2-7
		B sees lease 2-7
		B got 9
		B wants ahead 2-8
		B sees lease 2-7`},
	{"foreign peers are shown", `
		A joins
		A polls
		A sees solo
		foreign joins
		A has soft news
		A sees solo peers foreign`},
	{"restarted process at the same address replaces itself", `
		A joins have 0-9
		A2 joins
		A2 sees solo roots 0-9`},
	{"one at the same address that polls is somebody else, behind the same address translation", `
		A joins
		A polls
		A2 joins
		A2 sees peers A`},
}

// play performs scripts.
type play struct {
	s    *swarm
	now  time.Time
	seq  int64
	told map[string]*planReply
}

func newPlay() *play {
	p := &play{now: time.Unix(1_000_000, 0), told: map[string]*planReply{}}
	p.s = newSwarm(rules{30 * time.Second, 2 * time.Second, 50}, 7, p.now)
	p.s.reset(small)
	return p
}

func named(name string) (id peerID) {
	copy(id[:], name)
	return id
}

// address is the same for A and A2.
func address(name string) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, name[0]}), 6881)
}

func (p *play) node(name string) *node {
	if m := p.s.byID[named(name)]; m != nil {
		return m.plan
	}
	return nil
}

func (p *play) report(name string, change func(*planRequest)) error {
	p.seq++
	q := &planRequest{peer: named(name), geometry: p.s.geometry, epoch: 7, seq: p.seq}
	if n := p.node(name); n != nil {
		q.gen, q.log = n.toldGen, n.toldLog
	}
	change(q)
	_, err := p.s.report(p.now, q, address(name))
	if q.stop && errors.Is(err, errStranger) {
		return nil
	}
	return err
}

func (p *play) line(line string) error {
	w := strings.Fields(line)
	if strings.HasPrefix(line, "+") {
		d, err := time.ParseDuration(line[1:])
		for end := p.now.Add(d); err == nil && p.now.Before(end); {
			p.now = p.now.Add(min(250*time.Millisecond, end.Sub(p.now)))
			p.s.tick(p.now)
		}
		return err
	}
	switch w[0] {
	case "pieces":
		n, err := strconv.Atoi(w[1])
		p.s.reset(blob.Geometry{Size: int64(n) * 256 << 10, PieceLength: 256 << 10})
		return err
	case "patience":
		if got := p.s.patience.String(); got != w[1] {
			return fmt.Errorf("patience is %s", got)
		}
		return nil
	case "foreign":
		p.s.stranger(p.now, planPeer{address("foreign"), named("foreign")}, w[1] == "seeds", true)
		return nil
	}
	name, rest := w[0], w[2:]
	n := p.node(name)
	switch w[1] {
	case "joins", "arrives":
		err := p.report(name, func(q *planRequest) {
			q.full, q.epoch, q.want = true, 0, true
			if len(rest) == 2 {
				q.have = parseList(rest[1])
				for i := range each(q.have) {
					q.roots = append(q.roots, pieceRoot{i, rootOf(i)})
				}
			}
		})
		if w[1] == "joins" && p.s.asked != nil {
			p.now = p.s.askedUntil
			p.s.tick(p.now)
		}
		return err
	case "wants":
		return p.report(name, func(q *planRequest) {
			q.want = true
			for ; len(rest) > 1; rest = rest[2:] {
				switch rest[0] {
				case "reading":
					q.reading = parseList(rest[1])
				case "now":
					q.urgent = parseList(rest[1])
				case "ahead":
					q.ahead = parseList(rest[1])
				case "read":
					fmt.Sscan(rest[1], &q.read)
				default:
					panic("wants what? " + rest[0])
				}
			}
		})
	case "did", "got":
		return p.report(name, func(q *planRequest) {
			q.have = parseList(rest[0])
			for i := range each(q.have) {
				root := rootOf(i)
				if len(rest) > 1 {
					root = sha256.Sum256(root[:])
				}
				if w[1] == "did" {
					q.roots = append(q.roots, pieceRoot{i, root})
				}
			}
		})
	case "polls":
		p.s.poll(p.now, n, 1)
	case "hangs":
		p.s.poll(p.now, n, -1)
	case "leaves":
		return p.report(name, func(q *planRequest) { q.stop = true })
	case "has":
		hard, soft := p.s.news(n)
		got := map[bool]string{true: "hard"}[hard]
		if !hard {
			got = map[bool]string{true: "soft", false: "no"}[soft]
		}
		if got != rest[0] {
			return fmt.Errorf("%s news", got)
		}
	case "sees":
		if got, want := describe(p.s.reply(n)), strings.Join(rest, " "); got != want {
			return fmt.Errorf("it sees %q", got)
		}
	default:
		return errors.New("not understood")
	}
	return nil
}

// describe is a reply as scripts write it.
func describe(r *planReply) string {
	var w []string
	add := func(word string, runs []blob.Run) {
		if len(runs) > 0 {
			w = append(w, word, list(runs))
		}
	}
	if r.solo {
		w = append(w, "solo")
	}
	add("lease", r.lease)
	add("held", r.held)
	var roots []uint32
	for _, c := range r.roots {
		if c.root != rootOf(c.piece) {
			return fmt.Sprintf("a wrong root of piece %d", c.piece)
		}
		roots = append(roots, c.piece)
	}
	slices.Sort(roots)
	add("roots", runsOf(roots))
	add("disputed", r.disputed)
	var peers []string
	for _, p := range r.peers {
		peers = append(peers, strings.TrimRight(string(p.id[:]), "\x00"))
	}
	if slices.Sort(peers); len(peers) > 0 {
		w = append(w, "peers", strings.Join(peers, ","))
	}
	return strings.Join(w, " ")
}

func list(runs []blob.Run) string {
	var w []string
	for _, r := range runs {
		if r.Count == 1 {
			w = append(w, fmt.Sprint(r.First))
		} else {
			w = append(w, fmt.Sprintf("%d-%d", r.First, r.End()-1))
		}
	}
	return strings.Join(w, ",")
}

func parseList(s string) (runs []blob.Run) {
	for one := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(one, "-")
		first, _ := strconv.Atoi(from)
		last := first
		if ok {
			last, _ = strconv.Atoi(to)
		}
		runs = append(runs, blob.Run{First: uint32(first), Count: uint32(last - first + 1)})
	}
	return runs
}

func each(runs []blob.Run) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for _, r := range runs {
			for i := r.First; i < r.End(); i++ {
				if !yield(i) {
					return
				}
			}
		}
	}
}

// check verifies every invariant of a swarm.
func check(s *swarm) error {
	counts := make([]int, s.pieces)
	seeds := 0
	for _, m := range s.members {
		if s.byID[m.id] != m || s.members[m.slot] != m {
			return fmt.Errorf("member %q is not where it says", m.id)
		}
	}
	if len(s.byID) != len(s.members) || len(s.nodes) != len(s.members) {
		return fmt.Errorf("%d members by id, %d in the list; %d nodes", len(s.byID), len(s.members), len(s.nodes))
	}
	leases := map[uint32]*lease{}
	for _, n := range s.nodes {
		if s.byID[n.member.id] != n.member || n.member.plan != n {
			return fmt.Errorf("node %q is not a member", n.member.id)
		}
		if n.member.seed {
			seeds++
			if n.had != s.pieces || len(n.have) != 0 {
				return fmt.Errorf("seed %q has %d pieces", n.member.id, n.had)
			}
		}
		had := uint32(0)
		for i := range s.pieces {
			if n.have.has(i) {
				counts[i]++
				had++
			}
		}
		if !n.member.seed && had != n.had {
			return fmt.Errorf("node %q has %d pieces, counted %d", n.member.id, had, n.had)
		}
		for i, l := range n.leases {
			if leases[i] != nil {
				return fmt.Errorf("piece %d is leased twice", i)
			}
			if leases[i] = l; l.piece != i || l.holder != n || s.leases[i] != l {
				return fmt.Errorf("lease of piece %d is not the swarm's", i)
			}
			if n.has(i) {
				return fmt.Errorf("piece %d is leased to %q, which has it", i, n.member.id)
			}
		}
	}
	if seeds != s.seeds || !maps.Equal(leases, s.leases) {
		return fmt.Errorf("%d seeds, counted %d; %d leases of nodes, %d of the swarm", seeds, s.seeds, len(leases), len(s.leases))
	}
	for i := range s.pieces {
		l := s.leases[i]
		if int(s.available.at(i)) != counts[i] {
			return fmt.Errorf("piece %d is had by %d, counted %d", i, counts[i], s.available.at(i))
		}
		has, leased := s.abroadHas(i)
		if want := counts[i] > 0 || has || leased || s.disputed[i] || l != nil && !l.stale; s.taken.has(i) != want {
			return fmt.Errorf("piece %d: taken %v, should be %v", i, s.taken.has(i), want)
		}
		if s.leased.has(i) != (leased || l != nil && !l.stale) {
			return fmt.Errorf("piece %d: leased %v", i, s.leased.has(i))
		}
		if _, ok := s.roots[i]; ok && s.disputed[i] {
			return fmt.Errorf("piece %d is disputed and has a root", i)
		}
		if s.disputed[i] && l != nil {
			return fmt.Errorf("disputed piece %d is leased", i)
		}
	}
	return nil
}
