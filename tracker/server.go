package tracker

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
)

// ServerOptions configures a Server; the zero value is good.
type ServerOptions struct {
	Interval         time.Duration // between announces of BEP 3 clients; default 30 s, at least 1 s
	LeaseFor         time.Duration // how long an origin lease lasts without progress; default 2 s
	Log              *slog.Logger  // nil: discard
	MaxPeersPerReply int           // default 50 (what BEP 3 clients ask for when they ask for nothing)
	MaxConns         int           // of HTTP, for each Serve; default 8192
	State            *StateURL     // where trackers share what they know; nil: nowhere, all is in memory
	MaxPeers         int           // that do not plan, of all swarms; more are refused. Default 2 Mi, 150 B each
	// Merge makes one profile of an image of up to 16 that nodes have recorded, and returns nil when it can read none;
	// nil: the last one counts. It is called by several goroutines at a time.
	Merge func(profiles [][]byte) []byte
}

// maxSwarms bounds how many swarms nodes may plan in: an empty one is about 1 KiB.
const maxSwarms = 1 << 18

// Server is the tracker: an [http.Handler] that answers /announce and /scrape (BEP 3, 7, 23, 48), /plan (see
// plan.go), /records (see shelfwire.go), /stats (JSON) and /healthz, under any prefix. It is safe for concurrent use.
type Server struct {
	rules
	log     *slog.Logger
	began   time.Time
	closing chan struct{}
	// makePlanner makes the planner of a swarm; nil: none plans.
	makePlanner func(blob.Geometry) planner
	janitor     sync.WaitGroup
	commons     *commons // nil: no state is shared
	blocked     atomic.Pointer[Blocklist]

	announces, plans, refused atomic.Int64

	maxConns int
	plain    *plainStore // peers that do not plan
	shelf    *shelf      // what is known of images
	meter    *meter      // of those who ask for it
	epoch    int64       // of the shelf
	merge    func([][]byte) []byte
	connKey  [16]byte // of connection ids (UDP)

	mu     sync.RWMutex // guards rooms; taken before a room's mu, held only to find or drop a room
	rooms  map[key]*room
	closed bool
}

// room is one swarm and those who wait in it.
type room struct {
	mu      sync.Mutex // guards everything below; never held over I/O
	swarm   *swarm
	waiting map[*node]*waiter
	heat    func() // the swarm has something for the shared state; nil: none is shared
	gone    bool   // was dropped from the server: look again
}

// waiter is one long poll. The channels have room for one.
type waiter struct {
	hard, soft chan struct{}
}

// NewServer returns a server and starts its janitor, which Close ends.
func NewServer(o ServerOptions) *Server {
	if o.MaxConns <= 0 {
		o.MaxConns = defaultMaxConns
	}
	if o.MaxPeers <= 0 {
		o.MaxPeers = defaultMaxPeers
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		rules: o.rules(),
		log:   o.Log, began: time.Now(), closing: make(chan struct{}), maxConns: o.MaxConns, connKey: newConnKey(), rooms: map[key]*room{},
		makePlanner: newPlanner,
	}
	if s.merge = o.Merge; s.merge == nil {
		s.merge = func(all [][]byte) []byte { return all[len(all)-1] }
	}
	s.shelf, s.meter, s.epoch = newShelf(), newMeter(), newEpoch()
	s.plain = newPlainStore(s.began, 2*s.interval, o.MaxPeers)
	if o.State != nil {
		s.commons = newCommons(s, o.State)
	}
	s.janitor.Go(s.clean)
	return s
}

// rules are those of o, with defaults.
func (o *ServerOptions) rules() rules {
	r := rules{o.Interval, o.LeaseFor, o.MaxPeersPerReply}
	if r.interval == 0 {
		r.interval = 30 * time.Second
	}
	if r.interval = max(r.interval, time.Second); r.leaseFor <= 0 {
		r.leaseFor = 2 * time.Second
	}
	if r.maxPeers <= 0 {
		r.maxPeers = 50
	}
	return r
}

// Close answers all held polls, refuses everything that comes later and waits for the janitor. The HTTP server
// around it is its owner's to stop.
func (s *Server) Close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if !closed {
		close(s.closing)
	}
	s.janitor.Wait()
	if s.commons != nil {
		s.commons.close()
	}
}

// every is how often the clock of a swarm is run. Eight times per lease is fine enough: a stalled lease moves after at
// most 1.125 × leaseFor. The planners want to be asked four times a second.
func (r *rules) every() time.Duration { return min(r.leaseFor/8, 250*time.Millisecond) }

// clean runs the clock of all swarms.
func (s *Server) clean() {
	tick := time.NewTicker(s.every())
	defer tick.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-tick.C:
		}
		s.plain.sweep(time.Now())
		s.shelf.sweep(time.Now())
		s.meter.sweep(time.Now())
		s.mu.RLock()
		rooms := maps.Clone(s.rooms)
		s.mu.RUnlock()
		for k, r := range rooms {
			if r.tick(time.Now(), 2*s.interval) {
				s.mu.Lock()
				delete(s.rooms, k)
				s.mu.Unlock()
				if s.commons != nil {
					s.commons.forget(k)
				}
			}
		}
	}
}

// tick runs the clock of one swarm and reports whether the room is to be dropped: empty for keep.
func (r *room) tick(now time.Time, keep time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.swarm.nodes) > 0 {
		r.swarm.tick(now)
		r.wake()
	}
	r.gone = len(r.swarm.members) == 0 && now.Sub(r.swarm.emptied) > keep
	return r.gone
}

// wake lets the polls go that have something to tell. Needs mu.
func (r *room) wake() {
	if a := r.swarm.abroad; a != nil && len(a.asked)+len(a.ended) > 0 {
		r.heat()
	}
	for _, n := range r.swarm.drain() {
		w := r.waiting[n]
		if w == nil {
			continue
		}
		hard, soft := r.swarm.news(n)
		if hard {
			signal(w.hard)
		} else if soft {
			signal(w.soft)
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// room returns the room of a swarm, locked; nil when there is none and it is not to be made, or no space.
func (s *Server) room(k key, create bool) *room {
	for {
		s.mu.RLock()
		r := s.rooms[k]
		s.mu.RUnlock()
		if r == nil && create {
			r = s.makeRoom(k)
		}
		if r == nil {
			return nil
		}
		r.mu.Lock()
		if !r.gone {
			return r
		}
		r.mu.Unlock()
	}
}

// makeRoom returns the room of a swarm, which it makes when there is none; nil when there is no space.
func (s *Server) makeRoom(k key) *room {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[k]
	if r == nil && len(s.rooms) < maxSwarms {
		r = newRoom(s.rules, newEpoch(), time.Now())
		r.swarm.makePlanner = s.makePlanner
		r.swarm.outside = func(limit int) []stranger { return s.plain.sample(&k, limit) }
		if s.commons != nil {
			r.swarm.abroad = newAbroad()
			r.heat = func() { s.commons.heat(k) }
		}
		s.rooms[k] = r
	}
	return r
}

// newRoom is the room of one swarm, which no planner plans yet.
func newRoom(r rules, epoch int64, now time.Time) *room {
	return &room{swarm: newSwarm(r, epoch, now), waiting: map[*node]*waiter{}}
}

// newEpoch is a random positive number.
func newEpoch() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:])>>1) | 1
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.closing:
		refuse(w, http.StatusServiceUnavailable, "the tracker is being stopped")
		return
	default:
	}
	switch path.Base(r.URL.Path) {
	case "announce":
		s.serveAnnounce(w, r)
	case "scrape":
		s.serveScrape(w, r)
	case "plan":
		s.servePlan(w, r)
	case "records":
		s.serveRecords(w, r)
	case "stats":
		s.serveStats(w)
	case "healthz":
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "ok\n")
	default:
		http.NotFound(w, r)
	}
}

// send writes a bencoded reply with its length, so that it leaves in one write.
func send(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = []string{"text/plain"} // BEP 3
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body)
}

func refuse(w http.ResponseWriter, status int, reason string) {
	send(w, status, appendFailure(nil, reason))
}
