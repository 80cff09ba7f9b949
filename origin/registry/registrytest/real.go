package registrytest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// User and Password are what a registry with Htpasswd lets in.
const (
	User     = "alice"
	Password = "s3cret"
	// htpasswd is both of them as bcrypt of cost 5, the only kind that docker-registry reads.
	htpasswd = User + ":$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n"
)

// Real is a docker-registry in a folder of its own.
type Real struct {
	Host string // 127.0.0.1:PORT

	tb     testing.TB
	cmd    *exec.Cmd
	exited chan struct{}
	log    string
	conf   func(addr string) string
	dir    string
}

// Config says how a real registry is started.
type Config struct {
	Htpasswd bool    // basic authentication
	Tokens   *Tokens // token authentication
	Proxy    string  // the URL of the registry that it is a pull-through cache of
	Extra    string  // more lines of its configuration
}

// Start runs a docker-registry until the test ends. Where it is not installed the test is skipped, unless CI=true is
// set: there it must be.
func Start(tb testing.TB, c Config) *Real {
	tb.Helper()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("docker-registry is needed when CI=true: install the package docker-registry: %v", err)
		}
		tb.Skipf("no docker-registry: %v", err)
	}
	r := &Real{tb: tb, dir: tb.TempDir()}
	r.log = filepath.Join(r.dir, "log")
	r.conf = func(addr string) string {
		conf := "version: 0.1\nlog:\n  level: info\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: " + r.dir + "/data\nhttp:\n  addr: " + addr + "\n  secret: test\n"
		if c.Htpasswd {
			r.write("htpasswd", htpasswd)
			conf += "auth:\n  htpasswd:\n    realm: test\n    path: " + r.dir + "/htpasswd\n"
		}
		if c.Tokens != nil {
			conf += "auth:\n  token:\n    realm: " + c.Tokens.URL + "/token\n    service: test\n    issuer: test\n    rootcertbundle: " + r.write("ca.pem", c.Tokens.CertPEM()) + "\n"
		}
		if c.Proxy != "" {
			conf += "proxy:\n  remoteurl: " + c.Proxy + "\n"
		}
		return conf + c.Extra
	}
	tb.Cleanup(r.Stop)
	// Between choosing a free port and listening on it another process may take it.
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		r.Host = l.Addr().String()
		l.Close()
		if r.Again() {
			return r
		}
	}
	text, _ := os.ReadFile(r.log)
	tb.Fatalf("docker-registry does not start:\n%s", text)
	return nil
}

// Again starts a registry that was stopped, at the same address with the same data.
func (r *Real) Again() bool {
	conf := r.write("config.yml", r.conf(r.Host))
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.tb.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("docker-registry", "serve", conf)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		r.tb.Fatal(err)
	}
	exited := make(chan struct{})
	r.cmd, r.exited = cmd, exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
	for range 2000 { // 20 s
		if c, err := net.Dial("tcp", r.Host); err == nil {
			c.Close()
			return true
		}
		select {
		case <-exited:
			r.cmd = nil
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	r.Stop()
	return false
}

// Stop kills the registry, by its pid, and waits for its end. Its data stays.
func (r *Real) Stop() {
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Kill()
	<-r.exited
	r.cmd = nil
}

// Has reports whether a repository of the registry has a blob or manifest on its disk.
func (r *Real) Has(name, digest string) bool {
	digest = strings.TrimPrefix(digest, "sha256:")
	for _, kind := range []string{"_layers/sha256", "_manifests/revisions/sha256"} {
		if _, err := os.Stat(filepath.Join(r.dir, "data/docker/registry/v2/repositories", name, kind, digest, "link")); err == nil {
			return true
		}
	}
	return false
}

// Log is what the registry has logged, which holds a line for each request.
func (r *Real) Log() string {
	text, _ := os.ReadFile(r.log)
	return string(text)
}

func (r *Real) write(name, text string) string {
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.tb.Fatal(err)
	}
	return path
}

// LogIn writes a docker configuration with credentials for hosts into a new folder, and returns its path.
func LogIn(tb testing.TB, user, password string, hosts ...string) string {
	dir := tb.TempDir()
	var entries []string
	for _, h := range hosts {
		entries = append(entries, `"`+h+`": {"auth": "`+encode(user+":"+password)+`"}`)
	}
	text := `{"auths": {` + strings.Join(entries, ", ") + `}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return dir
}
