package tracker

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// Store is what a Session needs of the local blob. Its methods are safe for concurrent use and do not block for
// long.
type Store interface {
	// Pieces is a bitmap of the complete pieces: word i, bit j is piece i*64+j.
	Pieces() []uint64
	PieceComplete(piece uint32) bool
	// OnPiece calls f whenever a piece becomes complete, until cancel is called. Its root is known by then
	// when it ever will be.
	OnPiece(f func(piece uint32)) (cancel func())
	// Root is the root of a piece, with Unknown when there is none.
	Root(piece uint32) (blob.Hash, blob.Trust)
	// Roots yields the roots that are trusted min or higher.
	Roots(min blob.Trust) iter.Seq2[uint32, blob.Hash]
	// SetRoot keeps a root; ErrCorrupt when it contradicts one of equal or higher trust.
	SetRoot(piece uint32, root blob.Hash, t blob.Trust) error
	// DropClaim forgets what was Claimed about a piece.
	DropClaim(piece uint32)
}

// State says how far the tracker can be counted on.
type State int32

const (
	// None: there is no scheduler: no tracker is configured, or only ones that do not plan (BEP 3 alone).
	None State = iota
	// Dead: the last exchange failed, or none has succeeded yet.
	Dead
	// Solo: nobody else is in this swarm. Read from the origin what you like.
	Solo
	// Shared: others are here too. Read from the origin what is Mine.
	Shared
)

// String is the word used in status and logs.
func (s State) String() string {
	return [...]string{"none", "dead", "solo", "shared"}[min(max(s, None), Shared)]
}

// SessionOptions configures a Session. Key, PeerID, Geometry and Store are required.
type SessionOptions struct {
	// Trackers are announce URLs ("http://host:port/announce"; a bare "http://host:port" gets /announce; udp://host:port is asked for peers only), or
	// srv:NAME for those that DNS names. One is used at a time: see directory.go.
	Trackers []string
	Others   []string  // trackers to use when none of Trackers answers
	Lookup   LookupSRV // nil: the system's resolver
	Key      [20]byte  // of the swarm: see [blob.ID.Key]
	PeerID   [20]byte
	Port     int    // of our peer wire; 0: cannot be reached
	IP       string // where others reach us; "": the address that the tracker sees
	Geometry blob.Geometry
	Log      *slog.Logger // nil: discard
	Client   *http.Client // nil: an own one that keeps connections alive
	Store    Store
	Zone     string // where this node stands: see ParseZone; one that is malformed is not told
	Seed     bool   // prefer to read from the origin for others
	Bulk     bool   // as if SetBulk were called
	Origin   bool   // as if SetOrigin were called
	// Impatient: ask again soon as long as a plain tracker knows nobody, because somebody waits for the first peer.
	Impatient bool
	Plain     bool // speak BEP 3 only, also with trackers that plan
	Strict    bool // do not accept Claimed roots; every piece is read from the origin, and is Mine

	// Read is how many bytes this node has read of the blob from its origin; nil: not known. It is called often, under a
	// lock, and must not block. While it grows, leases live though no piece becomes complete.
	Read func() int64

	// Called one at a time from the session's goroutine; nil: not called. They must not call Close.
	OnPeers func([]netip.AddrPort) // peers that were not told before
	OnRoots func()                 // Store has got roots, or lost some
	OnPlan  func()                 // State, Mine or Held may have changed
	// OnAssignment gets this node's place in the relay trees whenever it is another. OnPeers has got the addresses
	// of the parents before. While no tracker answers, the last place stays.
	OnAssignment func(relay.Assignment)
}

// Timing of a session; each bound is a compromise between latency and exchanges per second.
const (
	pollWait      = 10 * time.Second       // how long the tracker may hold a poll
	exchangeLimit = 3 * time.Second        // for an exchange, beyond the wait
	dialLimit     = time.Second            // for a connection
	answerAfter   = 2 * time.Millisecond   // from the end of solo to the wish, at least: a pass of fetch takes less
	answerWithin  = 10 * time.Millisecond  // … and at most: the tracker waits for 30 ms
	wishDelay     = 15 * time.Millisecond  // between wishes that nobody is blocked on
	urgentGap     = 2 * time.Millisecond   // between urgent wishes: ≤ 500 exchanges/s, 7 % of a core
	reportGap     = 5 * time.Millisecond   // between reports of pieces; the first of a burst goes at once
	firstRetry    = 100 * time.Millisecond // backoff after all trackers failed …
	lastRetry     = 5 * time.Second        // … and where it stops growing
	lateGrace     = 100 * time.Millisecond // the last part of it, begun anew when this process may have stood still
	impatience    = 3 * time.Second        // between announces of one who waits for the first peer: 10 in a mount's 30 s
	stopLimit     = time.Second            // for saying goodbye
	lastWord      = 150 * time.Millisecond // how long the word of a tracker that failed counts, until the next one has answered
	orphanFor     = 2 * time.Second        // how long a place in the trees outlives the tracker that gave it, when another one has none
	homeAfter     = 5 * time.Second        // how often a session looks for a tracker that it prefers: it is there again, and the swarm with it, within 10 s
	lateAfter     = 800 * time.Millisecond // after this a tracker that has not answered is counted as dead; if there is another one, that is used
)

// Session speaks with the tracker about one blob: it reports what is here, fetches roots, peers and leases, and
// answers from memory. All methods are safe for concurrent use; none but First and Close blocks.
type Session struct {
	o      SessionOptions
	log    *slog.Logger
	client *http.Client
	own    bool       // client is ours to close
	dir    *directory // owned by the session's goroutine, or by lookHome while that runs
	pieces uint32

	view   atomic.Pointer[view] // what State, Mine and Held answer
	random func(int64) int64    // in [0,n)
	kick   chan struct{}        // the outbox has something
	first  chan struct{}        // closed after the first answer, or after every tracker failed once
	cancel context.CancelFunc
	done   sync.WaitGroup // the session's goroutine
	closed sync.Once

	mu     sync.Mutex // guards what follows; innermost, never held over a call out of here
	out    outbox
	status Status

	// Owned by the session's goroutine.
	epoch, gen, agreed int64 // of the last reply; agreed is its end of the claim log
	seq                int64
	tree               int64           // number of the assignment; 0: this tracker has given none
	planned            bool            // the last assignment is one
	orphan             time.Time       // when an assignment of another tracker ends
	followed           bool            // there were others when this tracker was new: they will come, too
	dropped            map[uint32]bool // disputed pieces that have been dropped
	retell             []uint32        // pieces whose root contradicts the tracker's
	backlog            []*planRequest  // the rest of a full report
	links              [2]udpLink      // to the UDP tracker in use, over IPv4 and IPv6
	secret             uint32          // proves to trackers that we are who we were when our address changes
}

// view is an immutable answer to State, Mine and Held.
type view struct {
	state      State
	mine, held []blob.Run // sorted
	ttl, pace  time.Duration
}

// outbox collects what is to be sent.
type outbox struct {
	live bool // a tracker knows us: keep what happens. Else a full report will say it all
	wish
	about
	blame    []relay.Complaint
	hurry    bool // somebody is blocked on, or reads, a piece that the tracker does not know of
	changed  bool // the wish is not what was sent
	complete []uint32

	// At the end of solo the tracker asks for the wish. fetch, woken by OnPlan, may be in the middle of a pass
	// that still starts reads as it liked: so the answer is what the wish is answerAfter the end of solo, if fetch
	// has spoken by then, else the next wish, and after answerWithin whatever there is.
	alone  time.Time // when the end of solo was heard
	answer time.Time // when to answer; zero: there is nothing to answer
}

// Status is what there is to know about a session.
type Status struct {
	URL       string    `json:"url"` // of the tracker in use, or tried last
	State     string    `json:"state"`
	Nodes     int       `json:"nodes"` // live nodes that plan, this one included
	Peers     int       `json:"peers"` // addresses told so far
	Leases    int       `json:"leases"`
	Exchanges int64     `json:"exchanges"` // that succeeded
	LastReply time.Time `json:"last_reply"`
	LastError string    `json:"last_error,omitempty"`
	Zone      string    `json:"zone,omitempty"`
	Alone     bool      `json:"alone,omitempty"` // the tracker shares its state with others, and cannot reach it
	Tree      *Tree     `json:"tree,omitempty"`  // nil: there is no plan
}

// Tree is this node's place in the relay trees, for people.
type Tree struct {
	Head    []int              `json:"head"`    // stripes that this node reads from the source
	Parents [][]netip.AddrPort `json:"parents"` // of each stripe, best first
}

// NewSession starts a session; Close ends it.
func NewSession(o SessionOptions) *Session {
	// A restarted process that keeps its peer id goes on above what the tracker has seen.
	s := newSession(o, time.Now().UnixMicro(), rand.Int64N)
	if s.dir.empty() {
		close(s.first)
		return s
	}
	if s.client == nil {
		s.own = true
		s.client = newClient()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.done.Go(func() { s.run(ctx) })
	return s
}

// newClient is a client that keeps connections to trackers.
func newClient() *http.Client {
	dialer := net.Dialer{Timeout: dialLimit}
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: 2 * dialLimit,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, DisableCompression: true, ForceAttemptHTTP2: true,
	}}
}

// newSession is a session that does nothing yet. seq is where its sequence numbers begin.
func newSession(o SessionOptions, seq int64, random func(int64) int64) *Session {
	s := &Session{
		o: o, log: o.Log, client: o.Client, pieces: o.Geometry.Pieces(),
		random: random, kick: make(chan struct{}, 1), first: make(chan struct{}), cancel: func() {},
		seq: seq, dropped: map[uint32]bool{},
		secret: rand.Uint32() | 1,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.out.about = about{bulk: o.Bulk, origin: o.Origin, prefer: o.Seed}
	var err error
	if s.out.zone, err = ParseZone(o.Zone); err != nil {
		s.log.Warn("zone is not told", "err", err)
	}
	s.status.Zone = s.out.zone
	var bad error
	if s.dir, bad = newDirectory(o.Key, o.Trackers, o.Others, o.Lookup, s.log); s.dir.empty() {
		if bad != nil {
			s.status.LastError = bad.Error()
		}
		s.view.Store(&view{state: None})
		return s
	}
	s.view.Store(&view{state: Dead})
	if list := s.dir.order(); len(list) > 0 {
		s.status.URL = list[0].shown
	}
	return s
}

// First waits until the first plan has come, or until every tracker of the list has failed once. It returns an
// error only when ctx ends first: what to do is State's to say.
func (s *Session) First(ctx context.Context) error {
	select {
	case <-s.first:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// State says how far the tracker can be counted on. Lock-free.
func (s *Session) State() State { return s.view.Load().state }

// Mine reports whether this node may read a piece from the origin though the swarm is Shared: it holds the
// lease. Lock-free.
func (s *Session) Mine(piece uint32) bool {
	v := s.view.Load()
	return v.state >= Solo && (s.o.Strict || within(v.mine, piece))
}

// Held reports whether another node holds the lease of a piece that is in this node's wish, or is to pass it on to
// this one. Neither Mine nor Held: the tracker has not answered yet, or some node has the piece, or nobody has asked for it. Lock-free.
func (s *Session) Held(piece uint32) bool {
	v := s.view.Load()
	return v.state == Shared && !s.o.Strict && within(v.held, piece)
}

// within reports whether sorted runs contain piece i.
func within(sorted []blob.Run, i uint32) bool {
	at, found := slices.BinarySearchFunc(sorted, i, func(r blob.Run, i uint32) int {
		switch {
		case r.Contains(i):
			return 0
		case r.First > i:
			return 1
		}
		return -1
	})
	return found && sorted[at].Contains(i)
}

// Want replaces the wish, as runs of pieces. reading names what this node is reading from the origin now and has
// not completed, with a lease or without: it is leased to this node unless another holds it. urgent names what
// somebody is blocked on, ahead what would be read next, each the most urgent first. A new piece in reading or
// urgent is told at once while others are here; every other change, and every change while the state is Solo,
// travels within 20 ms. At most 256 runs of reading, after adjacent ones are joined, 64 of urgent and 256 of
// ahead are sent. Want does not keep the slices.
func (s *Session) Want(reading, urgent, ahead []blob.Run) {
	v := s.view.Load()
	if v.state == None {
		return
	}
	reading = joined(reading)
	reading = reading[:min(len(reading), maxReading)]
	urgent, ahead = urgent[:min(len(urgent), maxUrgent)], ahead[:min(len(ahead), maxAhead)]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.out
	if !b.answer.IsZero() {
		b.answer = b.alone.Add(answerAfter)
		signal(s.kick)
	}
	sameReading, sameUrgent := slices.Equal(reading, b.reading), slices.Equal(urgent, b.urgent)
	if sameReading && sameUrgent && slices.Equal(ahead, b.ahead) {
		return
	}
	if !b.hurry && v.state != Solo {
		b.hurry = !sameReading && isNews(reading, b.reading, v) || !sameUrgent && isNews(urgent, b.urgent, v)
	}
	b.wish = wish{reading, slices.Clone(urgent), slices.Clone(ahead)}
	if b.changed && !b.hurry {
		return // the goroutine knows
	}
	b.changed = true
	signal(s.kick)
}

// joined returns runs in order, adjacent and overlapping ones as one: transfers are listed piece by piece and
// in no order. It does not keep the slice.
func joined(runs []blob.Run) (list []blob.Run) {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b blob.Run) int { return cmp.Compare(a.First, b.First) })
	for _, r := range sorted {
		if k := len(list) - 1; k >= 0 && r.First <= list[k].End() {
			list[k].Count = max(list[k].End(), r.End()) - list[k].First
		} else if r.Count > 0 {
			list = append(list, r)
		}
	}
	return list
}

// isNews reports whether runs name a piece that was not in before and about which nothing is known.
func isNews(runs, before []blob.Run, v *view) bool {
	for _, r := range runs {
		for i := r.First; i < r.End(); i++ {
			if !inRuns(before, i) && !within(v.mine, i) && !within(v.held, i) {
				return true
			}
		}
	}
	return false
}

// SetBulk says whether this node wants all of the blob, and passes it on to others as it comes.
func (s *Session) SetBulk(on bool) {
	s.describe(func(a *about) { a.bulk = on })
}

// SetOrigin says whether this node can read the blob from an origin.
func (s *Session) SetOrigin(on bool) {
	s.describe(func(a *about) { a.origin = on })
}

// SetUplink says how many bytes per second this node can send; 0: not known. What differs by less than a quarter
// from what was said is not told.
func (s *Session) SetUplink(rate int64) {
	s.describe(func(a *about) {
		if d := rate - a.up; d > a.up/4 || -d > a.up/4 {
			a.up = rate
		}
	})
}

func (s *Session) describe(change func(*about)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.out.about
	if change(&s.out.about); s.out.about != before {
		s.out.changed = true
		signal(s.kick)
	}
}

// Complain tells the tracker at once what is wrong with parents. The newest complaint about a parent and stripe
// counts; beyond 64 the oldest are dropped. While no tracker answers nothing is kept.
func (s *Session) Complain(list []relay.Complaint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.out
	if !b.live {
		return
	}
	for _, c := range list {
		b.blame = slices.DeleteFunc(b.blame, func(o relay.Complaint) bool { return o.Parent == c.Parent && o.Stripe == c.Stripe })
		b.blame = append(b.blame, c)
	}
	b.blame = b.blame[max(0, len(b.blame)-maxBlame):]
	signal(s.kick)
}

// completed is Store's call: a piece has become complete.
func (s *Session) completed(piece uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.out
	if !b.live {
		return
	}
	if len(b.complete) == 0 {
		signal(s.kick)
	}
	b.complete = append(b.complete, piece)
}

// Status returns a snapshot.
func (s *Session) Status() Status {
	v := s.view.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.State = v.state.String()
	for _, r := range v.mine {
		st.Leases += int(r.Count)
	}
	return st
}

// Close tells the tracker that this node leaves, within a second, and waits for the session's goroutines. No
// callback runs after it. The state is Dead from then on (None stays None).
func (s *Session) Close() error {
	s.closed.Do(func() {
		s.cancel()
		s.done.Wait()
		if s.own {
			s.client.CloseIdleConnections()
		}
	})
	return nil
}
