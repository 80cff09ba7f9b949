package registrytest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is a registry in memory.
type Server struct {
	*httptest.Server
	tb testing.TB

	mu        sync.Mutex // guards all below
	blobs     map[string][]byte
	manifests map[string]stored // by "name:tag" and "name@digest"
	uploads   map[string]bool
	script    Script
	log       []Request
	token     string // the number of the token that is revoked
}

type stored struct {
	mediaType string
	text      []byte
}

// Request is one request as it was seen.
type Request struct {
	Method, Path, Query string
	Header              http.Header
	Status              int
}

// Script is what a Server does beside being a registry. The zero value is an open registry.
type Script struct {
	// Tokens makes it want tokens of that server.
	Tokens *Tokens
	// Expired is what it says to a token that has expired or was revoked; 0 means 401.
	Expired int
	// Basic makes it want "user:password".
	Basic string
	// Redirect gives the URL to which a GET of a blob is sent, "" for none.
	Redirect func(digest string) string
	// NoRange makes it answer ranges with the whole blob.
	NoRange bool
	// NoDigest makes it forget Docker-Content-Digest.
	NoDigest bool
	// Referrers makes it keep lists of referrers, in pages of one.
	Referrers bool
	// Before is asked first about each request; true: it has answered.
	Before func(w http.ResponseWriter, r *http.Request) bool
}

// New starts a registry until the test ends.
func New(tb testing.TB, s Script) *Server {
	r := Unstarted(tb, s)
	r.Server.Start()
	return r
}

// NewTLS is New with https. Its certificate is that of httptest.
func NewTLS(tb testing.TB, s Script) *Server {
	r := Unstarted(tb, s)
	r.Server.StartTLS()
	return r
}

// Unstarted is a registry whose Start or StartTLS is still to be called.
func Unstarted(tb testing.TB, s Script) *Server {
	r := &Server{tb: tb, blobs: map[string][]byte{}, manifests: map[string]stored{}, uploads: map[string]bool{}, script: s}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.Server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that a test lets fail
	tb.Cleanup(func() {
		r.Server.CloseClientConnections()
		r.Server.Close()
	})
	return r
}

// Host is its name in references.
func (s *Server) Host() string { return s.Server.Listener.Addr().String() }

// Set replaces the script.
func (s *Server) Set(script Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// Put stores an image under a name and tag, and returns the digest of its manifest.
func (s *Server) Put(name, tag string, im Image) string {
	s.PutBlob(im.Config)
	for _, l := range im.Layers {
		s.PutBlob(l)
	}
	return s.PutManifest(name, tag, im.Type, im.Manifest)
}

// PutBlob stores a blob in all repositories.
func (s *Server) PutBlob(p []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[Digest(p)] = p
	return Digest(p)
}

// PutManifest stores a manifest under its digest and, unless it is "", a tag.
func (s *Server) PutManifest(name, tag, mediaType string, p []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tag != "" {
		s.manifests[name+":"+tag] = stored{mediaType, p}
	}
	s.manifests[name+"@"+Digest(p)] = stored{mediaType, p}
	return Digest(p)
}

// Replace stores other bytes under the digest of a blob or manifest: the registry is broken.
func (s *Server) Replace(digest string, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blobs[digest]; ok {
		s.blobs[digest] = p
	}
	for k, m := range s.manifests {
		if Digest(m.text) == digest {
			s.manifests[k] = stored{m.mediaType, p}
		}
	}
}

// Revoke makes a token bad, given by the number that Tokens.Good tells.
func (s *Server) Revoke(number string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = number
}

// Log is all requests so far.
func (s *Server) Log() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.log...)
}

// Count is how many requests of a method had a path that holds part.
func (s *Server) Count(method, part string) (n int) {
	for _, r := range s.Log() {
		if r.Method == method && strings.Contains(r.Path, part) {
			n++
		}
	}
	return n
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(code int) {
	if r.status == 0 {
		r.status = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	s.mu.Lock()
	script := s.script
	at := len(s.log)
	s.log = append(s.log, Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone()})
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.log[at].Status = rec.status
	}()
	if script.Before != nil && script.Before(rec, r) {
		return
	}
	s.answer(rec, r, script)
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"says the registry"}]}`, code)
}

// mayPass judges Authorization.
func (s *Server) mayPass(w http.ResponseWriter, r *http.Request, script Script, name string) bool {
	header := r.Header.Get("Authorization")
	if script.Basic != "" && header != "Basic "+encode(script.Basic) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return false
	}
	if script.Tokens == nil {
		return true
	}
	scope := ""
	if name != "" {
		scope = "repository:" + name + ":pull"
	}
	if header != "" {
		number, ok := script.Tokens.Good(header)
		s.mu.Lock()
		ok = ok && number != s.token
		s.mu.Unlock()
		if ok {
			return true
		}
		if script.Expired != 0 {
			fail(w, script.Expired, "DENIED")
			return false
		}
	}
	w.Header().Set("WWW-Authenticate", script.Tokens.Challenge(scope))
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
	return false
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, script Script) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	name, kind, what := path, "", ""
	for _, k := range []string{"/manifests/", "/blobs/", "/referrers/"} {
		if a, b, ok := strings.Cut(path, k); ok {
			name, kind, what = a, strings.Trim(k, "/"), b
		}
	}
	if !s.mayPass(w, r, script, name) {
		return
	}
	switch {
	case r.URL.Path == "/v2/":
		w.WriteHeader(http.StatusOK)
	case kind == "manifests" && r.Method == http.MethodPut:
		p, _ := io.ReadAll(r.Body)
		tag := what
		if strings.Contains(what, ":") {
			tag = ""
		}
		if subject := subjectOf(p); subject != "" && script.Referrers {
			w.Header().Set("OCI-Subject", subject)
		}
		w.Header().Set("Docker-Content-Digest", s.PutManifest(name, tag, r.Header.Get("Content-Type"), p))
		w.WriteHeader(http.StatusCreated)
	case kind == "manifests":
		s.mu.Lock()
		m, ok := s.manifests[name+":"+what]
		if strings.Contains(what, ":") {
			m, ok = s.manifests[name+"@"+what]
		}
		s.mu.Unlock()
		if !ok {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
			return
		}
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(m.text)))
		if !script.NoDigest {
			w.Header().Set("Docker-Content-Digest", Digest(m.text))
		}
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodGet {
			w.Write(m.text)
		}
	case kind == "referrers" && script.Referrers:
		s.list(w, r, name, what)
	case kind == "blobs" && r.Method == http.MethodPost:
		id := rand.Text()
		s.mu.Lock()
		s.uploads[id] = true
		s.mu.Unlock()
		w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id+"?state=1")
		w.WriteHeader(http.StatusAccepted)
	case kind == "blobs" && r.Method == http.MethodPut:
		p, _ := io.ReadAll(r.Body)
		id := strings.TrimPrefix(what, "uploads/")
		s.mu.Lock()
		ok := s.uploads[id] && r.URL.Query().Get("state") == "1"
		delete(s.uploads, id)
		s.mu.Unlock()
		if !ok || Digest(p) != r.URL.Query().Get("digest") {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID")
			return
		}
		s.PutBlob(p)
		w.WriteHeader(http.StatusCreated)
	case kind == "blobs":
		s.mu.Lock()
		p, ok := s.blobs[what]
		s.mu.Unlock()
		if !ok {
			fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
			return
		}
		if script.Redirect != nil && r.Method == http.MethodGet {
			if to := script.Redirect(what); to != "" {
				w.Header().Set("Location", to)
				w.WriteHeader(http.StatusTemporaryRedirect)
				return
			}
		}
		if script.NoRange {
			r.Header.Del("Range")
		}
		w.Header().Set("Docker-Content-Digest", what)
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p))
	default:
		fail(w, http.StatusNotFound, "UNSUPPORTED")
	}
}

// subjectOf is the digest that a manifest refers to, "" for none.
func subjectOf(p []byte) string {
	var m struct {
		Subject Descriptor `json:"subject"`
	}
	if json.Unmarshal(p, &m) != nil {
		return ""
	}
	return m.Subject.Digest
}

// list is what refers to a digest, one manifest a page.
func (s *Server) list(w http.ResponseWriter, r *http.Request, name, digest string) {
	s.mu.Lock()
	var all []Descriptor
	for k, m := range s.manifests {
		if strings.HasPrefix(k, name+"@") && subjectOf(m.text) == digest {
			var a struct {
				ArtifactType string `json:"artifactType"`
			}
			json.Unmarshal(m.text, &a)
			d := Of(m.mediaType, m.text)
			d.ArtifactType = a.ArtifactType
			all = append(all, d)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b Descriptor) int { return strings.Compare(a.Digest, b.Digest) })
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	if page+1 < len(all) {
		w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, page+1))
	}
	if page < len(all) {
		all = all[page : page+1]
	}
	w.Header().Set("Content-Type", Index)
	w.Write(JSON(map[string]any{"schemaVersion": 2, "mediaType": Index, "manifests": all}))
}
