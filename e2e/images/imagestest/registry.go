package imagestest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Registry is Debian's docker-registry on a port of 127.0.0.1.
type Registry struct {
	Addr string // host:port
	Root string // where it keeps everything
	w    *e2etest.World
	host *e2etest.Host // nil: on loopback
	argv []string
	p    *e2etest.Process
	user string // and password, when it wants them
}

// Credentials of a registry that asks for them.
const (
	User     = "user"
	Password = "secret"
	// bcrypt of Password, in the form of htpasswd
	htpasswd = User + ":$2b$04$DarVIykrI/PjlD42u66Rp.u2ddLdlaM9kA5KLrEn//Lb5VvVxvDTy\n"
)

// RegistryOptions say which registry.
type RegistryOptions struct {
	Private bool          // it wants [User] and [Password]
	Host    *e2etest.Host // whose port 5000 it has; nil: a free port of 127.0.0.1
	Root    string        // where it keeps everything; "": a new folder
}

// NewRegistry starts a registry on loopback; private ones want [User] and [Password].
func NewRegistry(w *e2etest.World, private bool) *Registry {
	w.T.Helper()
	return RegistryOptions{Private: private}.Start(w)
}

// Start starts a registry.
func (o RegistryOptions) Start(w *e2etest.World) *Registry {
	w.T.Helper()
	program := e2etest.NeedProgram(w.T, "docker-registry", "apt-get install docker-registry")
	dir := w.Dir("registry")
	r := &Registry{w: w, host: o.Host, Root: o.Root}
	if r.Root == "" {
		r.Root = filepath.Join(dir, "data")
	}
	conf := "version: 0.1\nlog: {level: error, accesslog: {disabled: false}}\nstorage: {filesystem: {rootdirectory: " + r.Root + "}, delete: {enabled: true}}\n"
	if o.Private {
		r.user = User
		path := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(path, []byte(htpasswd), 0o600); err != nil {
			w.T.Fatal(err)
		}
		conf += "auth: {htpasswd: {realm: test, path: " + path + "}}\n"
	}
	for range 5 { // a port may be taken between FreePort and the registry
		r.Addr = fmt.Sprintf("127.0.0.1:%d", e2etest.FreePort(w.T))
		if o.Host != nil {
			r.Addr = fmt.Sprintf("%s:%d", o.Host.IP, hostPort)
		}
		path := filepath.Join(dir, "config.yml")
		if err := os.WriteFile(path, []byte(conf+"http: {addr: \""+r.Addr+"\"}\n"), 0o600); err != nil {
			w.T.Fatal(err)
		}
		r.argv = []string{program, "serve", path}
		if r.start() {
			w.Defer(r.Stop)
			return r
		}
	}
	w.T.Fatalf("docker-registry does not start: %v", r.p.Wait(time.Second))
	return nil
}

// hostPort is where a registry of a host listens.
const hostPort = 5000

func (r *Registry) start() bool {
	r.p = r.w.Start(e2etest.Command{Args: r.argv, Env: []string{"OTEL_TRACES_EXPORTER=none"}, Host: r.host})
	listening := func() bool { return e2etest.Listening(r.Addr) }
	if r.host != nil {
		listening = func() bool { return r.host.Listening(hostPort) }
	}
	return e2etest.Poll(10*time.Second, func() bool { return r.p.Ended() || listening() }) && !r.p.Ended()
}

// Stop ends the registry.
func (r *Registry) Stop() {
	if r.p.Ended() {
		return
	}
	r.p.Signal(syscall.SIGTERM)
	if !e2etest.Poll(10*time.Second, r.p.Ended) {
		r.p.Signal(syscall.SIGKILL)
		r.p.Wait(10 * time.Second)
	}
}

// Again starts the registry after Stop, on the same port.
func (r *Registry) Again() {
	r.w.T.Helper()
	if !r.start() {
		r.w.T.Fatalf("docker-registry does not start again: %v", r.p.Wait(time.Second))
	}
}

// Push stores an image and returns its reference.
func (r *Registry) Push(name string, i Image) string {
	r.w.T.Helper()
	for _, l := range i.Layers {
		r.blob(name, l.Stored)
	}
	r.blob(name, i.Config)
	r.must(http.MethodPut, "/v2/"+name+"/manifests/latest", ocispec.MediaTypeImageManifest, i.Manifest, http.StatusCreated)
	return r.Addr + "/" + name + ":latest"
}

// Replace changes what the registry has below a digest.
func (r *Registry) Replace(d digest.Digest, body []byte) {
	r.w.T.Helper()
	path := filepath.Join(r.Root, "docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded(), "data")
	if _, err := os.Stat(path); err != nil {
		r.w.T.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o644); err != nil {
		r.w.T.Fatal(err)
	}
}

func (r *Registry) blob(name string, body []byte) {
	r.w.T.Helper()
	where := r.must(http.MethodPost, "/v2/"+name+"/blobs/uploads/", "", nil, http.StatusAccepted)
	sep := "?"
	if strings.Contains(where, "?") {
		sep = "&"
	}
	r.must(http.MethodPut, where+sep+"digest="+digest.FromBytes(body).String(), "application/octet-stream", body, http.StatusCreated)
}

// must makes a request and returns the Location of the answer.
func (r *Registry) must(method, where, kind string, body []byte, want int) string {
	r.w.T.Helper()
	if strings.HasPrefix(where, "/") {
		where = "http://" + r.Addr + where
	}
	req, err := http.NewRequestWithContext(r.w.T.Context(), method, where, bytes.NewReader(body))
	if err != nil {
		r.w.T.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if r.user != "" {
		req.SetBasicAuth(User, Password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.w.T.Fatal(err)
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != want {
		r.w.T.Fatalf("%s %s: %s: %s", method, where, resp.Status, said)
	}
	return resp.Header.Get("Location")
}

// Got is a GET that the registry has answered.
type Got struct {
	Path   string
	Status int
	Bytes  int64
	Agent  string
}

// Blobs are the GETs of blobs since the registry was started, by whom the agent begins with: "containerd", "pantala".
func (r *Registry) Blobs(agent string) (all []Got) {
	for line := range strings.Lines(r.p.Output()) {
		// 127.0.0.1 - - [25/Nov/2026:14:00:00 +0000] "GET /v2/a/blobs/sha256:… HTTP/1.1" 206 1024 "" "pantala/1"
		f := strings.Split(line, `"`)
		if len(f) < 6 {
			continue
		}
		request, answer := strings.Fields(f[1]), strings.Fields(f[2])
		if len(request) != 3 || len(answer) != 2 || request[0] != http.MethodGet || !strings.Contains(request[1], "/blobs/") || !strings.HasPrefix(f[5], agent) {
			continue
		}
		g := Got{Path: request[1], Agent: f[5]}
		g.Status, _ = strconv.Atoi(answer[0])
		g.Bytes, _ = strconv.ParseInt(answer[1], 10, 64)
		all = append(all, g)
	}
	return all
}
