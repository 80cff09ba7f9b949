package tracker

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// served is a tracker that listens on loopback.
func served(t testing.TB, o ServerOptions) (s *Server, addr string) {
	t.Helper()
	s = NewServer(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Close does not end Serve")
		}
	})
	return s, l.Addr().String()
}

// dialed is a client's connection.
type dialed struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *dialed {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &dialed{c, t, bufio.NewReader(c)}
}

func (c *dialed) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// hear reads one reply.
func (c *dialed) hear() (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r, string(body)
}

// hangsUp reports that the other side closes the connection.
func (c *dialed) hangsUp() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err != io.EOF {
		c.t.Errorf("the connection goes on: %q, %v", b, err)
	}
}

const plainQuery = "/announce?info_hash=%00%01%02abcdefghijklmnopq&peer_id=-XX0001-abcdefghijkl&port=6881&left=5&event=started"

// get is a request as real clients write it.
func get(target, version string, fields ...string) string {
	return "GET " + target + " HTTP/" + version + "\r\n" + strings.Join(append(fields, "", ""), "\r\n")
}

func TestFrontAnswers(t *testing.T) {
	_, addr := served(t, ServerOptions{Interval: time.Minute})
	const body = "d8:completei0e10:incompletei1e8:intervali60e5:peers0:e"
	for _, c := range []struct {
		name, q, connection string
		keeps               bool
	}{
		{"curl", get(plainQuery, "1.1", "Host: x:1", "User-Agent: curl/8", "Accept: */*"), "", true},
		{"transmission", get(plainQuery, "1.1", "Host: x", "User-Agent: Transmission/3.00", "Accept: */*", "Accept-Encoding: deflate, gzip, br"), "", true},
		{"libtorrent", get(plainQuery, "1.1", "Host: [::1]:7700", "User-Agent: libtorrent/2.0.8.0", "Accept-Encoding: gzip", "Connection: close"), "close", false},
		{"aria2", get(plainQuery, "1.1", "User-Agent: aria2/1.36.0", "Accept: */*", "Host: x:7700", "Pragma: no-cache", "Cache-Control: no-cache", "Connection: close"), "close", false},
		{"old", get(plainQuery, "1.0"), "close", false},
		{"old, with a host", get(plainQuery, "1.0", "Host: x"), "close", false},
		{"old, kept", get(plainQuery, "1.0", "Connection: Keep-Alive"), "keep-alive", true},
		{"in a folder", get("/a/b"+plainQuery, "1.1", "Host: x"), "", true},
	} {
		d := dial(t, addr)
		d.say(c.q)
		r, got := d.hear()
		if r.StatusCode != 200 || got != body || r.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("%s: %v %q", c.name, r, got)
		}
		if says := strings.ToLower(r.Header.Get("Connection")); says != c.connection && !(c.connection == "close" && r.Close) {
			t.Errorf("%s: Connection %q, want %q", c.name, says, c.connection)
		}
		if at, err := http.ParseTime(r.Header.Get("Date")); err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("%s: Date %v, %v", c.name, at, err)
		}
		if !c.keeps {
			d.hangsUp()
			continue
		}
		d.say(c.q)
		if _, got := d.hear(); got != body {
			t.Errorf("%s: second reply %q", c.name, got)
		}
	}
}

// TestFrontPipelining: many requests at once, in pieces of any length, are answered in order, and what is not the
// front's comes last, by net/http, with the bytes that follow it.
func TestFrontPipelining(t *testing.T) {
	_, addr := served(t, ServerOptions{})
	var q strings.Builder
	const n = 300
	for i := range n {
		q.WriteString(get(fmt.Sprintf("/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0001-%012d&port=%d&compact=%d", i, i+1, i%2), "1.1", "Host: x"))
	}
	q.WriteString(get("/healthz", "1.1", "Host: x"))
	plan := (&planRequest{key: key{1}, peer: peerID{1}, port: 1, geometry: small, full: true, seq: 1}).append(nil)
	fmt.Fprintf(&q, "POST /plan HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(plan), plan)
	q.WriteString(get(plainQuery, "1.1", "Host: x"))
	for _, step := range []int{1 << 20, 1000, 77} {
		d := dial(t, addr)
		var writing sync.WaitGroup
		writing.Go(func() {
			for rest := q.String(); rest != ""; rest = rest[min(step, len(rest)):] {
				if _, err := io.WriteString(d, rest[:min(step, len(rest))]); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for i := range n {
			if _, got := d.hear(); !strings.Contains(got, "10:incomplete") {
				t.Fatalf("in steps of %d: reply %d is %q", step, i, got)
			}
		}
		if _, got := d.hear(); got != "ok\n" {
			t.Errorf("healthz: %q", got)
		}
		if _, got := d.hear(); !strings.Contains(got, "5:epoch") {
			t.Errorf("plan: %q", got)
		}
		if _, got := d.hear(); !strings.Contains(got, "10:incomplete") {
			t.Errorf("announce through net/http: %q", got)
		}
		writing.Wait()
	}
}

// TestFrontLeavesToOthers: what the front does not answer is answered by net/http, as by net/http alone.
func TestFrontLeavesToOthers(t *testing.T) {
	_, addr := served(t, ServerOptions{})
	for _, c := range []struct {
		q      string
		status int
	}{
		{get(plainQuery, "1.1"), 400}, // no host
		{get(plainQuery, "1.1", "Host: x", "Host: y"), 400},
		{get(plainQuery, "1.1", "Host: x", "Bad Name: y"), 400},
		{get(plainQuery, "1.1", "Host: x", "A: \x01"), 400},
		{get(plainQuery, "2.0", "Host: x"), 505},
		{get(plainQuery, "1.1", "Host: x", "Connection: close, foo"), 200},
		{get(plainQuery, "1.1", "Host: x", "Content-Length: 0"), 200},
		{get("/announce%3F", "1.1", "Host: x"), 404},
		{get("/stats", "1.1", "Host: x"), 200},
		{get("/", "1.1", "Host: x"), 404},
		{get("http://x"+plainQuery, "1.1", "Host: x"), 200},
		{"HEAD" + get(plainQuery, "1.1", "Host: x")[3:], 200},
		{"\x16\x03\x01\x02\x00\x01", 400}, // TLS
		{get("/announce?"+strings.Repeat("x", 2*maxHead), "1.1", "Host: x"), 431},
		{get(plainQuery, "1.1", "Host: x", "X: "+strings.Repeat("x", 2*maxHead)), 431},
		{"GET /announce?x\nHTTP/1.1\n\n", 400},
	} {
		d := dial(t, addr)
		d.say(c.q)
		d.Conn.(*net.TCPConn).CloseWrite()
		r, err := http.ReadResponse(d.r, &http.Request{Method: strings.SplitN(c.q, " ", 2)[0]})
		if err != nil || r.StatusCode != c.status {
			t.Errorf("%.80q: %v, %v, want %d", c.q, r, err, c.status)
		}
	}
}

func TestFrontConnectionCap(t *testing.T) {
	_, addr := served(t, ServerOptions{MaxConns: 4})
	request := get(plainQuery, "1.1", "Host: x")
	var taken []*dialed
	for i := range 4 {
		d := dial(t, addr)
		if i < 2 {
			d.say(request)
			if r, _ := d.hear(); r.Close {
				t.Errorf("connection %d of 4 is not kept", i+1)
			}
		} else {
			d.say("GET /ann")
		}
		taken = append(taken, d)
	}
	d := dial(t, addr)
	d.say(request) // accepted after the four: one too many
	if r, body := d.hear(); r.StatusCode != 503 || !strings.Contains(body, "too many connections") || r.Header.Get("Retry-After") == "" || !r.Close {
		t.Fatalf("%v %q", r, body)
	}
	taken[1].say(request)
	if r, _ := taken[1].hear(); !r.Close {
		t.Error("with four of four connections one is kept after its reply")
	}
	taken[1].hangsUp()
	taken[3].Close()
	// A few hundred descriptors at most: each round keeps one for a while.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		d := dial(t, addr)
		if _, err := io.WriteString(d, request); err == nil {
			if r, err := http.ReadResponse(d.r, nil); err == nil && r.StatusCode == 200 {
				break
			}
		}
		defer d.Close() // and not now: those who are refused must not keep others out
		if time.Now().After(end) {
			t.Fatal("a place that is free again is not given away")
		}
	}
}

// pipes is a listener of connections without a network, so that time can be virtual.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

type pipeEnd struct{ net.Conn }

func (pipeEnd) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 9} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipes) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 80} }
func (l *pipes) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- pipeEnd{b}
	return a
}

// TestFrontPatience: a head that does not become whole ends a connection after 10 s, however slowly its bytes keep
// coming; a connection that is kept and idle ends after 2 minutes, and a reader that does not read after 40 s.
func TestFrontPatience(t *testing.T) {
	request := get(plainQuery, "1.1", "Host: x")
	for _, c := range []struct {
		name   string
		act    func(t *testing.T, c net.Conn)
		lo, hi time.Duration
	}{
		{"says nothing", func(t *testing.T, c net.Conn) {}, 9 * time.Second, 11 * time.Second},
		{"a byte a second", func(t *testing.T, c net.Conn) {
			for i := range len(request) {
				if _, err := c.Write([]byte{request[i]}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, 9 * time.Second, 11 * time.Second},
		{"a byte a second, later", func(t *testing.T, c net.Conn) {
			announceOn(t, c, request)
			time.Sleep(time.Minute)
			for i := range len(request) {
				if _, err := c.Write([]byte{request[i]}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, 69 * time.Second, 72 * time.Second},
		{"a byte a second, after a net/http request", func(t *testing.T, c net.Conn) {
			announceOn(t, c, get("/healthz", "1.1", "Host: x"))
			time.Sleep(time.Minute)
			go io.Copy(io.Discard, c) // net/http says that it gives up
			for i := range len(request) {
				if _, err := c.Write([]byte{request[i]}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, 69 * time.Second, 75 * time.Second},
		{"idle", func(t *testing.T, c net.Conn) { announceOn(t, c, request) }, 119 * time.Second, 121 * time.Second},
		{"busy, then idle", func(t *testing.T, c net.Conn) {
			for range 30 {
				announceOn(t, c, request)
				time.Sleep(20 * time.Second)
			}
		}, (580 + 90) * time.Second, (580 + 121) * time.Second},
		{"does not read", func(t *testing.T, c net.Conn) {
			c.Write([]byte(request))
			time.Sleep(50 * time.Second)
		}, 10 * time.Second, 51 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(ServerOptions{Interval: time.Hour})
				l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				ended := make(chan error, 1)
				go func() { ended <- s.Serve(l) }()
				conn := l.dial()
				began := time.Now()
				c.act(t, conn)
				io.Copy(io.Discard, conn) // until the other side ends it
				if took := time.Since(began); took < c.lo || took > c.hi {
					t.Errorf("it ended after %v, want %v to %v", took, c.lo, c.hi)
				}
				conn.Close()
				s.Close()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// announceOn performs one request.
func announceOn(t *testing.T, c net.Conn, request string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r.Body); err != nil {
		t.Fatal(err)
	}
}

// TestFrontUnderSiege: a thousand clients that do not finish their heads and a thousand that idle do not keep a good
// one from being answered.
func TestFrontUnderSiege(t *testing.T) {
	s, addr := served(t, ServerOptions{})
	request := get(plainQuery, "1.1", "Host: x")
	for i := range 2000 {
		d := dial(t, addr)
		if i%2 == 0 {
			d.say(request[:20+i%40])
		} else {
			d.say(request)
			d.hear()
		}
	}
	d := dial(t, addr)
	for range 200 {
		d.say(request)
		if r, _ := d.hear(); r.StatusCode != 200 || r.Close {
			t.Fatalf("%v", r)
		}
	}
	if n := s.announces.Load(); n != 1200 {
		t.Errorf("%d announces", n)
	}
}

// TestFrontAllocations: reading a head, and answering it, allocates nothing.
func TestFrontAllocations(t *testing.T) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	q := []byte(get(plainQuery+"&key=abc", "1.1", "Host: x", "User-Agent: y", "Accept-Encoding: gzip"))
	now, d, ip := time.Now(), new(desk), addrOf(from16("8.8.8.8"))
	if n := testing.AllocsPerRun(200, func() {
		h, v := readHead(q)
		if v != ours {
			t.Fatal(v)
		}
		d.body = s.answerAnnounce(d.body[:0], h.query, ip, now, d)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzHTTPHead: what the front takes for a request of its own, net/http reads in the same way.
func FuzzHTTPHead(f *testing.F) {
	for _, s := range []string{
		get(plainQuery, "1.1", "Host: x"), get(plainQuery, "1.0", "Connection: keep-alive"), get("/x/scrape?info_hash=%", "1.1", "Host: [::1]:1", "Connection: close") + "more",
		get("/announce", "1.1", "Host: x", "A:", "B: \t c "), "GET /announce?a=b#c HTTP/1.1\r\nHOST:x\r\n\r\n", "GET //announce HTTP/1.0\r\n\r\n",
		"GET /announce?\xff HTTP/1.0\r\n\r\n", "GET /announce HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, v := readHead(b)
		for n := range min(len(b), 200) { // no part of a head of ours is foreign
			if _, w := readHead(b[:n]); v == ours && n < h.length && w != partial {
				t.Fatalf("%q: %d bytes are %d", b, n, w)
			}
		}
		if v != ours {
			return
		}
		r := bufio.NewReader(bytes.NewReader(b))
		q, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("%q: net/http says %v", b, err)
		}
		rest, _ := io.ReadAll(r)
		if !bytes.Equal(rest, b[h.length:]) {
			t.Fatalf("%q: net/http goes on with %q, we with %q", b, rest, b[h.length:])
		}
		base := path.Base(q.URL.Path)
		if q.Method != "GET" || q.URL.RawQuery != string(h.query) || (base == "scrape") != h.scrape || base != "scrape" && base != "announce" {
			t.Fatalf("%q: net/http reads %s %s, base %s", b, q.Method, q.URL, base)
		}
		if q.ContentLength != 0 || len(q.TransferEncoding) > 0 || q.Close == h.keep {
			t.Fatalf("%q: net/http reads length %d, encoding %v, close %v; keep is %v", b, q.ContentLength, q.TransferEncoding, q.Close, h.keep)
		}
	})
}

// FuzzQuery: values are decoded as net/url does.
func FuzzQuery(f *testing.F) {
	f.Add("a=b&c=%20+%zz&d")
	f.Add("=&&%=%1")
	f.Fuzz(func(t *testing.T, query string) {
		var got []string
		err := eachParam([]byte(query), nil, func(k, v []byte) error {
			got = append(got, string(k), string(v))
			return nil
		})
		var want []string
		for pair := range strings.SplitSeq(query, "&") {
			if query == "" {
				break
			}
			k, v, _ := strings.Cut(pair, "=")
			v, wrong := url.QueryUnescape(v)
			if wrong != nil {
				if err == nil {
					t.Fatalf("%q: net/url says %v", query, wrong)
				}
				return
			}
			want = append(want, k, v)
		}
		if strings.HasSuffix(query, "&") { // nothing follows
			want = want[:len(want)-2]
		}
		if err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Fatalf("%q: %q, %v, want %q", query, got, err, want)
		}
	})
}
