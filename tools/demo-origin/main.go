// Command demo-origin serves the files of one folder over HTTP for `make demo`, on machines without nginx: ranges,
// a strong ETag, an optional rate per connection, and an access log with the body bytes of each answer.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

func main() {
	root := flag.String("root", ".", "folder whose files are served")
	logPath := flag.String("log", "", "access log: status, body bytes, method, range and path of each request")
	rate := flag.Int("rate", 0, "bytes per second of one connection, 0: no limit")
	flag.Parse()
	if err := run(*root, *logPath, *rate); err != nil {
		log.Fatalf("demo-origin: %v", err)
	}
}

func run(root, logPath string, rate int) error {
	access, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the access log (-log FILE): %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%v\n", listener.Addr()) // who started us waits for this line
	return http.Serve(listener, &server{root: root, rate: rate, access: access})
}

// server answers GET and HEAD for plain files directly in root.
type server struct {
	root   string
	rate   int
	mu     sync.Mutex
	access *os.File // whole lines, guarded by mu
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &counter{ResponseWriter: w, status: http.StatusOK, rate: s.rate, start: time.Now()}
	s.serve(c, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.access, "%d %d %s %q %s\n", c.status, c.bytes, r.Method, r.Header.Get("Range"), r.URL.Path)
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(filepath.Join(s.root, filepath.Base(r.URL.Path)))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	http.ServeContent(w, r, info.Name(), info.ModTime(), f)
}

// counter counts the body and holds it to a rate.
type counter struct {
	http.ResponseWriter
	status, rate int
	bytes        int64
	start        time.Time
}

func (c *counter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	if c.rate > 0 {
		due := time.Duration(float64(c.bytes) / float64(c.rate) * float64(time.Second))
		time.Sleep(due - time.Since(c.start))
	}
	return n, err
}
