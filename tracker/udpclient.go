package tracker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// A node's end of the exchange over UDP (BEP 15; its bytes are in udp.go): for trackers of others. Ours plan, over
// HTTP.

const (
	// udpFirst is how long the first answer is waited for; the wait doubles with each of udpTries. BEP 15 says 15 s, eight
	// times; here the next tracker of the list, other peers and the origin are there to be asked, so after 7.5 s this
	// one has failed.
	udpFirst = 500 * time.Millisecond
	udpTries = 4
	udpLimit = 15 * udpFirst // 1 + 2 + 4 + 8

	udpIDFor = time.Minute // how long a connection id is used again (BEP 15)
	// udpGrace is how long the other family is waited for once one has answered.
	udpGrace = time.Second
)

// udpLink is what a session knows of a tracker by one address family.
type udpLink struct {
	addr  netip.AddrPort
	id    uint64
	until time.Time // when id is no longer used
}

// errRefused says that a tracker has answered with an error.
var errRefused = fmt.Errorf("%w: the tracker refuses", blob.ErrUnavailable)

// announceUDP performs one announce over UDP: over IPv4 and IPv6 when the tracker has both, because each brings the
// peers, and makes us known, of its own.
func (s *Session) announceUDP(ctx context.Context, e endpoint, event event) (*announceReply, error) {
	ctx, cancel := context.WithTimeout(ctx, udpLimit)
	defer cancel()
	host, text, _ := net.SplitHostPort(e.announce.Host) // parseEndpoint has looked
	port, _ := strconv.ParseUint(text, 10, 16)
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%w: tracker %s: %v: check its name", blob.ErrUnavailable, e.shown, err)
	}
	var all sync.WaitGroup
	var replies [2]*announceReply
	var errs [2]error
	left := s.left()
	for k, six := range [...]bool{false, true} {
		at := slices.IndexFunc(ips, func(ip netip.Addr) bool { return ip.Unmap().Is6() == six })
		if at < 0 {
			continue
		}
		link := &s.links[k]
		if addr := netip.AddrPortFrom(ips[at].Unmap(), uint16(port)); link.addr != addr {
			*link = udpLink{addr: addr}
		}
		all.Go(func() {
			if replies[k], errs[k] = s.announceOver(ctx, e, link, event, left); errs[k] == nil {
				time.AfterFunc(udpGrace, cancel) // of what has ended long before, as a rule
			}
		})
	}
	all.Wait()
	var sum *announceReply
	for _, r := range replies {
		switch {
		case r == nil:
		case sum == nil:
			sum = r
		default: // a tracker may count both families together, or each by itself
			sum.interval = max(sum.interval, r.interval)
			sum.complete, sum.incomplete = max(sum.complete, r.complete), max(sum.incomplete, r.incomplete)
			sum.peers = append(sum.peers, r.peers...)
		}
	}
	if sum != nil {
		return sum, nil
	}
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("%w: tracker %s: %w", blob.ErrUnavailable, e.shown, err)
		}
	}
	return nil, fmt.Errorf("%w: tracker %s has no address", blob.ErrUnavailable, e.shown)
}

// announceOver performs one announce to one address.
func (s *Session) announceOver(ctx context.Context, e endpoint, link *udpLink, event event, left int64) (*announceReply, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", link.addr.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	q := s.udpAnnounce(e, link.addr.Addr(), event, left)
	if time.Now().Before(link.until) {
		binary.BigEndian.PutUint64(q, link.id)
		if b, err := udpAsk(ctx, c, q, udpTries/2); err == nil {
			return parseUDPReply(b, link.addr.Addr().Is6())
		}
		link.until = time.Time{} // a tracker that was restarted may say nothing to an old id
	}
	b, err := udpAsk(ctx, c, udpConnect(), udpTries)
	if err != nil {
		return nil, err
	}
	if len(b) < 16 {
		return nil, fmt.Errorf("%w: answer of %d bytes to a connect", blob.ErrInvalid, len(b))
	}
	link.id, link.until = binary.BigEndian.Uint64(b[8:]), time.Now().Add(udpIDFor)
	binary.BigEndian.PutUint64(q, link.id)
	if b, err = udpAsk(ctx, c, q, udpTries); err != nil {
		link.until = time.Time{}
		return nil, err
	}
	return parseUDPReply(b, link.addr.Addr().Is6())
}

// udpAnnounce is an announce to ip, without connection id and transaction.
func (s *Session) udpAnnounce(e endpoint, ip netip.Addr, event event, left int64) []byte {
	q := make([]byte, announceLen, announceLen+len(e.announce.RequestURI())+4)
	binary.BigEndian.PutUint32(q[8:], actAnnounce)
	copy(q[16:], s.o.Key[:])
	copy(q[36:], s.o.PeerID[:])
	binary.BigEndian.PutUint64(q[64:], uint64(left))
	binary.BigEndian.PutUint32(q[80:], uint32(event))
	if said, err := netip.ParseAddr(s.o.IP); err == nil && said.Unmap().Is4() && ip.Is4() {
		copy(q[84:], said.Unmap().AsSlice())
	}
	binary.BigEndian.PutUint32(q[88:], s.secret)
	binary.BigEndian.PutUint32(q[92:], 50)
	binary.BigEndian.PutUint16(q[96:], uint16(s.o.Port))
	if at := e.announce.RequestURI(); at != "/announce" { // a passkey of a private tracker: BEP 41
		for ; len(at) > 0; at = at[min(255, len(at)):] {
			part := at[:min(255, len(at))]
			q = append(append(q, 2, byte(len(part))), part...)
		}
	}
	return q
}

// udpAsk sends q, up to tries times, with a new transaction each time, and returns the answer to any of them.
func udpAsk(ctx context.Context, c net.Conn, q []byte, tries int) ([]byte, error) {
	action := binary.BigEndian.Uint32(q[8:])
	asked := make([]uint32, 0, udpTries)
	b := make([]byte, 4096) // of an answer; what is longer is cut, and so are its peers
	var failed error
	for wait := udpFirst; len(asked) < tries; wait *= 2 {
		if err := ctx.Err(); err != nil {
			break
		}
		rand.Read(q[12:16])
		asked = append(asked, binary.BigEndian.Uint32(q[12:]))
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return nil, err
		}
		if ctx.Err() != nil { // its end may have come before the deadline that has just been set
			break
		}
		_, err := c.Write(q)
		for err == nil {
			var n int
			if n, err = c.Read(b); err != nil || n < 8 || !slices.Contains(asked, binary.BigEndian.Uint32(b[4:])) {
				continue
			}
			switch got := binary.BigEndian.Uint32(b); got {
			case action:
				return b[:n], nil
			case actError:
				return nil, fmt.Errorf("%w: %s", errRefused, strconv.QuoteToASCII(string(b[8:min(n, 208)])))
			default:
				return nil, fmt.Errorf("%w: action %d in answer to %d", blob.ErrInvalid, got, action)
			}
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			return nil, fmt.Errorf("%v: check that it runs and can be reached", err) // nobody listens
		}
		failed = err
	}
	if failed == nil {
		failed = context.Cause(ctx)
	}
	return nil, fmt.Errorf("no answer to %d packets: %v", len(asked), failed)
}

// parseUDPReply reads the answer to an announce.
func parseUDPReply(b []byte, six bool) (*announceReply, error) {
	if len(b) < 20 {
		return nil, fmt.Errorf("%w: answer of %d bytes to an announce", blob.ErrInvalid, len(b))
	}
	r := &announceReply{
		interval:   time.Duration(min(binary.BigEndian.Uint32(b[8:]), 1<<31-1)) * time.Second,
		incomplete: int64(binary.BigEndian.Uint32(b[12:])), complete: int64(binary.BigEndian.Uint32(b[16:])),
	}
	size := 4
	if six {
		size = 16
	}
	b = b[20:]
	return r, r.addAddresses(b[:len(b)/(size+2)*(size+2)], size)
}

// PingUDP asks a udp:// tracker for a connection id, and throws it away.
func PingUDP(ctx context.Context, announce string) error {
	e, err := parseEndpoint(announce)
	if err != nil {
		return err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", e.announce.Host)
	if err != nil {
		return fmt.Errorf("%w: tracker %s: %v", blob.ErrUnavailable, e.shown, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := udpAsk(ctx, c, udpConnect(), udpTries); err != nil {
		return fmt.Errorf("%w: tracker %s: %w", blob.ErrUnavailable, e.shown, err)
	}
	return nil
}

// udpConnect is a connect, without transaction.
func udpConnect() []byte {
	return append(binary.BigEndian.AppendUint64(nil, udpMagic), make([]byte, 8)...)
}
