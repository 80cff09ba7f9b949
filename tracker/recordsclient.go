package tracker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// RecordsOptions configure a Records. PeerID is required.
type RecordsOptions struct {
	Trackers []string  // as of SessionOptions; those over UDP keep no records and are passed over
	Lookup   LookupSRV // nil: the system's resolver
	PeerID   [20]byte
	Port     int          // of our peer wire; 0: cannot be reached
	IP       string       // where others reach us; "": the address that the tracker sees
	Log      *slog.Logger // nil: discard
	Client   *http.Client // nil: an own one that keeps connections alive
	// Patience is how long a question waits for answers: somebody waits for a mount. Default 250 ms.
	Patience time.Duration
}

// Timing of records.
const (
	recordsPatience = 250 * time.Millisecond
	recordsExchange = 3 * time.Second       // for one exchange that nobody waits for
	claimEvery      = 5 * time.Minute       // between two times that a tracker is told what we have: it forgets after 30
	claimDelay      = 20 * time.Millisecond // between a claim and its telling: the layers of an image come in a burst
	claimRetry      = 10 * time.Second
	claimPause      = 30 * time.Second // between two times that one is told everything because it has forgotten
	deafFor         = 5 * time.Minute  // how long a tracker is not asked that keeps no records

	maxAsked   = 4    // trackers: each costs an exchange
	maxClaimed = 8192 // layers that one node vouches for: 64 images of 127 layers
)

// Records asks trackers about images, and tells them. Several trackers are asked at the same time, since each may know
// what another does not, and told the same. What they say is a hint from anybody: an index is Claimed, and verified or
// refused by whoever asked. All methods are safe for concurrent use.
type Records struct {
	o      RecordsOptions
	log    *slog.Logger
	client *http.Client
	own    bool // client is ours to close
	ctx    context.Context
	cancel context.CancelFunc
	pause  time.Duration  // claimPause
	work   sync.WaitGroup // the goroutine that tells, and exchanges
	kick   chan struct{}  // there is something to tell
	listed chan struct{}  // closed when the list of trackers has been made

	mu       sync.Mutex // guards what follows; innermost, never held over I/O
	dir      *directory // its list; it is brought up to date by the goroutine, without mu
	trackers []*keeper
	claims   map[blob.Hash]IndexClaim // what we vouch for
	order    []blob.Hash              // of claims, the oldest first
	fresh    []blob.Hash              // to be told soon
	gone     []blob.Hash              // likewise, of what we do not have any more
	closed   bool
}

// keeper is one tracker that may keep records.
type keeper struct {
	endpoint
	epoch   int64         // of its last answer; 0: it has not answered
	owed    bool          // it has to be told everything
	told    time.Time     // when it was
	until   time.Time     // it is not asked before: it failed
	backoff time.Duration // after the next failure
}

// NewRecords starts to keep trackers informed. Close it.
func NewRecords(o RecordsOptions) *Records {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Patience <= 0 {
		o.Patience = recordsPatience
	}
	r := &Records{o: o, log: o.Log, client: o.Client, pause: claimPause, kick: make(chan struct{}, 1), listed: make(chan struct{}), claims: map[blob.Hash]IndexClaim{}}
	if r.client == nil {
		r.client, r.own = newClient(), true
	}
	r.dir, _ = newDirectory(key{}, o.Trackers, nil, o.Lookup, o.Log)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.list()
	if len(r.dir.names) == 0 {
		close(r.listed)
	}
	if !r.dir.empty() {
		r.work.Go(r.tell)
	}
	return r
}

// list takes over the trackers of the directory.
func (r *Records) list() {
	order := r.dir.order()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*keeper
	for _, e := range order {
		if e.announce.Scheme == "udp" || len(all) == maxAsked {
			continue
		}
		i := slices.IndexFunc(r.trackers, func(k *keeper) bool { return k.shown == e.shown })
		if i >= 0 {
			all = append(all, r.trackers[i])
		} else {
			all = append(all, &keeper{endpoint: e, owed: true})
		}
	}
	r.trackers = all
}

// Close takes back what this node has claimed, within a second, and ends all exchanges.
func (r *Records) Close() error {
	r.mu.Lock()
	was := r.closed
	r.closed = true
	r.mu.Unlock()
	if was {
		return nil
	}
	r.cancel()
	r.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	layers := slices.Collect(maps.Keys(r.claims))
	var all sync.WaitGroup
	for _, k := range r.trackers {
		if k.epoch == 0 {
			continue // it knows nothing of us
		}
		all.Go(func() {
			for part := range slices.Chunk(layers, maxLayers) {
				if _, err := r.exchange(ctx, k.endpoint, r.request(recordsRequest{drop: part})); err != nil {
					r.log.Debug("tracker was not told that our indexes are gone; they will expire", "tracker", k.shown, "err", err)
					return
				}
			}
		})
	}
	all.Wait()
	if r.own {
		r.client.CloseIdleConnections()
	}
	return nil
}

// Found is what trackers know about an image.
type Found struct {
	// Indexes are the claims about each layer, the most likely first, up to 4. Try the first one; what turns out to be
	// wrong costs an attempt, no more.
	Indexes map[blob.Hash][]IndexClaim
	Profile []byte // nil: there is none
}

// Ask asks, in one exchange, about the indexes of layers, and about the profile of an image unless image is zero. It
// returns as soon as everything is known, or every tracker that works has answered, or after Patience. ErrUnavailable:
// none has. At most 1024 layers are asked about.
func (r *Records) Ask(ctx context.Context, image blob.Hash, layers ...blob.Hash) (Found, error) {
	f := Found{Indexes: map[blob.Hash][]IndexClaim{}}
	layers = layers[:min(len(layers), maxLayers)]
	t := time.NewTimer(r.o.Patience)
	defer t.Stop()
	select {
	case <-r.listed:
	case <-t.C:
	case <-ctx.Done():
		return f, ctx.Err()
	}
	answers, n := r.askAll(r.request(recordsRequest{ask: layers, image: image, want: !image.IsZero()}))
	err := fmt.Errorf("%w: no tracker that keeps records answers", blob.ErrUnavailable)
	for answered := false; n > 0; n-- {
		select {
		case a := <-answers:
			switch {
			case a.err == nil:
				answered, err = true, nil
				if f.add(a.reply, layers); len(f.Indexes) == len(layers) && (image.IsZero() || f.Profile != nil) {
					return f, nil
				}
			case errors.Is(a.err, errNoRecords):
				answered, err = true, nil
			case !answered:
				err = a.err
			}
		case <-t.C:
			if !answered {
				err = fmt.Errorf("%w: no tracker has answered within %v", blob.ErrUnavailable, r.o.Patience)
			}
			return f, err
		case <-ctx.Done():
			return f, ctx.Err()
		}
	}
	return f, err
}

// add takes in one reply: of what it was asked, nothing else.
func (f *Found) add(reply *recordsReply, asked []blob.Hash) {
	if f.Profile == nil && len(reply.profile) > 0 {
		f.Profile = reply.profile
	}
	for i := range reply.claims {
		c := &reply.claims[i]
		if !slices.Contains(asked, c.layer) {
			continue
		}
		for _, p := range c.peers {
			if p.addr.Port() != 0 {
				c.Peers = append(c.Peers, p.addr)
			}
		}
		all := f.Indexes[c.layer]
		at := slices.IndexFunc(all, func(o IndexClaim) bool { return o.same(&c.IndexClaim) })
		switch {
		case at < 0 && len(all) < maxClaims:
			all = append(all, c.IndexClaim)
		case at < 0:
			continue
		default: // two trackers may count the same hosts
			all[at].Vouchers = max(all[at].Vouchers, c.Vouchers)
			for _, p := range c.Peers {
				if !slices.Contains(all[at].Peers, p) && len(all[at].Peers) < maxClaimPeers {
					all[at].Peers = append(all[at].Peers, p)
				}
			}
		}
		slices.SortStableFunc(all, func(a, b IndexClaim) int { return cmp.Compare(b.Vouchers, a.Vouchers) })
		f.Indexes[c.layer] = all
	}
}

// Index is Ask about one layer.
func (r *Records) Index(ctx context.Context, layer blob.Hash) ([]IndexClaim, error) {
	f, err := r.Ask(ctx, blob.Hash{}, layer)
	return f.Indexes[layer], err
}

// Profile is Ask about the profile of an image alone.
func (r *Records) Profile(ctx context.Context, image blob.Hash) ([]byte, error) {
	f, err := r.Ask(ctx, image)
	return f.Profile, err
}

// ReportProfile gives a profile that was recorded here to all trackers. It waits for them; an error is the last one, of
// which there is none if any tracker took it.
func (r *Records) ReportProfile(ctx context.Context, image blob.Hash, profile []byte) error {
	if len(profile) == 0 || len(profile) > maxProfile || image.IsZero() {
		return fmt.Errorf("%w: profile of %d bytes: it has 1 to %d, and an image", blob.ErrInvalid, len(profile), maxProfile)
	}
	answers, n := r.askAll(r.request(recordsRequest{image: image, report: profile}))
	err := fmt.Errorf("%w: no tracker that keeps records answers", blob.ErrUnavailable)
	for took := false; n > 0; n-- {
		select {
		case a := <-answers:
			if took = took || a.err == nil; took {
				err = nil
			} else {
				err = a.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// ClaimIndex vouches for the index of a layer, now and for as long as it is not taken back. It does not wait: trackers
// are told soon, and again when they have forgotten. Beyond 8192 layers the oldest are no longer vouched for.
func (r *Records) ClaimIndex(layer blob.Hash, c IndexClaim) error {
	if err := c.check(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.claims[layer]; ok {
		if old.same(&c) && old.Trust == c.Trust {
			return nil
		}
	} else if r.order = append(r.order, layer); len(r.order) > maxClaimed {
		delete(r.claims, r.order[0])
		r.order = r.order[1:]
	}
	r.claims[layer] = IndexClaim{Root: c.Root, Digest: c.Digest, Size: c.Size, Trust: c.Trust}
	r.fresh = append(r.fresh, layer)
	r.gone = slices.DeleteFunc(r.gone, func(o blob.Hash) bool { return o == layer })
	signal(r.kick)
	return nil
}

// DropIndex takes back what ClaimIndex said: the index is not here any more.
func (r *Records) DropIndex(layer blob.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.claims[layer]; !ok {
		return
	}
	delete(r.claims, layer)
	is := func(o blob.Hash) bool { return o == layer }
	r.order, r.fresh = slices.DeleteFunc(r.order, is), slices.DeleteFunc(r.fresh, is)
	if r.gone = append(r.gone, layer); len(r.gone) > maxClaimed {
		r.gone = r.gone[1:] // it expires
	}
	signal(r.kick)
}

// request fills in who asks.
func (r *Records) request(q recordsRequest) *recordsRequest {
	q.peer, q.port, q.ip = r.o.PeerID, uint16(r.o.Port), r.o.IP
	return &q
}

// recordsAnswer is what came of one exchange.
type recordsAnswer struct {
	reply *recordsReply
	err   error
}

// askAll sends a request to all trackers that seem to work; n answers will come.
func (r *Records) askAll(q *recordsRequest) (answers <-chan recordsAnswer, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	all := make(chan recordsAnswer, len(r.trackers))
	if r.closed {
		return all, 0
	}
	for _, k := range r.trackers {
		if now.Before(k.until) {
			continue
		}
		n++
		// It goes on when who asked waits no longer: it finds out whether the tracker works.
		r.work.Go(func() {
			reply, err := r.exchange(r.ctx, k.endpoint, q)
			r.heard(k, reply, err)
			all <- recordsAnswer{reply, err}
		})
	}
	return all, n
}

// errNoRecords: the tracker is of an older release, or not ours.
var errNoRecords = fmt.Errorf("%w: tracker keeps no records", blob.ErrNotFound)

// heard notes how a tracker answers.
func (r *Records) heard(k *keeper, reply *recordsReply, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil:
		if k.epoch == 0 || len(r.claims) == 0 {
			k.epoch = reply.epoch
		}
		// It has forgotten; unless several trackers that share what they know answer under one name.
		if k.epoch != reply.epoch && now.Sub(k.told) > r.pause {
			k.epoch, k.owed = reply.epoch, true
			signal(r.kick)
		}
		k.until, k.backoff = time.Time{}, 0
	case errors.Is(err, errNoRecords):
		k.until = now.Add(deafFor)
	case r.ctx.Err() == nil:
		k.backoff = min(max(2*k.backoff, firstRetry), lastRetry)
		k.until = now.Add(k.backoff)
		r.log.Debug("tracker does not answer about images", "tracker", k.shown, "err", err)
	}
}

// exchange sends one request and reads the reply.
func (r *Records) exchange(ctx context.Context, e endpoint, q *recordsRequest) (*recordsReply, error) {
	ctx, cancel := context.WithTimeout(ctx, recordsExchange)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.records, bytes.NewReader(q.append(nil)))
	if err != nil {
		return nil, fmt.Errorf("%w: tracker %s: %v", blob.ErrInvalid, e.shown, err)
	}
	request.Header["Idempotency-Key"] = nil // may be sent again on another connection: see Session.exchange
	status, body, err := perform(r.client, request, e, maxRecordsReply)
	if err != nil {
		return nil, err
	}
	switch status {
	case http.StatusOK:
		reply, err := parseRecordsReply(body)
		if err != nil {
			return nil, fmt.Errorf("tracker %s: %w", e.shown, err)
		}
		return reply, nil
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return nil, errNoRecords
	}
	return nil, fmt.Errorf("%w: tracker %s: status %d%s", blob.ErrUnavailable, e.shown, status, reason(body))
}

// tell keeps trackers informed of what we vouch for, until Close.
func (r *Records) tell() {
	every := time.NewTicker(claimEvery)
	defer every.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	if len(r.dir.names) > 0 {
		r.dir.refresh(r.ctx, time.Now())
		r.list()
		close(r.listed)
	}
	for {
		all := false
		select {
		case <-r.ctx.Done():
			return
		case <-r.kick:
			sleep(r.ctx, claimDelay)
		case <-retry.C:
		case <-every.C:
			all = true
		}
		r.dir.refresh(r.ctx, time.Now())
		r.list()
		if r.tellAll(all) {
			retry.Reset(claimRetry)
		}
	}
}

// tellAll tells every tracker what it does not know, or everything, and reports whether one has to be told later.
func (r *Records) tellAll(everything bool) (later bool) {
	r.mu.Lock()
	fresh, gone := r.fresh, r.gone
	r.fresh, r.gone = nil, nil
	list := func(layers []blob.Hash) (claims []layerClaim) {
		for _, l := range layers {
			claims = append(claims, layerClaim{layer: l, IndexClaim: r.claims[l]})
		}
		return claims
	}
	some, whole := list(fresh), list(r.order)
	trackers := slices.Clone(r.trackers)
	owed := make([]bool, len(trackers))
	for i, k := range trackers {
		if owed[i], k.owed = k.owed || everything, false; owed[i] {
			k.told = time.Now()
		}
	}
	r.mu.Unlock()

	var exchanges sync.WaitGroup
	for i, k := range trackers {
		claims, gone := some, gone
		if owed[i] {
			claims = whole
		}
		exchanges.Go(func() {
			for len(claims) > 0 || len(gone) > 0 {
				c, g := claims[:min(len(claims), maxLayers)], gone[:min(len(gone), maxLayers)]
				reply, err := r.exchange(r.ctx, k.endpoint, r.request(recordsRequest{claims: c, drop: g}))
				r.heard(k, reply, err)
				if err != nil {
					if !errors.Is(err, errNoRecords) {
						r.mu.Lock()
						k.owed = true // what is gone expires
						r.mu.Unlock()
					}
					return
				}
				claims, gone = claims[len(c):], gone[len(g):]
			}
		})
	}
	exchanges.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range trackers {
		later = later || k.owed
	}
	return later
}

// Vouched are the layers that this node vouches for now.
func (r *Records) Vouched() []blob.Hash {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.order)
}
