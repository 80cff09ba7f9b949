package swarmtest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// SimConfig describes a swarm and its network. The zero value of a field means what its comment says.
type SimConfig struct {
	Seed  uint64
	Nodes int
	Size  int64 // of the blob; 0: 64 MiB
	Up    int64 // bytes per second of every uplink, the source's too; 0: 40 Mbit/s
	Down  int64 // of every downlink; 0: 1 Gbit/s
	// UpOf and DownOf change that for single nodes; node -1 is the source.
	UpOf, DownOf func(node int) int64
	// KnownUp has the tracker be told what the uplinks can send, as it is when they are configured or were measured.
	KnownUp bool
	// Zones are how many zones there are, each of as many nodes; 0: one.
	Zones int
	// Near and Far are the latencies, one way, inside a zone and between zones; 0: 250 µs and 5 ms.
	Near, Far time.Duration
	// Loss is the share of packets that are lost between zones.
	Loss float64
	// Unfair is by how much the shares that connections get of an uplink differ: 0.5 is 50 % more or less.
	Unfair float64
	// Hiccups is how often a node that is about to send sleeps instead, for half a second at most: its machine is busy.
	Hiccups float64
	// Holes is how often a part that has arrived is lost and asked for again two seconds later only, so that the
	// watermark of the stripe stands still while everything else goes on.
	Holes float64
	// Spread is the time in which the nodes come, evenly; 0: 100 ms.
	Spread time.Duration
	// Origin: the source is no peer but an HTTP origin that only heads read from.
	Origin bool
	// Liars is the share of nodes that send wrong bytes.
	Liars float64
	// Skew gives every node a clock of its own that is up to this much off.
	Skew time.Duration
	// Readers is the share of nodes on which somebody reads single blocks at random meanwhile.
	Readers float64
	// Foreign is how many clients there are beside the nodes that follow no plan, and only take.
	Foreign int
	// Script is what happens when.
	Script []SimStep
	// Limit ends a run that does not; 0: an hour.
	Limit time.Duration
	// Trace, when it is set, is told what the tracker hears and says.
	Trace func(format string, args ...any)
}

// SimStep is something that happens at a time.
type SimStep struct {
	At time.Duration
	Do func(*Sim)
}

// Sim is one run.
type Sim struct {
	SimConfig
	geo     blob.Geometry
	k       int
	now     int64
	agenda  agenda
	rng     *rand.Rand
	source  *node
	nodes   []*node
	byID    map[relay.NodeID]*node
	tracker service
	cut     func(a, b *node) bool // a partition: nothing passes between them
	waiting int                   // nodes alive that lack something
	steps   int                   // of the script, that have not happened
	res     SimResult
}

const (
	second = int64(time.Second)
	// tickEvery is how often a node's picker looks at the clock.
	tickEvery = 50 * int64(time.Millisecond)
	// mss is the payload of a packet in bytes.
	mss = 1448
)

// epoch is when virtual time begins.
var epoch = time.Unix(1_700_000_000, 0)

// New is a run that has not begun.
func NewSim(c SimConfig) *Sim {
	if c.Size == 0 {
		c.Size = 64 << 20
	}
	if c.Up == 0 {
		c.Up = 5_000_000
	}
	if c.Down == 0 {
		c.Down = 125_000_000
	}
	if c.Near == 0 {
		c.Near = 250 * time.Microsecond
	}
	if c.Far == 0 {
		c.Far = 5 * time.Millisecond
	}
	if c.Spread == 0 {
		c.Spread = 100 * time.Millisecond
	}
	if c.Limit == 0 {
		c.Limit = time.Hour
	}
	s := &Sim{
		SimConfig: c, geo: blob.GeometryFor(c.Size), k: relay.DefaultStripes,
		rng: rand.New(rand.NewPCG(c.Seed, 0x9e3779b97f4a7c15)), byID: map[relay.NodeID]*node{},
	}
	s.tracker.start(s)
	s.source = s.newNode(-1)
	s.source.complete()
	if !c.Origin {
		s.come(s.source)
	}
	for i := range c.Nodes {
		s.Join(time.Duration(float64(c.Spread) * float64(i) / float64(max(1, c.Nodes))))
	}
	for i := range c.Foreign {
		n := s.newNode(len(s.nodes))
		s.nodes = append(s.nodes, n)
		n.foreign = true
		s.push(int64(c.Spread)*int64(i)/int64(c.Foreign), event{kind: evTick, who: n.index})
	}
	for i, step := range c.Script {
		s.steps++
		s.push(int64(step.At), event{kind: evScript, arg: int32(i)})
	}
	s.push(s.tracker.every(), event{kind: evTracker})
	return s
}

// Join has one more node come after a while.
func (s *Sim) Join(after time.Duration) {
	n := s.newNode(len(s.nodes))
	s.nodes = append(s.nodes, n)
	n.joins = s.now + int64(after)
	n.liar = s.rng.Float64() < s.Liars
	if s.Skew > 0 {
		n.skew = time.Duration(s.rng.Int64N(int64(2*s.Skew))) - s.Skew
	}
	s.waiting++
	s.push(int64(after), event{kind: evTick, who: n.index})
}

func (s *Sim) newNode(index int) *node {
	n := &node{
		s: s, index: int32(index), alive: true, up: float64(s.Up), down: float64(s.Down),
		have: make([]uint64, (s.geo.Blocks()+63)/64), lack: make([]uint8, s.geo.Pieces()),
		picker: relay.NewPicker(s.geo), lanes: make([]lane, s.k), reading: map[uint32]int{},
	}
	n.local.init(n)
	for i := range n.lack {
		n.lack[i] = uint8(s.geo.PieceBlocks(uint32(i)).Count)
	}
	n.left = s.geo.Blocks()
	binary.BigEndian.PutUint32(n.id[:], uint32(index+1))
	binary.BigEndian.PutUint64(n.id[8:], s.rng.Uint64())
	if s.UpOf != nil {
		n.up = float64(s.UpOf(index))
	}
	if s.DownOf != nil {
		n.down = float64(s.DownOf(index))
	}
	if zones := max(1, s.Zones); index >= 0 {
		n.zone = index % zones
	}
	for k := range n.lanes {
		n.lanes[k].next = s.firstOf(k)
	}
	s.byID[n.id] = n
	return n
}

// push has an event happen after a delay.
func (s *Sim) push(after int64, e event) {
	e.at = s.now + max(0, after)
	s.agenda.push(e)
}

// latency is how long a packet takes one way.
func (s *Sim) latency(a, b *node) int64 {
	if a.zone == b.zone {
		return int64(s.Near)
	}
	return int64(s.Far)
}

// apart reports whether a partition lies between two nodes.
func (s *Sim) apart(a, b *node) bool { return s.cut != nil && s.cut(a, b) }

// tcpRate is what a connection can carry at most, in bytes per second: MSS · 1.22 / (RTT · √loss) (Mathis et al.,
// 1997). 0: there is no such bound.
func (s *Sim) tcpRate(a, b *node) float64 {
	if s.Loss == 0 || a.zone == b.zone {
		return 0
	}
	return mss * 1.22 / (2 * time.Duration(s.latency(a, b)).Seconds() * math.Sqrt(s.Loss))
}

// Run goes on until every node that is alive has everything, and returns what came of it.
func (s *Sim) Run() SimResult {
	for len(s.agenda.events) > 0 && (s.waiting > 0 || s.steps > 0) {
		e := s.agenda.pop()
		s.now = e.at
		if s.now > int64(s.Limit) {
			break
		}
		if s.waits(&e) {
			continue
		}
		s.res.Events++
		s.trace(&e)
		s.apply(&e)
	}
	s.finish()
	return s.res
}

// trace takes an event into the hash of the run.
func (s *Sim) trace(e *event) {
	h := s.res.Trace
	for _, x := range [...]uint64{uint64(e.at), uint64(e.kind), uint64(uint32(e.who)), uint64(uint32(e.arg))} {
		h = (h ^ x) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	s.res.Trace = h
}

func (s *Sim) node(i int32) *node {
	if i < 0 {
		return s.source
	}
	return s.nodes[i]
}

func (s *Sim) apply(e *event) {
	switch e.kind {
	case evSent:
		s.sent(e.conn, e.req)
	case evArrive:
		s.arrive(e.conn, e.req)
	case evKick:
		s.kick(s.node(e.who))
	case evOpen:
		s.opened(e.conn)
	case evClosed:
		s.closed(e.conn)
	case evTick:
		s.tick(s.node(e.who))
	case evSpeak:
		s.speak(s.node(e.who))
	case evAsked:
		s.tracker.take(e.any.(*exchange))
	case evAnswered:
		h := e.any.(*heard)
		s.answered(h.exchange, h.body)
	case evFailed:
		s.answered(e.any.(*exchange), nil)
	case evRing:
		s.tracker.ring(e.any.(*exchange))
	case evHangup:
		s.tracker.hangup(s.node(e.who))
	case evTracker:
		s.tracker.tick()
		s.reform()
		s.push(s.tracker.every(), event{kind: evTracker})
	case evRead:
		s.read(s.node(e.who), e.arg)
	case evChoke:
		s.choke(s.node(e.who))
		s.push(second, event{kind: evChoke, who: e.who})
	case evHole:
		s.hole(s.node(e.who), e.req)
	case evScript:
		s.steps--
		s.Script[e.arg].Do(s)
	}
}

// time is virtual time as the tracker sees it.
func (s *Sim) time() time.Time { return epoch.Add(time.Duration(s.now)) }
