package tracker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/rueidis"

	"github.com/pantala/pantala/blob"
)

/*
The state that several trackers share, in Redis or Valkey. Every tracker is the authority for the nodes that report
to it, and writes what others should know of them; it reads what the others write. All keys begin with "pantala:1:";
<swarm> is the key of a swarm in hexadecimal, in braces, so that a cluster keeps it in one place:

	trackers              set: the names (16 hexadecimal digits) of the trackers that take part
	tracker:<name>        string, expires after 10 s: the tracker lives
	<swarm>:nodes:<name>  hash, expires after 10 s: peer id [20] -> record (see foreigner.append) of a node that reports
	                      to that tracker
	<swarm>:claims        hash, expires an hour after the last change: piece, decimal -> root [32]
	<swarm>:disputed      set, expires likewise: pieces, decimal, about whose roots nodes disagree
	<swarm>:lease:<piece> string, expires after twice the time that a lease lasts: name [8] | peer id [20] of the tracker
	                      that gave the lease, and of the node that holds it
	{<digest>}:index      hash, expires 30 minutes after the last change, of a layer's digest in hexadecimal: host [16] ->
	                      claim [73] | ip [16] | port u16 | peer id [20] | said first u64 | last u64, in Unix seconds;
	                      empty: it has taken its word back
	{<digest>}:profiles   hash, expires after 30 days, of an image's: host [16] -> recorded u64, Unix seconds | profile
	changes               channel: name [8] | swarm [20] | kind u8 | items: n, peer ids whose records have changed;
	                      c and d, pieces u32 whose claims or disputes have

A message says what has changed, not how: who hears it reads what is there now, so that lost and overtaken ones do
no harm. Leases are taken by a script that does what SET NX PX does, but lets a node keep its own when it comes to
another tracker.

One goroutine speaks with the store, but for records (shelfcommons.go), which are asked for by those who answer requests
about them. When that fails all swarms go on from memory (abroad.go), and it tries again,
with growing pauses; then it writes everything anew: the store may have lost it all.
*/

const (
	commonsPrefix  = "pantala:1:"
	commonsChannel = commonsPrefix + "changes"

	publishEvery = 200 * time.Millisecond // between writes of one tracker: what others learn later costs at most a second read
	beatEvery    = 2 * time.Second        // a fifth of what the keys live
	commonsLimit = time.Second            // for one exchange with the store
	openLimit    = 200 * time.Millisecond // how long the first node of a swarm waits for what others know of it
	claimsFor    = time.Hour
	leaseBatch   = 256 // leases in one script: 0.2 ms of the store's time
	maxPending   = 1024
)

// StateURL names where trackers share what they know: see ParseStateURL.
type StateURL struct {
	options rueidis.ClientOption
	shown   string
}

// String is the address without name and password.
func (s *StateURL) String() string { return s.shown }

// ParseStateURL reads redis://[user:password@]host:port[/number], or the same with rediss for TLS. No error shows
// the password.
func ParseStateURL(raw string) (*StateURL, error) {
	scheme, _, _ := strings.Cut(raw, "://")
	if scheme != "redis" && scheme != "rediss" {
		return nil, fmt.Errorf("%w: shared state: only redis:// and rediss:// are known: write it as redis://[user:password@]host:port/0", blob.ErrInvalid)
	}
	o, err := rueidis.ParseURL(raw)
	u, uerr := url.Parse(raw)
	if err != nil || uerr != nil || u.Hostname() == "" || len(o.InitAddress) == 0 {
		return nil, fmt.Errorf("%w: shared state: the URL cannot be parsed: write it as redis://[user:password@]host:port/0, with percent signs for special characters", blob.ErrInvalid)
	}
	o.Dialer = net.Dialer{Timeout: commonsLimit}
	o.ConnWriteTimeout = 2 * commonsLimit
	o.DisableRetry, o.DisableCache = true, true
	o.ForceSingleClient = true
	o.BlockingPoolSize = 2
	o.ClientName = "pantala-tracker"
	return &StateURL{o, fmt.Sprintf("%s://%s/%d", scheme, o.InitAddress[0], o.SelectDB)}, nil
}

// commons is one tracker's side of the shared state.
type commons struct {
	server *Server
	state  *StateURL
	id     trackerID
	kick   chan struct{} // opens or hot has something
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex // guards what follows; innermost
	known map[key]chan struct{}
	opens []key
	hot   map[key]bool // rooms with leases to be written
	up    bool
	since time.Time // of up, or of its end
	fault string
	peers int // other trackers that live

	live atomic.Pointer[rueidis.Client] // for records; nil: the store does not answer

	// Of the goroutine.
	client rueidis.Client
	others map[trackerID]bool
	told   string // the last fault that was logged
}

// newCommons starts to share the state of a server.
func newCommons(s *Server, state *StateURL) *commons {
	ctx, cancel := context.WithCancel(context.Background())
	c := &commons{
		server: s, state: state, kick: make(chan struct{}, 1), cancel: cancel,
		known: map[key]chan struct{}{}, hot: map[key]bool{}, since: time.Now(), fault: "not connected yet",
	}
	rand.Read(c.id[:])
	c.done.Go(func() { c.run(ctx) })
	return c
}

// close ends the sharing. What others know of our nodes expires.
func (c *commons) close() {
	c.cancel()
	c.done.Wait()
}

// ready waits until what others know of a swarm is here, but not for long.
func (c *commons) ready(ctx context.Context, k key) {
	c.mu.Lock()
	ch, ok := c.known[k]
	if !ok {
		ch = make(chan struct{})
		c.known[k] = ch
		c.opens = append(c.opens, k)
		signal(c.kick)
	}
	up := c.up
	c.mu.Unlock()
	if !up {
		return
	}
	select {
	case <-ch:
		return
	default:
	}
	t := time.NewTimer(openLimit)
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
	case <-ctx.Done():
	}
}

// forget notes that there is no room for a swarm any more.
func (c *commons) forget(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, k)
}

// heat notes that a room has leases to be written.
func (c *commons) heat(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.up {
		c.hot[k] = true
		signal(c.kick)
	}
}

// run keeps a connection as long as it lasts, and makes a new one after it.
func (c *commons) run(ctx context.Context) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval, retry.Multiplier, retry.RandomizationFactor = firstRetry, lastRetry, 2, 0.5
	for ctx.Err() == nil {
		client, err := rueidis.NewClient(c.state.options)
		if err == nil {
			var lived bool
			c.client = client
			lived, err = c.share(ctx)
			client.Close()
			if lived {
				retry.Reset()
			}
		}
		if ctx.Err() == nil {
			c.down(err)
			sleep(ctx, min(retry.NextBackOff(), lastRetry))
		}
	}
	c.reach(false)
}

// down notes that the store does not answer.
func (c *commons) down(err error) {
	// Errors of the library say what failed and at which address; user and password are in none of them.
	text := fmt.Sprint(err)
	c.mu.Lock()
	was := c.up
	if c.up {
		c.since = time.Now()
	}
	c.up, c.fault, c.peers = false, text, 0
	clear(c.hot)
	c.mu.Unlock()
	c.reach(false)
	if was || text != c.told {
		c.told = text
		c.server.log.Warn("the shared state cannot be reached: going on from memory", "state", c.state.shown, "err", text)
	}
}

// rooms are all swarms there are.
func (s *Server) allRooms() map[key]*room {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.rooms)
}

// reach tells all swarms whether the store answers.
func (c *commons) reach(yes bool) {
	for _, r := range c.server.allRooms() {
		c.inside(r, func(s *swarm, now time.Time) { s.reach(now, yes) })
	}
}

// inside runs one step of a swarm.
func (c *commons) inside(r *room, f func(s *swarm, now time.Time)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, s := time.Now(), r.swarm
	s.gen++
	logged := len(s.log)
	f(s, now)
	if s.pieces > 0 {
		s.settle(now)
		s.announceClaims(min(logged, len(s.log)))
	}
	r.wake()
}

// share shares until something fails or ctx ends.
func (c *commons) share(ctx context.Context) (lived bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var listener sync.WaitGroup
	defer func() {
		cancel()
		listener.Wait()
	}()
	news, ended := make(chan string, maxPending), make(chan error, 1)
	lost := make(chan struct{}, 1) // news came faster than they could be read
	listener.Go(func() {
		ended <- c.client.Receive(ctx, c.client.B().Subscribe().Channel(commonsChannel).Build(), func(m rueidis.PubSubMessage) {
			select {
			case news <- m.Message:
			default:
				signal(lost)
			}
		})
	})
	c.others = map[trackerID]bool{}
	if err := c.beat(ctx); err != nil {
		return false, err
	}
	c.mu.Lock()
	c.up, c.since, c.fault, c.told = true, time.Now(), "", ""
	c.opens = slices.Collect(maps.Keys(c.known))
	c.mu.Unlock()
	client := c.client
	c.live.Store(&client)
	defer c.live.Store(nil)
	c.reach(true)
	c.server.log.Info("sharing state", "state", c.state.shown, "trackers", len(c.others)+1)
	publish, beat := time.NewTicker(publishEvery), time.NewTicker(beatEvery)
	defer publish.Stop()
	defer beat.Stop()
	err = c.work(ctx)
	for err == nil {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case err = <-ended:
			if err == nil {
				err = errors.New("the subscription has ended")
			}
		case <-c.kick:
			err = c.work(ctx)
		case <-publish.C:
			err = c.publish(ctx)
		case <-beat.C:
			err = c.beat(ctx)
		case m := <-news:
			err = c.news(ctx, m)
		case <-lost:
			for k := range c.server.allRooms() {
				if err == nil {
					err = c.open(ctx, k)
				}
			}
		}
	}
	return true, err
}

// do sends commands in one go; the first error counts.
func (c *commons) do(ctx context.Context, cmds ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	if len(cmds) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, commonsLimit)
	defer cancel()
	results := c.client.DoMulti(ctx, cmds...)
	for _, r := range results {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, err
		}
	}
	return results, nil
}

func swarmKey(k key, rest string) string {
	return commonsPrefix + "{" + hex.EncodeToString(k[:]) + "}:" + rest
}

func (t trackerID) String() string { return hex.EncodeToString(t[:]) }

// beat says that we live, finds out who else does, and lengthens what is ours.
func (c *commons) beat(ctx context.Context) error {
	b := c.client.B()
	results, err := c.do(ctx,
		b.Sadd().Key(commonsPrefix+"trackers").Member(c.id.String()).Build(),
		b.Set().Key(commonsPrefix+"tracker:"+c.id.String()).Value("1").Px(abroadFor).Build(),
		b.Smembers().Key(commonsPrefix+"trackers").Build(),
	)
	if err != nil {
		return err
	}
	names, err := results[2].AsStrSlice()
	if err != nil {
		return err
	}
	var ids []trackerID
	var cmds []rueidis.Completed
	for _, name := range names {
		var id trackerID
		if n, err := hex.Decode(id[:], []byte(name[:min(len(name), 16)])); err != nil || n != len(id) || id == c.id {
			continue
		}
		ids = append(ids, id)
		cmds = append(cmds, b.Exists().Key(commonsPrefix+"tracker:"+name).Build())
	}
	if results, err = c.do(ctx, cmds...); err != nil {
		return err
	}
	cmds = cmds[:0]
	fresh := false
	for i, id := range ids {
		n, err := results[i].AsInt64()
		switch {
		case err != nil:
			return err
		case n == 0:
			delete(c.others, id)
			cmds = append(cmds, b.Srem().Key(commonsPrefix+"trackers").Member(id.String()).Build())
			for _, r := range c.server.allRooms() {
				c.inside(r, func(s *swarm, now time.Time) { s.unhearAll(now, &id) })
			}
		case !c.others[id]:
			c.others[id], fresh = true, true
		}
	}
	c.mu.Lock()
	c.peers = len(c.others)
	c.mu.Unlock()
	for k, r := range c.server.allRooms() {
		var again []*lease
		c.inside(r, func(s *swarm, now time.Time) {
			s.reach(now, true)
			for _, l := range s.leases {
				again = append(again, l)
			}
		})
		cmds = append(cmds, b.Pexpire().Key(swarmKey(k, "nodes:"+c.id.String())).Milliseconds(abroadFor.Milliseconds()).Build())
		if err := c.take(ctx, k, r, again); err != nil {
			return err
		}
		if fresh {
			if err := c.open(ctx, k); err != nil {
				return err
			}
		}
	}
	_, err = c.do(ctx, cmds...)
	return err
}

// work does what others of this process wait for.
func (c *commons) work(ctx context.Context) error {
	c.mu.Lock()
	opens, hot := c.opens, slices.Collect(maps.Keys(c.hot))
	c.opens = nil
	clear(c.hot)
	c.mu.Unlock()
	for _, k := range opens {
		if err := c.open(ctx, k); err != nil {
			return err
		}
	}
	for _, k := range hot {
		if err := c.leases(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// open reads all that others know of a swarm.
func (c *commons) open(ctx context.Context, k key) error {
	b := c.client.B()
	cmds := []rueidis.Completed{b.Hgetall().Key(swarmKey(k, "claims")).Build(), b.Smembers().Key(swarmKey(k, "disputed")).Build()}
	var ids []trackerID
	for id := range c.others {
		ids = append(ids, id)
		cmds = append(cmds, b.Hgetall().Key(swarmKey(k, "nodes:"+id.String())).Build())
	}
	results, err := c.do(ctx, cmds...)
	if err != nil {
		return err
	}
	claims, err := results[0].AsStrMap()
	if err != nil {
		return err
	}
	disputed, err := results[1].AsStrSlice()
	if err != nil {
		return err
	}
	records := make([]map[string]string, len(ids))
	for i := range ids {
		if records[i], err = results[2+i].AsStrMap(); err != nil {
			return err
		}
	}
	r := c.server.room(k, true)
	if r == nil {
		return nil // the tracker is full, and says so to the node
	}
	r.mu.Unlock()
	c.inside(r, func(s *swarm, now time.Time) {
		s.reach(now, true)
		for i, id := range ids {
			for name, record := range records[i] {
				c.hear(s, now, id, name, record, true)
			}
		}
		// The claims of a swarm whose first node is still to come are read again when it is there.
		c.hearClaims(s, claims, disputed)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.known[k]; ch != nil {
		select {
		case <-ch:
		default:
			close(ch)
		}
	}
	return nil
}

// hear takes in one record; there: it exists.
func (c *commons) hear(s *swarm, now time.Time, by trackerID, name, record string, there bool) {
	if len(name) != len(peerID{}) {
		return
	}
	id := peerID([]byte(name))
	if !there {
		if f := s.abroad.nodes[id]; f != nil && f.tracker == by {
			s.unhear(now, id)
		}
		return
	}
	f, err := parseForeigner([]byte(record))
	if err != nil {
		c.server.log.Debug("a record of another tracker is passed over", "tracker", by, "err", err)
		return
	}
	f.id, f.tracker = id, by
	s.hear(now, f)
}

// hearClaims takes in roots and disputes.
func (c *commons) hearClaims(s *swarm, claims map[string]string, disputed []string) {
	for _, piece := range disputed {
		if i, err := strconv.ParseUint(piece, 10, 32); err == nil {
			s.hearDispute(uint32(i))
		}
	}
	for piece, root := range claims {
		if i, err := strconv.ParseUint(piece, 10, 32); err == nil && len(root) == len(blob.Hash{}) {
			s.hearClaim(uint32(i), blob.Hash([]byte(root)))
		}
	}
}

// export is what a swarm has for others.
type export struct {
	records  map[string]string
	gone     []string
	claims   map[uint32]blob.Hash
	disputes []uint32
	reread   bool // claims were heard before the swarm knew how the blob is cut
}

// export takes out what others have to be told.
func (s *swarm) export(by trackerID) (e export) {
	a := s.abroad
	if a == nil || !a.joined {
		return e
	}
	if len(a.dirty) > 0 {
		e.records = map[string]string{}
	}
	for id := range a.dirty {
		if m := s.byID[id]; m != nil {
			e.records[string(id[:])] = string(m.plan.record(s.geometry, by).append(nil))
		} else {
			e.gone = append(e.gone, string(id[:]))
		}
	}
	clear(a.dirty)
	for ; a.exported < len(s.log); a.exported++ {
		entry := s.log[a.exported]
		if known, ok := s.roots[entry.piece]; ok && known.at == a.exported && entry.by != (peerID{}) {
			if e.claims == nil {
				e.claims = map[uint32]blob.Hash{}
			}
			e.claims[entry.piece] = known.root
		}
	}
	e.disputes, a.disputes = a.disputes, nil
	e.reread, a.reread = a.reread, false
	return e
}

// claimScript keeps the first root of each piece and returns the pieces that were claimed with another one.
var claimScript = rueidis.NewLuaScriptNoSha(`
local bad = {}
for i = 1, #ARGV - 1, 2 do
  local was = redis.call('HGET', KEYS[1], ARGV[i])
  if not was then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  elseif was ~= ARGV[i + 1] then
    redis.call('SADD', KEYS[2], ARGV[i])
    bad[#bad + 1] = ARGV[i]
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[#ARGV])
redis.call('PEXPIRE', KEYS[2], ARGV[#ARGV])
return bad`)

// publish writes what has changed.
func (c *commons) publish(ctx context.Context) error {
	b := c.client.B()
	for k, r := range c.server.allRooms() {
		r.mu.Lock()
		e := r.swarm.export(c.id)
		r.mu.Unlock()
		var cmds []rueidis.Completed
		nodes := swarmKey(k, "nodes:"+c.id.String())
		message := func(kind byte, items []byte) {
			m := append(append(append(c.id[:len(c.id):len(c.id)], k[:]...), kind), items...)
			cmds = append(cmds, b.Publish().Channel(commonsChannel).Message(string(m)).Build())
		}
		if len(e.records)+len(e.gone) > 0 {
			var ids []byte
			if len(e.records) > 0 {
				set := b.Hset().Key(nodes).FieldValue()
				for id, record := range e.records {
					set = set.FieldValue(id, record)
					ids = append(ids, id...)
				}
				cmds = append(cmds, set.Build(), b.Pexpire().Key(nodes).Milliseconds(abroadFor.Milliseconds()).Build())
			}
			if len(e.gone) > 0 {
				cmds = append(cmds, b.Hdel().Key(nodes).Field(e.gone...).Build())
				ids = append(ids, strings.Join(e.gone, "")...)
			}
			message('n', ids)
		}
		var pieces, disputed []byte
		if len(e.claims) > 0 {
			argv := make([]string, 0, 2*len(e.claims)+1)
			for i, root := range e.claims {
				argv = append(argv, strconv.Itoa(int(i)), string(root[:]))
				pieces = appendPiece(pieces, i)
			}
			limited, cancel := context.WithTimeout(ctx, commonsLimit)
			bad, err := claimScript.Exec(limited, c.client, []string{swarmKey(k, "claims"), swarmKey(k, "disputed")}, append(argv, strconv.FormatInt(claimsFor.Milliseconds(), 10))).AsStrSlice()
			cancel()
			if err != nil {
				return err
			}
			message('c', pieces)
			if len(bad) > 0 {
				c.inside(r, func(s *swarm, _ time.Time) { c.hearClaims(s, nil, bad) })
				for _, piece := range bad {
					i, _ := strconv.Atoi(piece)
					disputed = appendPiece(disputed, uint32(i))
				}
			}
		}
		for _, i := range e.disputes {
			disputed = appendPiece(disputed, i)
			cmds = append(cmds, b.Sadd().Key(swarmKey(k, "disputed")).Member(strconv.Itoa(int(i))).Build(),
				b.Pexpire().Key(swarmKey(k, "disputed")).Milliseconds(claimsFor.Milliseconds()).Build())
		}
		if len(disputed) > 0 {
			message('d', disputed)
		}
		if _, err := c.do(ctx, cmds...); err != nil {
			return err
		}
		if e.reread {
			if err := c.open(ctx, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeScript gives each lease to who asks, unless somebody else has it; then it returns who.
var takeScript = rueidis.NewLuaScriptNoSha(`
local out = {}
for i, k in ipairs(KEYS) do
  local v, was = ARGV[1 + i], redis.call('GET', k)
  if not was or string.sub(was, 1, 8) == string.sub(v, 1, 8) or string.sub(was, 9) == string.sub(v, 9) then
    redis.call('SET', k, v, 'PX', ARGV[1])
    out[i] = ''
  else
    out[i] = was
  end
end
return out`)

// dropScript takes leases back that are still what we wrote.
var dropScript = rueidis.NewLuaScriptNoSha(`
for i, k in ipairs(KEYS) do
  if redis.call('GET', k) == ARGV[i] then
    redis.call('DEL', k)
  end
end
return 0`)

// leases writes the leases of a room that have come or gone.
func (c *commons) leases(ctx context.Context, k key) error {
	r := c.server.room(k, false)
	if r == nil {
		return nil
	}
	asked, ended := r.swarm.abroad.asked, r.swarm.abroad.ended
	r.swarm.abroad.asked, r.swarm.abroad.ended = nil, nil
	r.mu.Unlock()
	for batch := range slices.Chunk(ended, leaseBatch) {
		var keys, argv []string
		for i := range batch {
			keys, argv = append(keys, leaseKey(k, batch[i].piece)), append(argv, c.holder(&batch[i]))
		}
		if err := c.script(ctx, dropScript, keys, argv).Error(); err != nil {
			return err
		}
	}
	return c.take(ctx, k, r, asked)
}

// take writes leases, and confirms or denies them.
func (c *commons) take(ctx context.Context, k key, r *room, list []*lease) error {
	px := strconv.FormatInt((2 * c.server.leaseFor).Milliseconds(), 10)
	for batch := range slices.Chunk(list, leaseBatch) {
		keys, argv := make([]string, 0, len(batch)), append(make([]string, 0, len(batch)+1), px)
		for _, l := range batch {
			keys, argv = append(keys, leaseKey(k, l.piece)), append(argv, c.holder(l))
		}
		got, err := c.script(ctx, takeScript, keys, argv).AsStrSlice()
		if err == nil && len(got) != len(batch) {
			err = fmt.Errorf("%w: shared state: %d answers about %d leases", blob.ErrInvalid, len(got), len(batch))
		}
		if err != nil {
			return err
		}
		c.inside(r, func(s *swarm, now time.Time) {
			for i, l := range batch {
				if got[i] == "" {
					s.confirm(now, l)
				} else {
					s.deny(now, l)
				}
			}
		})
	}
	return nil
}

func (c *commons) script(ctx context.Context, s *rueidis.Lua, keys, argv []string) rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(ctx, commonsLimit)
	defer cancel()
	return s.Exec(ctx, c.client, keys, argv)
}

func leaseKey(k key, piece uint32) string { return swarmKey(k, "lease:"+strconv.Itoa(int(piece))) }

// holder is what stands in the store for a lease.
func (c *commons) holder(l *lease) string {
	return string(c.id[:]) + string(l.holder.member.id[:])
}

func appendPiece(b []byte, i uint32) []byte {
	return append(b, byte(i>>24), byte(i>>16), byte(i>>8), byte(i))
}

// change is one message of the channel.
type change struct {
	by    trackerID
	swarm key
	kind  byte
	items []string // peer ids, or pieces in decimal
}

// parseChange reads a message.
func parseChange(m string) (ch change, ok bool) {
	const head = 8 + 20 + 1
	if len(m) < head {
		return ch, false
	}
	copy(ch.by[:], m)
	copy(ch.swarm[:], m[8:])
	ch.kind = m[head-1]
	m = m[head:]
	width := map[byte]int{'n': 20, 'c': 4, 'd': 4}[ch.kind]
	if width == 0 || len(m)%width != 0 || len(m)/width > maxPieces {
		return ch, false
	}
	for ; len(m) > 0; m = m[width:] {
		if width == 20 {
			ch.items = append(ch.items, m[:width])
		} else {
			ch.items = append(ch.items, strconv.Itoa(int(m[0])<<24|int(m[1])<<16|int(m[2])<<8|int(m[3])))
		}
	}
	return ch, true
}

// news reads what a message says has changed.
func (c *commons) news(ctx context.Context, m string) error {
	ch, ok := parseChange(m)
	if !ok || ch.by == c.id || len(ch.items) == 0 {
		return nil
	}
	if !c.others[ch.by] { // it has just come
		if err := c.beat(ctx); err != nil {
			return err
		}
	}
	r := c.server.room(ch.swarm, false)
	if r == nil {
		return nil
	}
	r.mu.Unlock()
	b := c.client.B()
	var cmd rueidis.Completed
	switch ch.kind {
	case 'n':
		cmd = b.Hmget().Key(swarmKey(ch.swarm, "nodes:"+ch.by.String())).Field(ch.items...).Build()
	case 'c':
		cmd = b.Hmget().Key(swarmKey(ch.swarm, "claims")).Field(ch.items...).Build()
	case 'd':
		c.inside(r, func(s *swarm, _ time.Time) { c.hearClaims(s, nil, ch.items) })
		return nil
	}
	results, err := c.do(ctx, cmd)
	if err != nil {
		return err
	}
	values, err := results[0].ToArray()
	if err != nil || len(values) != len(ch.items) {
		return err
	}
	c.inside(r, func(s *swarm, now time.Time) {
		for i, item := range ch.items {
			value, err := values[i].ToString()
			switch {
			case ch.kind == 'n':
				c.hear(s, now, ch.by, item, value, err == nil)
			case err == nil:
				c.hearClaims(s, map[string]string{item: value}, nil)
			}
		}
	})
	return nil
}

// sharing is what /stats says about the shared state.
type sharing struct {
	State    string `json:"state"` // where it is
	OK       bool   `json:"ok"`
	Since    int64  `json:"since_seconds"` // how long that has been so
	Trackers int    `json:"trackers"`      // that share it, this one included
	Fault    string `json:"last_error,omitempty"`
}

func (c *commons) stats() *sharing {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &sharing{c.state.shown, c.up, int64(time.Since(c.since).Seconds()), c.peers + 1, c.fault}
}
