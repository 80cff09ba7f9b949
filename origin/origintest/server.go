package origintest

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// Request is one request as it was seen.
type Request struct {
	Path   string
	Query  string
	Header http.Header
	Host   string
	Proto  string
	Status int // of the answer; 0: none was sent
}

// Server serves one object under every path.
type Server struct {
	*httptest.Server
	tb   testing.TB
	quit chan struct{}
	once sync.Once

	mu       sync.Mutex // guards all below
	content  Content
	etag     string
	modified time.Time
	faults   Faults
	left     int // requests for which faults hold, when Times is set
	change   int // requests until the content changes, 0: never
	next     Content
	token    string // what the query must be, "" for anything
	conns    int
	bytes    int64
	log      []Request
	came     chan struct{} // closed and replaced at every request
}

// New serves content over HTTP until the test ends.
func New(tb testing.TB, content Content) *Server {
	s := prepare(tb, content)
	s.Server.Start()
	return s
}

// NewTLS serves content over HTTPS, with HTTP/2 if h2, until the test ends. [Server.CertPEM] is its CA.
func NewTLS(tb testing.TB, content Content, h2 bool) *Server {
	s := prepare(tb, content)
	s.Server.EnableHTTP2 = h2
	s.Server.Config.ErrorLog = quiet()
	s.Server.StartTLS()
	return s
}

// NewTLSOnly2 serves content over HTTPS to clients that offer HTTP/2 only.
func NewTLSOnly2(tb testing.TB, content Content) *Server {
	s := prepare(tb, content)
	s.Server.EnableHTTP2 = true
	s.Server.Config.ErrorLog = quiet()
	s.Server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		// A crypto/tls server with "h2" alone would let "http/1.1" pass; one with another name does not.
		conf := &tls.Config{Certificates: s.Server.TLS.Certificates, NextProtos: []string{"none"}}
		if slices.Contains(hello.SupportedProtos, "h2") {
			conf.NextProtos = []string{"h2"}
		}
		return conf, nil
	}}
	s.Server.StartTLS()
	return s
}

func prepare(tb testing.TB, content Content) *Server {
	s := &Server{tb: tb, came: make(chan struct{}), quit: make(chan struct{}), content: content, etag: `"v1"`, modified: time.Now().Add(-24 * time.Hour).Truncate(time.Second)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Server.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.conns++
		}
	}
	tb.Cleanup(s.Close)
	return s
}

// Close ends what stalls, waits for all requests and closes the server. It may be called twice.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.quit)
		s.Server.CloseClientConnections()
		s.Server.Close()
	})
}

// At is the URL of the object under a path.
func (s *Server) At(path string) string { return s.Server.URL + path }

// Set replaces the faults.
func (s *Server) Set(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.left = f, f.Times
}

// Change replaces the object by another version, with another ETag and date.
func (s *Server) Change(to Content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changeLocked(to)
}

// ChangeAfter does what Change does after n more requests.
func (s *Server) ChangeAfter(n int, to Content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change, s.next = n+1, to
}

func (s *Server) changeLocked(to Content) {
	s.content, s.modified = to, s.modified.Add(time.Minute)
	s.etag = fmt.Sprintf(`"v%d"`, s.modified.Unix())
}

// Version sets the ETag, with its quotes, and Last-Modified.
func (s *Server) Version(etag string, modified time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.etag, s.modified = etag, modified
}

// Sign makes every request fail with 403 whose query is not token: the signature has expired.
func (s *Server) Sign(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

// Requests is how many requests have come.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.log)
}

// Await waits until n requests have come, and fails the test when that takes too long.
func (s *Server) Await(n int) {
	s.tb.Helper()
	late := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		have, came := len(s.log), s.came
		s.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-came:
		case <-late:
			s.tb.Fatalf("origintest: %d requests have come, waited for %d", have, n)
		}
	}
}

// Log is all requests in their order.
func (s *Server) Log() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.log...)
}

// Bytes is how many bytes of the object have been sent.
func (s *Server) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Conns is how many connections have been opened.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// begin notes a request and takes what holds for it.
func (s *Server) begin(r *http.Request) (at int, f Faults, v version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.change > 0 {
		if s.change--; s.change == 0 {
			s.changeLocked(s.next)
		}
	}
	close(s.came)
	s.came = make(chan struct{})
	s.log = append(s.log, Request{Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone(), Host: r.Host, Proto: r.Proto})
	f = s.faults
	if s.faults.Times > 0 {
		if s.left--; s.left <= 0 {
			s.faults = Faults{}
		}
	}
	if s.token != "" && r.URL.RawQuery != s.token {
		f = Faults{Status: http.StatusForbidden}
	}
	return len(s.log) - 1, f, version{s.content, s.etag, s.modified}
}

// note notes the status of the answer to request at.
func (s *Server) note(at, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log[at].Status = status
}

func (s *Server) sent(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += int64(n)
}
