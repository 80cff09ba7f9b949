package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// DHTOptions configure a DHT. Listen is required.
type DHTOptions struct {
	// Listen is the UDP address, HOST:PORT; port 0 takes a free one. Its family is that of the network that is
	// joined: IPv4 (BEP 5) or IPv6 (BEP 32), IPv4 when it is neither.
	Listen string
	// Bootstrap are nodes to start from, HOST:PORT, and Known are nodes of an earlier life.
	Bootstrap []string
	Known     []netip.AddrPort
	// OnPeers is called with what the node at from has told of the peers of a key that is announced here.
	OnPeers func(key [20]byte, from netip.Addr, peers []netip.AddrPort)
	Log     *slog.Logger // nil: discard
}

// Timing of the DHT.
const (
	// queryTimeout is how long a node may take to answer: three round trips around the world.
	queryTimeout = 1500 * time.Millisecond
	// dhtEvery is the pause between two announces of a key, as BEP 5 clients have it.
	dhtEvery = 15 * time.Minute
	// dhtAgain is the first pause after a round that has found no node at all; it doubles up to dhtAgainMax.
	dhtAgain    = 2 * time.Second
	dhtAgainMax = 30 * time.Second
	// tendEvery is the pause between two looks at the table. One that would fit into a bucket is that of a node which has
	// not joined well, because packets were lost or there is nobody: it is filled again after dhtAgain, which doubles.
	tendEvery = time.Minute
)

// Bounds of a DHT.
const (
	maxPending = 512 // queries under way, of one packet and a channel each
	maxTrials  = 16  // nodes that are being tried because they have asked us something
	dhtEach    = 50  // packets of one host in a second that are looked at
	dhtAll     = 2000
)

// DHT is one node of the distributed hash table of BitTorrent (BEP 5). All methods are safe for concurrent use.
type DHT struct {
	o      DHTOptions
	log    *slog.Logger
	conn   *net.UDPConn
	six    bool
	self   nodeID
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	trials chan struct{}

	mu      sync.Mutex // guards what follows
	table   table
	store   *store
	quota   *quota
	pending map[string]pending
	keys    map[[20]byte]*sought
	joined  chan struct{} // closed, and replaced, when the table is no longer empty
	closed  bool
}

// pending is a query under way.
type pending struct {
	to     netip.AddrPort
	answer chan krpc // of length one
}

// sought is a key that is announced.
type sought struct {
	holds  int
	cancel context.CancelFunc
}

// NewDHT opens the socket and joins in the background. Close it.
func NewDHT(o DHTOptions) (*DHT, error) {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("DHT: %w address %q: write HOST:PORT", blob.ErrInvalid, o.Listen)
	}
	network := "udp4"
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() && !a.Is4In6() && !a.IsUnspecified() {
		network = "udp6"
	}
	addr, err := net.ResolveUDPAddr(network, o.Listen)
	if err != nil {
		return nil, fmt.Errorf("DHT on %s: %w: %v", o.Listen, blob.ErrInvalid, err)
	}
	if network == "udp4" && addr.IP.IsUnspecified() {
		addr.IP = net.IPv4zero
	}
	conn, err := net.ListenUDP(network, addr)
	if err != nil {
		return nil, fmt.Errorf("DHT on %s: %w: pass another --listen, or leave it off with --dht=false (%v)", o.Listen, blob.ErrUnavailable, err)
	}
	d := &DHT{
		o: o, log: o.Log, conn: conn, six: network == "udp6", self: randomID(),
		trials: make(chan struct{}, maxTrials), joined: make(chan struct{}),
		store: newStore(time.Now()), quota: newQuota(dhtEach, dhtAll), pending: map[string]pending{}, keys: map[[20]byte]*sought{},
	}
	d.table.self = d.self
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.wg.Go(d.read)
	d.wg.Go(d.tend)
	return d, nil
}

// Addr is the UDP address that was taken.
func (d *DHT) Addr() netip.AddrPort {
	a := d.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Nodes are some of the nodes that answer, to start from the next time.
func (d *DHT) Nodes() (all []netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.table.nearest(d.self, 64) {
		all = append(all, c.addr)
	}
	return all
}

// AddNode tells of a node that somebody believes in: a peer that has sent the port message of BEP 5, or a torrent
// that names it.
func (d *DHT) AddNode(a netip.AddrPort) {
	if a.IsValid() && a.Port() != 0 && a.Addr().Unmap().Is4() != d.six {
		d.try(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	}
}

// AddHosts is AddNode for nodes that are named HOST:PORT, as the "nodes" of a torrent are. It looks them up in the
// background, at most 16 of them.
func (d *DHT) AddHosts(hosts []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(hosts) == 0 {
		return
	}
	hosts = slices.Clone(hosts[:min(len(hosts), maxTrials)])
	d.wg.Go(func() {
		for _, h := range hosts {
			addrs, err := resolve(d.ctx, h, d.six)
			if err != nil {
				d.log.Debug("DHT: node of a torrent", "addr", h, "err", err)
			}
			for _, a := range addrs {
				d.AddNode(a)
			}
		}
	})
}

// Announce tells the network that a peer of key is reached at this host and port (0: the port of the DHT itself),
// and looks for others, now and every 15 minutes, until stop is called.
func (d *DHT) Announce(key [20]byte, port uint16) (stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return func() {}
	}
	s := d.keys[key]
	if s == nil {
		s = new(sought)
		d.keys[key] = s
		var ctx context.Context
		ctx, s.cancel = context.WithCancel(d.ctx)
		d.wg.Go(func() { d.announce(ctx, key, port) })
	}
	s.holds++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if s.holds--; s.holds == 0 {
			s.cancel()
			if d.keys[key] == s {
				delete(d.keys, key)
			}
		}
	})
}

// Close leaves the network and waits for every goroutine.
func (d *DHT) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.conn.Close()
	d.wg.Wait()
}

// announce is the goroutine of one key.
func (d *DHT) announce(ctx context.Context, key [20]byte, port uint16) {
	again := dhtAgain
	for {
		pause := dhtEvery + rand.N(dhtEvery/10)
		if told := d.round(ctx, key, port); told == 0 {
			pause = again
			again = min(2*again, dhtAgainMax)
		} else {
			again = dhtAgain
		}
		if !d.rest(ctx, pause) {
			return
		}
	}
}

// rest waits, but not when the first node has been found. It returns false when ctx has ended.
func (d *DHT) rest(ctx context.Context, pause time.Duration) bool {
	d.mu.Lock()
	joined := d.joined
	d.mu.Unlock()
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-joined:
	case <-ctx.Done():
		return false
	}
	return true
}

// round looks for the peers of a key once and announces ours to the nodes that are nearest to it. It returns how
// many have taken it.
func (d *DHT) round(ctx context.Context, key [20]byte, port uint16) (told int) {
	d.mu.Lock()
	ours := d.store.get(nodeID(key), time.Now())
	d.mu.Unlock()
	if len(ours) > 0 && d.o.OnPeers != nil {
		d.o.OnPeers(key, d.Addr().Addr(), ours)
	}
	near := d.lookup(ctx, nodeID(key), qGet, func(from contact, m krpc) {
		if len(m.values) > 0 && d.o.OnPeers != nil {
			d.o.OnPeers(key, from.addr.Addr(), m.values)
		}
	})
	if port == d.Addr().Port() {
		port = 0 // where the packet comes from is what a translator in between has made of it
	}
	var wg sync.WaitGroup
	var lock sync.Mutex
	for _, n := range near {
		if len(n.token) == 0 {
			continue
		}
		wg.Go(func() {
			_, err := d.query(ctx, n.contact, krpc{method: qAnnounce, target: nodeID(key), port: port, token: n.token})
			if err == nil {
				lock.Lock()
				told++
				lock.Unlock()
			}
		})
	}
	wg.Wait()
	return told
}

// tend is the goroutine that looks after the table.
func (d *DHT) tend() {
	again, refreshed := dhtAgain, time.Time{}
	for {
		at := time.Now()
		d.mu.Lock()
		d.store.sweep(at)
		stale, n := d.table.stale(at), d.table.count()
		d.mu.Unlock()
		if n < bucketSize {
			d.bootstrap()
			refreshed = time.Time{}
		}
		for _, c := range stale {
			d.query(d.ctx, c, krpc{method: qPing})
		}
		if at.Sub(refreshed) > freshFor && d.ctx.Err() == nil {
			// Those around us fill the small buckets, and those around a random id one of the large ones.
			d.lookup(d.ctx, d.self, qFind, nil)
			d.lookup(d.ctx, randomID(), qFind, nil)
			refreshed = at
		}
		d.mu.Lock()
		n = d.table.count()
		d.mu.Unlock()
		pause := tendEvery
		if n < bucketSize {
			pause = again + rand.N(again/2) // those who have lost packets to each other do not meet again
			again = min(2*again, dhtAgainMax)
		} else {
			again = dhtAgain
		}
		if !d.rest(d.ctx, pause) {
			return
		}
	}
}

// bootstrap asks the nodes that we were told of.
func (d *DHT) bootstrap() {
	addrs := slices.Clone(d.o.Known)
	for _, b := range d.o.Bootstrap {
		found, err := resolve(d.ctx, b, d.six)
		if err != nil {
			d.log.Warn("DHT: bootstrap node", "addr", b, "err", err)
		}
		addrs = append(addrs, found...)
	}
	var wg sync.WaitGroup
	for _, a := range addrs[:min(len(addrs), 64)] {
		if a.Addr().Is4() == d.six {
			continue
		}
		wg.Go(func() { d.query(d.ctx, contact{addr: a}, krpc{method: qFind, target: d.self}) })
	}
	wg.Wait()
}

// resolve turns HOST:PORT into addresses of one family.
func resolve(ctx context.Context, hostport string, six bool) (all []netip.AddrPort, err error) {
	host, service, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("%w: write HOST:PORT", blob.ErrInvalid)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", blob.ErrInvalid, err)
	}
	network := "ip4"
	if six {
		network = "ip6"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", blob.ErrUnavailable, err)
	}
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return all, nil
}

// try pings a node that may be worth an entry, when few are being tried.
func (d *DHT) try(a netip.AddrPort) {
	select {
	case d.trials <- struct{}{}:
	default:
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.wg.Go(func() {
		defer func() { <-d.trials }()
		d.query(d.ctx, contact{addr: a}, krpc{method: qPing})
	})
}

var errNoAnswer = errors.New("no answer")

// query asks one node and waits for its answer. The table hears how it went.
func (d *DHT) query(ctx context.Context, to contact, m krpc) (krpc, error) {
	m.kind, m.id = 'q', d.self
	answer := make(chan krpc, 1)
	d.mu.Lock()
	if len(d.pending) >= maxPending {
		d.mu.Unlock()
		return krpc{}, fmt.Errorf("%w: too many queries under way", blob.ErrUnavailable)
	}
	for m.tx == "" || d.pending[m.tx].answer != nil {
		m.tx = string([]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())})
	}
	d.pending[m.tx] = pending{to.addr, answer}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.pending, m.tx)
		d.mu.Unlock()
	}()
	if _, err := d.conn.WriteToUDPAddrPort(appendKRPC(nil, m), to.addr); err != nil {
		return krpc{}, err
	}
	timer := time.NewTimer(queryTimeout)
	defer timer.Stop()
	select {
	case r := <-answer:
		if r.kind == 'e' {
			return krpc{}, fmt.Errorf("%s refuses: %d %q", to.addr, r.code, r.text)
		}
		if to.id != (nodeID{}) && r.id != to.id {
			d.mu.Lock()
			d.table.missed(to) // somebody else is there now
			d.mu.Unlock()
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		empty := d.table.count() == 0
		d.table.answered(contact{r.id, to.addr}, time.Now())
		if empty && d.table.count() > 0 {
			close(d.joined)
			d.joined = make(chan struct{})
		}
		return r, nil
	case <-timer.C:
		d.mu.Lock()
		d.table.missed(to)
		d.mu.Unlock()
		return krpc{}, errNoAnswer
	case <-ctx.Done():
		return krpc{}, context.Cause(ctx)
	}
}

// read is the goroutine that receives.
func (d *DHT) read() {
	buf := make([]byte, maxKRPC+1)
	for {
		n, from, err := d.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an ICMP error of something that was sent
			if !sleep(d.ctx, time.Millisecond) {
				return
			}
			continue
		}
		d.packet(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}

// packet looks at what has come.
func (d *DHT) packet(b []byte, from netip.AddrPort) {
	at := time.Now()
	d.mu.Lock()
	ok := d.quota.take(from.Addr(), at)
	d.mu.Unlock()
	if !ok || from.Port() == 0 {
		return
	}
	m, err := parseKRPC(b)
	if err != nil {
		return
	}
	if m.kind != 'q' {
		d.mu.Lock()
		p := d.pending[m.tx]
		d.mu.Unlock()
		if p.to == from { // else it is late, or from somebody who guesses
			select {
			case p.answer <- m:
			default:
			}
		}
		return
	}
	r := d.answer(m, from, at)
	if m.kind == 'q' && m.method == qAnnounce && r.kind == 'r' {
		d.told(m, from)
	}
	d.conn.WriteToUDPAddrPort(appendKRPC(nil, r), from) // a reply that is lost is asked for again
	c := contact{m.id, from}
	d.mu.Lock()
	wants := !m.readOnly && d.table.wants(c, at)
	d.mu.Unlock()
	if wants {
		d.try(from)
	}
}

// told passes on a peer that was announced to us for a key that we look for ourselves.
func (d *DHT) told(m krpc, from netip.AddrPort) {
	d.mu.Lock()
	sought := d.keys[m.target] != nil
	d.mu.Unlock()
	if sought && d.o.OnPeers != nil {
		d.o.OnPeers(m.target, from.Addr(), []netip.AddrPort{netip.AddrPortFrom(from.Addr(), cmp.Or(m.port, from.Port()))})
	}
}

// answer is the reply to a query.
func (d *DHT) answer(m krpc, from netip.AddrPort, at time.Time) krpc {
	r := krpc{kind: 'r', tx: m.tx, id: d.self}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case m.unknown:
		return krpc{kind: 'e', tx: m.tx, code: errMethod, text: "method unknown"}
	case m.method == qFind:
		r.nodes = d.table.nearest(m.target, bucketSize)
	case m.method == qGet:
		r.nodes = d.table.nearest(m.target, bucketSize)
		r.values = d.store.get(m.target, at)
		r.token = d.store.token(from.Addr(), at)
	case m.method == qAnnounce:
		if !d.store.valid(m.token, from.Addr(), at) {
			return krpc{kind: 'e', tx: m.tx, code: errProtocol, text: "bad token"}
		}
		d.store.put(m.target, netip.AddrPortFrom(from.Addr(), cmp.Or(m.port, from.Port())), at)
	}
	return r
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
