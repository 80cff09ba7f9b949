package tracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// The front is the HTTP of the tracker for announces and scrapes: it reads the head where it lies, answers, and reads
// the next one. An announce through net/http costs more than twice as much, nearly all of it for headers that nobody
// looks at (docs/decisions/0009). All other requests are handed to net/http, connection and all.

// Bounds of the front.
const (
	headWait = 10 * time.Second // for a whole head, from its first byte, or from the connection
	idleWait = 2 * time.Minute  // for the next head on a connection that is kept
	sendWait = 10 * time.Second // for a reply to leave: it is shorter than a socket's buffer, so nobody honest waits
	restWait = 30 * time.Second // for the reply of net/http; a poll asks for more (poll.go)
	lazily   = 30 * time.Second // deadlines are put off in steps: setting one costs 3 % of an announce

	firstRead   = 1 << 10  // of a connection: heads of announces are 300 to 500 bytes
	flushAt     = 16 << 10 // replies to pipelined requests leave together until they are as long as this, and one more
	spareFiles  = 256      // that connections leave to the rest of the process
	maxLingers  = 256      // connections that are refused and wait for their sender to hear it
	lingerFor   = 500 * time.Millisecond
	mostDrained = 64 << 10

	// defaultMaxConns is how many connections there may be when nobody says: 64 MiB of stacks and buffers.
	defaultMaxConns = 8192
)

// desk is what answering takes, and waiting does not.
type desk struct {
	out, body []byte
	room      [64]byte // for parseAnnounce
	r         announceRequest
	f         found
}

var desks = sync.Pool{New: func() any { return new(desk) }}

// front serves one listener.
type front struct {
	s        *Server
	rest     *handover
	maxConns int64
	open     atomic.Int64 // connections, those of net/http too
	lingers  atomic.Int64
	date     atomic.Pointer[dateText]
	conns    sync.WaitGroup

	mu  sync.Mutex // guards all; innermost
	all map[net.Conn]struct{}
}

// dateText is the Date field of one second.
type dateText struct {
	unix int64
	text string
}

// Serve answers HTTP on l, which it takes over, until Close; then it returns nil, when all connections are closed.
// There may be MaxConns connections; one more is answered 503 and closed. From half as many on, connections are closed
// after a reply instead of kept.
func (s *Server) Serve(l net.Listener) error {
	f := &front{s: s, rest: newHandover(l.Addr()), maxConns: int64(s.maxConns), all: map[net.Conn]struct{}{}}
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil && files.Cur < uint64(f.maxConns)+spareFiles {
		f.maxConns = max(1, int64(files.Cur)-spareFiles)
	}
	inner := &http.Server{Handler: s, ReadHeaderTimeout: headWait, WriteTimeout: restWait, IdleTimeout: idleWait, MaxHeaderBytes: maxHead}
	var parts sync.WaitGroup
	parts.Go(func() { _ = inner.Serve(f.rest) }) // ends when rest does
	ended := make(chan struct{})
	parts.Go(func() {
		select {
		case <-s.closing:
		case <-ended:
		}
		l.Close()
	})

	err := f.accept(l)
	close(ended)
	f.closeAll()
	f.conns.Wait()
	stop, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if inner.Shutdown(stop) != nil {
		inner.Close()
	}
	f.rest.Close()
	parts.Wait()
	select {
	case <-s.closing:
		return nil
	default:
	}
	return fmt.Errorf("%w: tracker: HTTP: %v", blob.ErrUnavailable, err)
}

// accept takes connections until l fails for good.
func (f *front) accept(l net.Listener) error {
	const first, longest = 5 * time.Millisecond, time.Second // as net/http
	pause := first
	for {
		c, err := l.Accept()
		var short interface{ Temporary() bool } // out of file descriptors, above all
		switch {
		case err == nil:
			pause = first
		case errors.As(err, &short) && short.Temporary():
			f.s.log.Warn("tracker: no new connection for a moment", "err", err)
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-f.s.closing:
			}
			t.Stop()
			pause = min(2*pause, longest)
			continue
		default:
			return err
		}
		if f.open.Add(1) > f.maxConns {
			f.refuse(c)
			continue
		}
		f.mu.Lock()
		f.all[c] = struct{}{} // accept ends before closeAll begins
		f.mu.Unlock()
		f.conns.Go(func() { f.serve(c) })
	}
}

// closeAll ends the connections that the front serves.
func (f *front) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.all {
		c.Close()
	}
}

// drop forgets a connection, and closes it unless it has been handed over.
func (f *front) drop(c net.Conn, handed bool) {
	f.mu.Lock()
	delete(f.all, c)
	f.mu.Unlock()
	if !handed {
		c.Close()
		f.open.Add(-1)
	}
}

// refuse answers a connection too many. It no longer counts as open: else those who are refused, and come again,
// would keep everybody out.
func (f *front) refuse(c net.Conn) {
	f.open.Add(-1)
	f.s.refused.Add(1)
	if f.lingers.Add(1) > maxLingers {
		f.lingers.Add(-1)
		c.Close()
		return
	}
	f.conns.Go(func() {
		const text = "the tracker has too many connections: try again, or announce over UDP"
		b := appendFailure(nil, text)
		head := "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 10\r\nConnection: close\r\nContent-Length: " + strconv.Itoa(len(b)) + "\r\n\r\n"
		if c.SetDeadline(time.Now().Add(lingerFor)) == nil {
			if _, err := c.Write(append([]byte(head), b...)); err == nil {
				linger(c)
			}
		}
		c.Close()
		f.lingers.Add(-1)
	})
}

// linger lets the other side hear the last reply: closing a socket with unread bytes resets it.
func linger(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerFor)) == nil {
		_, _ = io.CopyN(io.Discard, c, mostDrained) // how it ends does not matter
	}
}

// serve answers what comes on one connection.
func (f *front) serve(c net.Conn) {
	handed := false
	defer func() { f.drop(c, handed) }()
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return
	}
	now := time.Now()
	read, write := now.Add(headWait), time.Time{} // deadlines that are set
	if c.SetReadDeadline(read) != nil {
		return
	}
	inHead := true // read is for the rest of a head
	buf, n := make([]byte, firstRead), 0
	for {
		if n == len(buf) {
			// Not beyond maxHead: readHead gives a longer one away.
			buf = append(buf, make([]byte, min(len(buf), maxHead+firstRead-len(buf)))...)
		}
		k, err := c.Read(buf[n:])
		if n += k; err != nil {
			return
		}
		now = time.Now()
		used := 0
		for more := true; more; {
			a := f.answer(buf[used:n], from.Addr(), now)
			used += a.used
			if a.desk != nil {
				if write.Sub(now) < sendWait {
					write = now.Add(sendWait + lazily)
					if c.SetWriteDeadline(write) != nil {
						return
					}
				}
				_, err = c.Write(a.desk.out)
				desks.Put(a.desk)
				if err != nil {
					return
				}
			}
			switch {
			case a.close:
				if n > used {
					linger(c)
				}
				return
			case a.next == foreign:
				handed = f.pass(c, buf[used:n])
				return
			}
			more = a.next == ours
		}
		n = copy(buf, buf[used:n])
		switch {
		case n > 0 && (!inHead || used > 0): // a head has begun
			read, inHead = now.Add(headWait), true
		case n == 0 && (inHead || read.Sub(now) < idleWait-lazily):
			read, inHead = now.Add(idleWait), false
			if len(buf) > firstRead {
				buf = make([]byte, firstRead)
			}
		default:
			continue
		}
		if c.SetReadDeadline(read) != nil {
			return
		}
	}
}

// answered is what became of what had come on a connection.
type answered struct {
	used  int     // bytes: the heads that were answered
	next  verdict // on what follows
	close bool    // after the last reply
	desk  *desk   // with the replies; nil: none
}

// answer answers the complete heads of b, until the replies are as long as may leave together.
func (f *front) answer(b []byte, ip netip.Addr, now time.Time) (a answered) {
	for {
		var h head
		if h, a.next = readHead(b[a.used:]); a.next != ours || a.desk != nil && len(a.desk.out) >= flushAt {
			return a
		}
		if a.desk == nil {
			a.desk = desks.Get().(*desk)
			a.desk.out = a.desk.out[:0]
		}
		out := a.desk
		if h.scrape {
			out.body = f.s.answerScrape(out.body[:0], h.query)
		} else {
			out.body = f.s.answerAnnounce(out.body[:0], h.query, ip, now, out)
		}
		keep := h.keep && f.open.Load() <= f.maxConns/2
		o := append(out.out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: "...)
		o = append(o, f.dateAt(now)...)
		if !keep {
			o = append(o, "\r\nConnection: close"...)
		} else if h.say {
			o = append(o, "\r\nConnection: keep-alive"...)
		}
		o = append(o, "\r\nContent-Length: "...)
		o = strconv.AppendInt(o, int64(len(out.body)), 10)
		o = append(o, "\r\n\r\n"...)
		out.out = append(o, out.body...)
		if a.used += h.length; !keep {
			a.close = true
			return a
		}
	}
}

// dateAt is the Date field (RFC 9110 6.6.1: a server with a clock sends one).
func (f *front) dateAt(now time.Time) string {
	d := f.date.Load()
	if d == nil || d.unix != now.Unix() {
		d = &dateText{now.Unix(), now.UTC().Format(http.TimeFormat)}
		f.date.Store(d)
	}
	return d.text
}

// pass hands a connection over, with the bytes that were read from it.
func (f *front) pass(c net.Conn, read []byte) bool {
	if c.SetDeadline(time.Time{}) != nil {
		return false
	}
	return f.rest.give(&begun{Conn: c, read: append([]byte(nil), read...), closed: func() { f.open.Add(-1) }})
}
