package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/pace"
	"github.com/pantala/pantala/relay"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/tracker"
)

// live is a blob that somebody uses: its cache entry and everything that works for it. All mounts and shares
// of one blob use the same one.
type live struct {
	id   blob.ID
	meta blockio.Meta

	// Guarded by Node.mu.
	refs    int
	closing bool

	ready  chan struct{} // closed when what follows is set
	closed chan struct{} // closed when all of it is closed again

	// Constant after ready.
	err      error
	store    *blockio.Blob
	fetch    *fetch.Blob
	fill     fetch.Fill
	patience patience
	strict   bool
	tenant   string
	rate     int64     // bytes per second, in each direction; 0: no limit of its own
	upload   pace.Path // what its uploads ask along
	trackers []string
	named    int             // how many of trackers the user named; the others came with the source
	ctx      context.Context // ends when the blob is closed
	cancel   context.CancelFunc
	alone    bool  // nobody can ever ask for it again
	before   int64 // bytes that were here when it was opened
	opened   int64 // bytes that opening the origin brought along and that were absent
	work     sync.WaitGroup
	digest   atomic.Pointer[blob.Hash]  // of all bytes, once computed or vouched for
	fetching atomic.Pointer[fetch.Blob] // fetch, as soon as it is there

	torrent   *metainfo.MetaInfo // of a torrent; nil for a blob. It has no store and no fetch of its own, but parts
	parts     []*live            // see partsOf; each is held
	sources   *sources           // of a part: the swarms of the torrents it is in
	canonical atomic.Bool        // it is announced under its infohash, see canonize
	brought   atomic.Int64       // bytes that web seeds sent along with what was asked of them
	leave     []func()           // what close calls before it gives the parts back

	index  indexTalk
	swarms struct {
		sync.Mutex
		list []joined // guarded by it
	}
}

// joined are the swarms that the blob is in, in the order in which it joined them.
func (l *live) joined() []joined {
	l.swarms.Lock()
	defer l.swarms.Unlock()
	return slices.Clone(l.swarms.list)
}

// joined is a blob's part in one swarm.
type joined struct {
	torrent *swarm.Torrent
	session *tracker.Session // nil: no tracker
	stop    func()           // ends what looks for peers beside trackers
	others  []*tracker.Session
}

// wanted says how a blob is to be opened.
type wanted struct {
	fill     fetch.Fill
	patience patience
	strict   bool
	trackers []string
	named    int    // how many of trackers came not with the source
	source   string // as the user wrote it, to ask the origin again
	options  control.Options
	imported func() (*blockio.Blob, error) // opens the store's part; nil: Store.Open
	limits   *fetch.Limits                 // of the torrent that it is a part of; nil: what options say
	// importPart is imported for the i-th part of a torrent.
	importPart func(i int, f found) (*blockio.Blob, error)
}

// want reads the options of a request.
func (n *Node) want(source string, o control.Options, f found) (w wanted, err error) {
	w = wanted{patience: n.patienceOf(o), strict: o.Strict || n.cfg.Strict, trackers: n.trackersOf(o, f), source: source, options: o}
	w.named = len(n.trackersOf(o, found{}))
	w.fill, err = n.fillOf(o)
	return w, err
}

// hold returns the live blob of f, which it opens when nobody else has. The caller ends with release.
// The strings are warnings: where the blob is open already with other options.
func (n *Node) hold(ctx context.Context, f found, w wanted) (*live, []string, error) {
	for {
		n.mu.Lock()
		if n.closing {
			n.mu.Unlock()
			return nil, nil, fmt.Errorf("%w: the node is being stopped", blob.ErrClosed)
		}
		l := n.live[f.id]
		switch {
		case l == nil:
			l = &live{id: f.id, meta: f.meta, refs: 1, ready: make(chan struct{}), closed: make(chan struct{})}
			n.live[f.id] = l
			n.mu.Unlock()
			l.err = n.open(l, f, w)
			close(l.ready)
			if l.err != nil {
				n.release(l)
				return nil, nil, l.err
			}
			return l, nil, nil
		case l.closing:
			n.mu.Unlock()
			select {
			case <-l.closed:
			case <-ctx.Done():
				return nil, nil, context.Cause(ctx)
			}
		default:
			l.refs++
			n.mu.Unlock()
			select {
			case <-l.ready:
			case <-ctx.Done():
				n.release(l)
				return nil, nil, context.Cause(ctx)
			}
			if l.err != nil {
				n.release(l)
				return nil, nil, l.err
			}
			if f.part {
				return l, nil, nil
			}
			warnings, err := l.compare(w)
			if err != nil {
				n.release(l)
				return nil, nil, err
			}
			return l, warnings, nil
		}
	}
}

// compare says in what a blob that is open already differs from what is wanted now.
func (l *live) compare(w wanted) (warnings []string, err error) {
	if w.strict && !l.strict {
		return nil, fmt.Errorf("%w: the blob is already in use without --strict: unmount it there first", blob.ErrInvalid)
	}
	other := func(what string) {
		warnings = append(warnings, "the blob is already in use with another "+what+", which stays as it is")
	}
	if w.fill != l.fill && !l.complete() {
		other("--fill")
	}
	if w.patience != l.patience {
		other("--timeout or --hard")
	}
	if w.options.Tenant != l.tenant || w.options.LimitRate != l.rate {
		other("--tenant or --limit-rate")
	}
	if !slices.Equal(w.trackers, l.trackers) {
		other("--tracker")
	}
	return warnings, nil
}

// open builds the parts of a blob in order: store, swarm, tracker, fetch. After an error the parts that were
// built are closed by release.
func (n *Node) open(l *live, f found, w wanted) error {
	l.fill, l.patience, l.strict, l.trackers, l.named = w.fill, w.patience, w.strict, w.trackers, w.named
	l.ctx, l.cancel = context.WithCancel(n.ctx)
	l.alone = f.alone
	if f.torrent != nil {
		return n.openTorrent(l, f, w)
	}
	var err error
	if w.imported != nil {
		l.store, err = w.imported()
	} else {
		l.store, err = n.store.Open(f.id, f.geometry, f.meta)
	}
	if err != nil {
		return control.Local(fmt.Errorf("cache: %w", err))
	}
	for p, h := range f.layers {
		if err := l.store.SetRoot(uint32(p), h, blob.Pinned); err != nil {
			return fmt.Errorf("piece layer: %w", err)
		}
	}
	l.before = l.store.Present()
	switch {
	case f.streamed != "":
		err = adopt(l.store, f.streamed)
	case f.object != nil:
		if err = putFirst(l.store, f.object.First()); errors.Is(err, blob.ErrNoSpace) {
			n.log.Warn("the cache has no space: bytes are delivered but not kept", "err", err)
			err = nil
		}
	}
	if err != nil {
		return err
	}
	if w.imported != nil {
		if !f.digest.IsZero() {
			l.digest.Store(&f.digest) // computed from these very bytes
		}
	} else {
		l.opened = l.store.Present() - l.before
		if sum, ok := (digests{digestsDir(n.cfg.State)}).get(l.store); ok {
			l.digest.Store(&sum)
		}
	}
	// The swarm and the tracker call wake before fetch is there.
	wake := func() {
		if b := l.fetching.Load(); b != nil {
			b.Wake()
		}
	}
	if w.limits == nil {
		if err := n.limit(l, &w); err != nil {
			return err
		}
	}
	c := fetch.Config{Limits: *w.limits, Store: l.store, Fill: w.fill}
	var session *tracker.Session
	switch {
	case f.part:
		l.sources = new(sources)
		c.Peers = l.sources
	case !f.alone:
		peers := new(sources)
		for i, k := range f.swarmKeys() {
			j, err := n.join(l, k, wake)
			if err != nil {
				return err
			}
			j.torrent.AddPeers(f.peers...)
			peers.add(j.torrent)
			if c.Peers = peers; i == 0 {
				c.Peers, session = j.torrent, j.session
			}
		}
	}
	switch {
	case f.object != nil:
		c.Origin = f.object
	case f.seed != nil:
		c.Origin = f.seed(l)
	case f.revive && !l.store.Complete():
		late := new(lateOrigin)
		c.Origin = late
		l.work.Go(func() { n.revive(l.ctx, late, f.id, w.source, w.options, wake) })
	}
	if session != nil && c.Origin != nil {
		session.SetOrigin(true)
		c.Plan = l.plan(session, wake)
	}
	e, err := n.engine(w.patience)
	if err != nil {
		return err
	}
	l.fetch = e.Open(c)
	l.fetching.Store(l.fetch)
	l.fetch.Wake()
	return nil
}

// limit makes the limits that the request asks for: of a blob, or of all parts of a torrent together.
func (n *Node) limit(l *live, w *wanted) error {
	upload, down, err := n.limits.of(w.options.Tenant, w.options.LimitRate)
	l.tenant, l.rate, l.upload, w.limits = w.options.Tenant, w.options.LimitRate, upload, &down
	return err
}

// join makes the blob known to peers and trackers of one more swarm.
func (n *Node) join(l *live, k swarmKey, wake func()) (joined, error) {
	var session atomic.Pointer[tracker.Session] // the swarm is there before it
	c := swarm.Config{
		Keys: [][20]byte{k.key}, Name: k.name, Root: k.root, Store: l.store, Upload: l.upload, Info: k.info,
		OnComplaints: func(list []relay.Complaint) {
			n.logComplaints(l.id.String(), list)
			if s := session.Load(); s != nil {
				s.Complain(list)
			}
		},
	}
	if len(l.trackers) > 0 && !k.plain {
		c.AwaitPlan = planWait
	}
	if l.fill != fetch.FillNever {
		c.OnWanted = func(r blob.Run) {
			if b := l.fetching.Load(); b != nil {
				b.Wanted(r)
			}
		}
	}
	if l.id.Kind == blob.ByDigest {
		l.index.join(&c)
	}
	t, err := n.swarm.Add(c)
	if err != nil {
		return joined{}, fmt.Errorf("swarm: %w", err)
	}
	t.Changed(wake)
	j := joined{torrent: t, stop: n.seek(l, t, [][20]byte{k.key}, false)}
	if len(l.trackers) > 0 {
		addr := n.swarm.Addr()
		o := tracker.SessionOptions{
			Trackers: l.trackers[:l.named], Others: l.trackers[l.named:], Key: k.key, Plain: k.plain, PeerID: n.swarm.PeerID(), Port: int(addr.Port()), IP: advertised(addr),
			Geometry: l.store.Geometry(), Log: n.log, Store: l.store, Strict: l.strict,
			OnPeers: func(peers []netip.AddrPort) { t.AddPeers(peers...) },
			OnRoots: func() { t.RootsChanged(); wake() },
			OnPlan:  wake,
			Read: func() int64 {
				if b := l.fetching.Load(); b != nil {
					return b.FromOrigin()
				}
				return 0
			},
			Zone: n.cfg.Zone, Seed: n.cfg.Role == config.Seed, Bulk: l.fill != fetch.FillNever,
			OnAssignment: func(a relay.Assignment) {
				n.logAssignment(l.id.String(), a)
				t.SetAssignment(a)
			},
		}
		j.session = tracker.NewSession(o)
		session.Store(j.session)
		l.work.Go(func() { l.tellUplink(j) })
	}
	l.swarms.Lock()
	l.swarms.list = append(l.swarms.list, j)
	l.swarms.Unlock()
	if l.index.asks() { // it has begun meanwhile; asking twice is asking once
		t.AskIndex()
	}
	return j, nil
}

// uplinkEvery is how often the tracker is told what the uplink carries; a plan is made for seconds.
const uplinkEvery = time.Second

// tellUplink keeps the tracker informed of how fast this node can send, until the blob is closed.
func (l *live) tellUplink(j joined) {
	tick := time.NewTicker(uplinkEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			j.session.SetUplink(j.torrent.Uplink())
		}
	}
}

// advertised is the address that trackers should hand out for us: the one we listen on when it is one, else
// none, and the tracker takes the one it sees.
func advertised(a netip.AddrPort) string {
	if a.Addr().IsUnspecified() || a.Addr().IsLoopback() {
		return ""
	}
	return a.Addr().Unmap().String()
}

// plan is a tracker session as fetch sees it.
type plan struct {
	*tracker.Session
	pending *atomic.Bool // the first answer is still to come
}

var _ fetch.Planner = plan{}

// Shared implements fetch.Planner. As long as the tracker has not said whether others are there, they are:
// otherwise nodes that start together would each read the beginning, and an eager one everything.
func (p plan) Shared() bool { return p.pending.Load() || p.State() == tracker.Shared }

// planWait is how long others are presumed to be there. On one network an answer takes a round trip; a tracker
// that is further away, or dead, must not hold up bulk reads for longer than somebody would notice.
const planWait = 250 * time.Millisecond

// plan turns a session into a Planner and starts the wait for its first answer.
func (l *live) plan(s *tracker.Session, wake func()) plan {
	p := plan{s, new(atomic.Bool)}
	p.pending.Store(true)
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, planWait)
		defer cancel()
		s.First(ctx)
		p.pending.Store(false)
		wake()
	})
	return p
}

// release gives a hold back; the last one closes the blob.
func (n *Node) release(l *live) {
	n.mu.Lock()
	l.refs--
	if l.refs > 0 || l.closing {
		n.mu.Unlock()
		return
	}
	l.closing = true
	n.mu.Unlock()
	n.close(l)
	n.mu.Lock()
	delete(n.live, l.id)
	n.mu.Unlock()
	close(l.closed)
}

// close stops the parts of a blob in the reverse order of open.
func (n *Node) close(l *live) {
	if l.cancel != nil {
		l.cancel()
	}
	l.work.Wait()
	if l.fetch != nil {
		l.fetch.Close()
	}
	for _, j := range slices.Backward(l.joined()) {
		if j.session != nil {
			j.session.Close()
		}
		j.stop()
		for _, s := range j.others {
			s.Close()
		}
		j.torrent.Close()
	}
	for _, f := range l.leave {
		f()
	}
	for _, p := range l.parts {
		n.release(p)
	}
	if l.store == nil {
		return
	}
	err := l.store.Close()
	info, ok := n.store.Lookup(l.id)
	if l.alone && ok && !info.Open {
		err = errors.Join(err, n.store.Remove(l.id))
	}
	if err != nil {
		n.log.Warn("closing a cached blob", "blob", l.id, "err", err)
	}
}
