package tracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
)

// endpoint is one tracker.
type endpoint struct {
	shown    string // the announce URL without user, password and query: they may be secrets
	announce url.URL
	plan     string
	records  string
}

// parseEndpoint reads the URL of a tracker: an announce URL, or only scheme and host.
func parseEndpoint(raw string) (endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The error of url.Parse repeats the URL, which may carry a password.
		return endpoint{}, fmt.Errorf("%w: a tracker URL cannot be parsed: write it as http://HOST:PORT/announce", blob.ErrInvalid)
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "udp" || u.Hostname() == "" {
		return endpoint{}, fmt.Errorf("%w: tracker %s: only http://, https:// and udp:// trackers are supported: write it as http://HOST:PORT/announce", blob.ErrInvalid, shown.String())
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); u.Scheme == "udp" && (err != nil || n == 0) {
		return endpoint{}, fmt.Errorf("%w: tracker %s: a udp:// tracker has a port: write it as udp://HOST:PORT", blob.ErrInvalid, shown.String())
	}
	if u.Path == "" || u.Path == "/" {
		u.Path, u.RawPath = "/announce", ""
	}
	shown.Path = u.Path
	u.Fragment = ""
	beside := func(name string) string {
		o := *u
		o.Path, o.RawPath = path.Join(path.Dir(u.Path), name), ""
		return o.String()
	}
	return endpoint{shown.String(), *u, beside("plan"), beside("records")}, nil
}

// errNoPlan says that the tracker speaks BEP 3 only.
var errNoPlan = errors.New("tracker does not plan")

// exchange sends one plan request and reads the reply, within its wait and exchangeLimit.
func (s *Session) exchange(ctx context.Context, e endpoint, q *planRequest) (*planReply, error) {
	if e.announce.Scheme == "udp" {
		return nil, errNoPlan
	}
	ctx, cancel := context.WithTimeout(ctx, q.wait+exchangeLimit)
	defer cancel()
	body := q.append(make([]byte, 0, 512+len(q.have)*runLen+len(q.roots)*rootLen))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.plan, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: tracker %s: %v", blob.ErrInvalid, e.shown, err)
	}
	// Reports are idempotent: net/http may repeat one when it finds a kept connection closed. The header
	// itself is not sent (net/http, Transport).
	r.Header["Idempotency-Key"] = nil
	status, body, err := s.do(r, e)
	if err != nil {
		return nil, err
	}
	switch status {
	case http.StatusOK:
		reply, err := parsePlanReply(body, s.pieces)
		if err != nil {
			return nil, fmt.Errorf("tracker %s: %w", e.shown, err)
		}
		return reply, nil
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return nil, errNoPlan
	case http.StatusBadRequest:
		if _, err := parseAnnounceReply(body); err != nil {
			return nil, errNoPlan // not our tracker's way to say it
		}
	}
	return nil, fmt.Errorf("%w: tracker %s: status %d%s", blob.ErrUnavailable, e.shown, status, reason(body))
}

// reason is what a refusal says, for a message.
func reason(body []byte) string {
	if r, err := parseAnnounceReply(body); err == nil && r.failure != "" {
		return ": " + r.failure
	}
	return ""
}

// do performs a request and reads the whole answer.
func (s *Session) do(r *http.Request, e endpoint) (status int, body []byte, err error) {
	return perform(s.client, r, e, maxReply)
}

// perform does a request and reads the whole answer, of at most limit bytes.
func perform(client *http.Client, r *http.Request, e endpoint, limit int64) (status int, body []byte, err error) {
	r.Header["User-Agent"] = []string{"pantala"}
	answer, err := client.Do(r)
	if err != nil {
		var u *url.Error // repeats the URL: take what is inside
		if errors.As(err, &u) {
			err = u.Err
		}
		return 0, nil, fmt.Errorf("%w: tracker %s: %v: check that it runs and can be reached", blob.ErrUnavailable, e.shown, err)
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("reply longer than %d bytes", limit)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%w: tracker %s: %v", blob.ErrUnavailable, e.shown, err)
	}
	return answer.StatusCode, body, nil
}

// maxTold bounds what a session remembers of whom it has been told: 65536 addresses are 4 MiB.
const maxTold = 1 << 16

// announceOnly speaks BEP 3 with a tracker that does not plan, until it fails or ctx ends. The state is None:
// there are peers to ask, and nobody who schedules.
func (s *Session) announceOnly(ctx context.Context, e endpoint, plain map[string]bool) (answeredOnce bool, err error) {
	child, cancel := context.WithCancel(ctx)
	home := make(chan struct{}, 1)
	var scout sync.WaitGroup
	scout.Go(func() { s.lookHome(child, e, plain, home) })
	defer func() {
		cancel()
		scout.Wait()
	}()
	event := started
	told := map[netip.AddrPort]bool{}
	whole := s.left() == 0
	for {
		reply, err := s.announce(ctx, e, event)
		if err != nil {
			return answeredOnce, err
		}
		answeredOnce, event = true, none
		s.mu.Lock()
		s.status.URL, s.status.LastError, s.status.LastReply = e.shown, "", time.Now()
		s.status.Exchanges++
		s.mu.Unlock()
		s.show(&view{state: None})
		s.answered()
		var fresh []netip.AddrPort
		if len(told) > maxTold {
			clear(told)
		}
		for _, p := range reply.peers {
			if p.addr.Port() != 0 && p.id != s.o.PeerID && !told[p.addr] {
				told[p.addr] = true
				fresh = append(fresh, p.addr)
			}
		}
		s.mu.Lock()
		s.status.Peers += len(fresh)
		s.mu.Unlock()
		if len(fresh) > 0 && s.o.OnPeers != nil {
			s.o.OnPeers(fresh)
		}
		pause := min(max(reply.interval, 5*time.Second), 30*time.Minute)
		if s.o.Impatient && len(told) == 0 {
			pause = impatience
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-home:
			err = errHome
		case <-ctx.Done():
			err = errClosed
		}
		again.Stop()
		if err != nil {
			bye, cancel := context.WithTimeout(context.Background(), stopLimit)
			defer cancel()
			if _, err := s.announce(bye, e, stopped); err != nil {
				s.log.Debug("tracker was not told that we leave; it will find out", "tracker", e.shown, "err", err)
			}
			return true, err
		}
		if !whole && s.left() == 0 {
			whole, event = true, completed
		}
	}
}

// left is how many bytes are missing here, in whole pieces.
func (s *Session) left() int64 {
	have, g := bitmap(s.o.Store.Pieces()), s.o.Geometry
	left := int64(0)
	for i := have.nextClear(0, s.pieces); i < s.pieces; i = have.nextClear(i+1, s.pieces) {
		_, n := g.Bytes(g.PieceBlocks(i))
		left += n
	}
	return left
}

// announce performs one BEP 3 announce.
func (s *Session) announce(ctx context.Context, e endpoint, event event) (*announceReply, error) {
	if e.announce.Scheme == "udp" {
		return s.announceUDP(ctx, e, event)
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit)
	defer cancel()
	var q strings.Builder
	if q.WriteString(e.announce.RawQuery); q.Len() > 0 {
		q.WriteByte('&') // a passkey of a private tracker
	}
	fmt.Fprintf(&q, "info_hash=%s&peer_id=%s&port=%d&uploaded=0&downloaded=0&left=%d&compact=1&numwant=50&key=%08x",
		percent(s.o.Key[:]), percent(s.o.PeerID[:]), s.o.Port, s.left(), s.secret)
	if event != none {
		q.WriteString("&event=" + eventNames[event])
	}
	if s.o.IP != "" {
		q.WriteString("&ip=" + url.QueryEscape(s.o.IP))
	}
	u := e.announce
	u.RawQuery = q.String()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: tracker %s: %v", blob.ErrInvalid, e.shown, err)
	}
	status, body, err := s.do(r, e)
	if err != nil {
		return nil, err
	}
	reply, err := parseAnnounceReply(body)
	switch {
	case status != http.StatusOK:
		return nil, fmt.Errorf("%w: tracker %s: status %s%s", blob.ErrUnavailable, e.shown, strconv.Itoa(status), reason(body))
	case err != nil:
		return nil, fmt.Errorf("tracker %s: %w", e.shown, err)
	case reply.failure != "":
		return nil, fmt.Errorf("%w: tracker %s refuses: %s", blob.ErrUnavailable, e.shown, reply.failure)
	}
	return reply, nil
}

// percent encodes bytes for a query. A blank is %20: not every tracker reads + as one.
func percent(b []byte) string {
	return strings.ReplaceAll(url.QueryEscape(string(b)), "+", "%20")
}
