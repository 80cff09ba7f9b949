// Command demo-registry makes one container image and serves it as a registry does, for `make demo-image`: an ordinary
// image of three gzip layers, of which the first has the program that is run in it, the second some thousand files that
// nobody reads, and the third takes one of them away. Every request is logged with the bytes of its answer.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

func main() {
	program := flag.String("program", "", "static binary that becomes /bin/pantala of the image")
	logPath := flag.String("log", "", "access log: status, body bytes, method, range and path of each request")
	mib := flag.Int("mib", 256, "size of the image, unpacked, in MiB")
	rate := flag.Int("rate", 0, "bytes per second of one answer, 0: no limit")
	flag.Parse()
	if err := run(*program, *logPath, *mib, *rate); err != nil {
		log.Fatalf("demo-registry: %v", err)
	}
}

func run(program, logPath string, mib, rate int) error {
	s := &server{blobs: map[string][]byte{}, rate: rate}
	if err := s.make(program, mib); err != nil {
		return err
	}
	access, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the access log (-log FILE): %w", err)
	}
	s.access = access
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%v\n", listener.Addr()) // who started us waits for this line
	return http.Serve(listener, s)
}

// server answers what a client of the OCI distribution specification asks when it pulls.
type server struct {
	blobs    map[string][]byte // by digest
	manifest []byte
	rate     int
	mu       sync.Mutex
	access   *os.File // whole lines, guarded by mu
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// descriptor is of the OCI image specification.
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

func digest(p []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(p)) }

func (s *server) add(mediaType string, p []byte) descriptor {
	d := descriptor{mediaType, digest(p), len(p)}
	s.blobs[d.Digest] = p
	return d
}

// make builds the image.
func (s *server) make(program string, mib int) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("-program: %w", err)
	}
	var layers []descriptor
	var diffIDs []string
	layer := func(fill func(*tar.Writer)) error {
		var raw, packed bytes.Buffer
		w := tar.NewWriter(&raw)
		fill(w)
		if err := w.Close(); err != nil {
			return err
		}
		diffIDs = append(diffIDs, digest(raw.Bytes()))
		z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
		if err != nil {
			return err
		}
		if _, err := io.Copy(z, &raw); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		layers = append(layers, s.add("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes()))
		return nil
	}
	file := func(w *tar.Writer, name string, mode int64, p []byte) {
		// tar.Writer remembers its first error until Close.
		w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(p)), ModTime: time.Unix(1700000000, 0), Typeflag: tar.TypeReg})
		w.Write(p)
	}
	dir := func(w *tar.Writer, name string) {
		w.WriteHeader(&tar.Header{Name: name + "/", Mode: 0o755, ModTime: time.Unix(1700000000, 0), Typeflag: tar.TypeDir})
	}
	if err := layer(func(w *tar.Writer) {
		for _, d := range []string{"bin", "etc", "proc", "tmp", "data"} {
			dir(w, d)
		}
		file(w, "bin/pantala", 0o755, binary)
		file(w, "etc/motd", 0o644, []byte("hello from the image\n"))
	}); err != nil {
		return err
	}
	if err := layer(func(w *tar.Writer) {
		rng := rand.NewChaCha8([32]byte{1})
		p := make([]byte, 64<<10)
		for i := range mib << 20 / len(p) {
			if i%256 == 0 {
				dir(w, fmt.Sprintf("data/%02d", i/256))
			}
			rng.Read(p[:len(p)/2]) // half of each file compresses well
			file(w, fmt.Sprintf("data/%02d/%03d.bin", i/256, i%256), 0o644, p)
		}
		file(w, "data/secret", 0o600, []byte("the third layer takes this away\n"))
	}); err != nil {
		return err
	}
	if err := layer(func(w *tar.Writer) { file(w, "data/.wh.secret", 0o644, nil) }); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"/bin/pantala", "version"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return err
	}
	s.manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": s.add("application/vnd.oci.image.config.v1+json", config), "layers": layers,
	})
	return err
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &counter{ResponseWriter: w, status: http.StatusOK, rate: s.rate, start: time.Now()}
	s.serve(c, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.access, "%d %d %s %q %s\n", c.status, c.bytes, r.Method, r.Header.Get("Range"), r.URL.Path)
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	_, blob, isBlob := strings.Cut(r.URL.Path, "/blobs/")
	switch {
	case r.URL.Path == "/v2/":
	case strings.HasPrefix(r.URL.Path, "/v2/demo/manifests/"):
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest(s.manifest))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.manifest))
	case isBlob && s.blobs[blob] != nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", blob)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.blobs[blob]))
	default:
		http.NotFound(w, r)
	}
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
		time.Sleep(time.Duration(float64(c.bytes)/float64(c.rate)*float64(time.Second)) - time.Since(c.start))
	}
	return n, err
}
