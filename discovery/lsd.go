package discovery

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// LSDOptions configure an LSD.
type LSDOptions struct {
	// Listen is the address that peers connect to. On a loopback address only this machine is told.
	Listen netip.AddrPort
	// OnPeer is called for every peer that others announce for a key that is announced here.
	OnPeer func(key [20]byte, peer netip.AddrPort)
	Log    *slog.Logger // nil: discard
	// Port of the groups; 0: that of BEP 14. Others are for tests, which must not meet real clients.
	Port uint16
}

// Timing of local discovery (BEP 14 asks for an announce every 5 minutes and at most one a minute).
const (
	lsdEvery = 5 * time.Minute
	// lsdGather is how long the first announce of a key waits for others that come with it, so that a node that
	// opens a hundred blobs sends ten packets.
	lsdGather = 200 * time.Millisecond
	// lsdGap is the pause between two packets.
	lsdGap = 50 * time.Millisecond
	// lsdAgain is how long a key that is announced, taken back and announced again keeps its last announce.
	lsdAgain = time.Minute
)

// Bounds of what is listened to. 20 packets of one host in a second name 380 keys.
const (
	lsdEach = 20
	lsdAll  = 200
)

// LSD is local service discovery (BEP 14). All methods are safe for concurrent use.
type LSD struct {
	o      LSDOptions
	log    *slog.Logger
	cookie string
	kick   chan struct{}
	stop   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup

	mu    sync.Mutex // guards what follows
	keys  map[[20]byte]*told
	quota *quota
	links map[string]*link
	ended bool
}

// told is one key that is announced.
type told struct {
	holds int       // Announce calls that were not taken back
	at    time.Time // of the last announce; zero: none yet
}

// NewLSD joins the groups. Close it. blob.ErrUnavailable: no interface of this machine can multicast.
func NewLSD(o LSDOptions) (*LSD, error) {
	var random [8]byte
	rand.Read(random[:])
	l := &LSD{
		o: o, log: o.Log, cookie: hex.EncodeToString(random[:]), kick: make(chan struct{}, 1), stop: make(chan struct{}),
		keys: map[[20]byte]*told{}, quota: newQuota(lsdEach, lsdAll), links: map[string]*link{},
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.o.Port == 0 {
		l.o.Port = lsdPort
	}
	if err := l.join(); err != nil {
		return nil, err
	}
	l.wg.Go(l.announce)
	return l, nil
}

// join opens links on interfaces that have appeared.
func (l *LSD) join() error {
	var last error
	found := map[string]bool{}
	for _, p := range places(l.o.Listen.Addr()) {
		key := (&link{name: p.ifi.Name, six: p.src.Is6()}).key()
		found[key] = true
		l.mu.Lock()
		have := l.links[key] != nil
		l.mu.Unlock()
		if have {
			continue
		}
		k, err := openLink(p.ifi, p.src.Is6(), p.src, l.o.Port)
		if err != nil {
			last = err
			l.log.Debug("local discovery", "interface", p.ifi.Name, "addr", p.src, "err", err)
			continue
		}
		l.mu.Lock()
		if l.ended {
			l.mu.Unlock()
			k.close()
			return nil
		}
		l.links[key] = k
		l.wg.Go(func() { l.listen(k) })
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, k := range l.links {
		if !found[key] {
			k.close() // its reader ends
			delete(l.links, key)
		}
	}
	if len(l.links) == 0 {
		return fmt.Errorf("local discovery: %w: no interface with %s can multicast: leave it off with --lsd off (%v)", blob.ErrUnavailable, l.o.Listen.Addr(), last)
	}
	return nil
}

// Announce tells the local network that the peers of key are reached at our port, now and every 5 minutes, until
// stop is called.
func (l *LSD) Announce(key [20]byte) (stop func()) {
	l.mu.Lock()
	t := l.keys[key]
	if t == nil {
		t = new(told)
		l.keys[key] = t
	}
	t.holds++
	if time.Since(t.at) > lsdAgain {
		t.at = time.Time{}
	}
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		t.holds--
		l.mu.Unlock()
	})
}

// Close leaves the groups and waits for every goroutine.
func (l *LSD) Close() {
	l.once.Do(func() {
		close(l.stop)
		l.mu.Lock()
		l.ended = true
		for _, k := range l.links {
			k.close()
		}
		l.mu.Unlock()
	})
	l.wg.Wait()
}

// announce is the goroutine that sends.
func (l *LSD) announce() {
	timer := time.NewTimer(lsdEvery)
	defer timer.Stop()
	for {
		select {
		case <-l.kick:
			if !l.sleep(lsdGather) {
				return
			}
		case <-timer.C:
			if err := l.join(); err != nil {
				l.log.Warn("local discovery rests", "err", err)
			}
		case <-l.stop:
			return
		}
		next, ok := l.sendDue()
		if !ok {
			return
		}
		timer.Reset(next)
	}
}

func (l *LSD) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-l.stop:
		return false
	}
}

// sendDue announces the keys that are due and says when the next ones are. ok is false when it is over.
func (l *LSD) sendDue() (next time.Duration, ok bool) {
	at := time.Now()
	next = lsdEvery
	var due [][20]byte
	var links []*link
	l.mu.Lock()
	for key, t := range l.keys {
		switch wait := lsdEvery - at.Sub(t.at); {
		case t.holds == 0 && at.Sub(t.at) > lsdAgain:
			delete(l.keys, key)
		case t.holds == 0:
		case t.at.IsZero() || wait <= 0:
			t.at = at
			due = append(due, key)
		default:
			next = min(next, wait)
		}
	}
	for _, k := range l.links {
		links = append(links, k)
	}
	l.mu.Unlock()
	for len(due) > 0 {
		n := min(len(due), maxKeys)
		a := announce{port: l.o.Listen.Port(), keys: due[:n], cookie: l.cookie}
		due = due[n:]
		for _, k := range links {
			group := group4
			if k.six {
				group = "[" + group6 + "]"
			}
			if _, err := k.out.WriteToUDPAddrPort(appendAnnounce(nil, group, a), k.group); err != nil {
				l.log.Debug("local discovery: send", "interface", k.name, "err", err)
			}
		}
		if len(due) > 0 && !l.sleep(lsdGap) {
			return 0, false
		}
	}
	return next, true
}

// listen is the goroutine that receives on one interface.
func (l *LSD) listen(k *link) {
	buf := make([]byte, maxAnnounce+1)
	for {
		n, from, err := k.in.ReadFromUDPAddrPort(buf)
		if err != nil {
			// Other errors are about one packet, such as an interface that went down for a moment.
			if errors.Is(err, net.ErrClosed) || !l.sleep(100*time.Millisecond) {
				return
			}
			continue
		}
		l.heard(buf[:n], from.Addr().Unmap())
	}
}

// heard looks at one packet.
func (l *LSD) heard(b []byte, from netip.Addr) {
	l.mu.Lock()
	ok := l.quota.take(from, time.Now())
	l.mu.Unlock()
	if !ok {
		return
	}
	a, err := parseAnnounce(b)
	if err != nil || a.cookie == l.cookie {
		return
	}
	peer := netip.AddrPortFrom(from.WithZone(""), a.port)
	for _, key := range a.keys {
		l.mu.Lock()
		t := l.keys[key]
		ours := t != nil && t.holds > 0
		l.mu.Unlock()
		if ours && l.o.OnPeer != nil {
			l.o.OnPeer(key, peer)
		}
	}
}
