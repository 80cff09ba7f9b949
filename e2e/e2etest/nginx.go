package e2etest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Nginx is a real nginx with a configuration, a document root and an access log of its own.
type Nginx struct {
	URL  string // "http://127.0.0.1:port"
	Root string // document root
	w    *World
	host *Host // nil: on loopback
	dir  string
	argv []string
	p    *Process
}

// nginxConf serves the document root as it is, and in the ways that real servers differ:
//
//	/…          Range, ETag, Last-Modified; folders are listed, which rclone needs
//	/norange/…  Accept-Ranges off: every answer is 200 with the whole file
//	/chunked/…  no Content-Length, no validator (a filter has touched the body)
//	/slow/…     each connection at the rate given
//	/auth/…     401, /denied/… 403, /moved/… 302 to /…
const nginxConf = `daemon off;
%[5]sworker_processes 2;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log warn;
events { worker_connections 1024; }
http {
	log_format e2e '$status $body_bytes_sent $request_method "$http_range" $uri';
	access_log %[1]s/access.log e2e;
	client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp;
	uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp;
	sendfile on; tcp_nopush on; tcp_nodelay on;
	keepalive_requests 100000;
	default_type application/octet-stream;
	server {
		listen %[6]s:%[2]d sndbuf=256k;
		root %[3]s;
		autoindex on;
		location /norange/ { alias %[3]s/; max_ranges 0; }
		location /chunked/ { alias %[3]s/; ssi on; ssi_types *; }
		location /slow/ { alias %[3]s/; limit_rate %[4]s; }
		location /auth/ { return 401; }
		location /denied/ { return 403; }
		location /moved/ { rewrite ^/moved/(.*)$ /$1 redirect; }
	}
}
`

// Nginx starts nginx; rate is the limit of one connection below /slow/, in nginx's words ("20m").
func (w *World) Nginx(rate string) *Nginx {
	w.T.Helper()
	return w.nginx(rate, nil)
}

// Nginx starts nginx on port 8080 of the host.
func (h *Host) Nginx() *Nginx {
	h.lan.w.T.Helper()
	return h.lan.w.nginx("1000m", h)
}

func (w *World) nginx(rate string, h *Host) *Nginx {
	w.T.Helper()
	program := NeedProgram(w.T, "nginx", "apt-get install nginx-light")
	dir := w.Dir("nginx")
	n := &Nginx{w: w, host: h, dir: dir, Root: filepath.Join(dir, "root")}
	for _, d := range []string{n.Root, filepath.Join(dir, "tmp")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			w.T.Fatal(err)
		}
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;\n"
	}
	w.ShowLog(filepath.Join(dir, "error.log"))
	conf := filepath.Join(dir, "nginx.conf")
	for range 5 { // a port may be taken between FreePort and nginx
		ip, port := "127.0.0.1", 8080
		if h == nil {
			port = FreePort(w.T)
		} else {
			ip = h.IP
		}
		n.URL = fmt.Sprintf("http://%s:%d", ip, port)
		if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, port, n.Root, rate, user, ip), 0o644); err != nil {
			w.T.Fatal(err)
		}
		n.argv = []string{program, "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log")}
		if n.start() {
			w.Defer(n.Stop)
			return n
		}
	}
	n.p.Signal(syscall.SIGTERM)
	w.T.Fatalf("nginx does not start: %v", n.p.Wait(5*time.Second))
	return nil
}

// start reports whether nginx listens.
func (n *Nginx) start() bool {
	n.p = n.w.Start(Command{Args: n.argv, Host: n.host})
	tellGuard(n.p.PID())
	listening := func() bool { return Listening(n.Addr()) }
	if n.host != nil {
		listening = func() bool { return n.host.Listening(8080) }
	}
	return Poll(5*time.Second, func() bool { return n.p.Ended() || listening() }) && !n.p.Ended()
}

// Again starts nginx after [Nginx.Stop], on the same port.
func (n *Nginx) Again() {
	n.w.T.Helper()
	if !n.start() {
		n.w.T.Fatalf("nginx does not start again: %v", n.p.Wait(time.Second))
	}
}

// Addr is host:port.
func (n *Nginx) Addr() string { return strings.TrimPrefix(n.URL, "http://") }

// Stop ends nginx; the access log is complete afterwards.
func (n *Nginx) Stop() {
	if n.p.Ended() {
		return
	}
	n.p.Signal(syscall.SIGTERM)
	if r := n.p.Wait(10 * time.Second); r.TimedOut {
		n.w.T.Errorf("nginx had to be killed")
	}
}

// Serve puts a file under the document root by a hard link and returns its URL.
func (n *Nginx) Serve(f File, name string) string {
	n.w.T.Helper()
	if err := os.Link(f.Path, filepath.Join(n.Root, name)); err != nil {
		n.w.T.Fatal(err)
	}
	return n.URL + "/" + name
}

// Replace gives a name under the document root another content, later modified than what was there.
func (n *Nginx) Replace(name string, f File) {
	n.w.T.Helper()
	path := filepath.Join(n.Root, name)
	tmp := path + ".new"
	if err := os.WriteFile(tmp, f.Bytes(n.w.T), 0o644); err != nil {
		n.w.T.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(tmp, later, later); err != nil {
		n.w.T.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		n.w.T.Fatal(err)
	}
}

// Access is one line of the access log.
type Access struct {
	Status int
	Bytes  int64 // of the body, as written to the socket
	Method string
	Range  string
	Path   string
}

// Log is the access log so far. A request is logged when it ends.
func (n *Nginx) Log() []Access {
	n.w.T.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, "access.log"))
	if err != nil {
		n.w.T.Fatal(err)
	}
	var out []Access
	for line := range strings.Lines(string(b)) {
		head, rest, _ := strings.Cut(line, `"`)
		rng, path, ok := strings.Cut(rest, `"`)
		f := strings.Fields(head)
		if !ok || len(f) != 3 {
			continue // the last line is still being written
		}
		status, _ := strconv.Atoi(f[0])
		bytes, _ := strconv.ParseInt(f[1], 10, 64)
		out = append(out, Access{status, bytes, f[2], rng, strings.TrimSpace(path)})
	}
	return out
}

// Sent is the sum of body bytes in the access log. It is final after [Nginx.Stop].
func (n *Nginx) Sent() (sum int64) {
	n.w.T.Helper()
	for _, a := range n.Log() {
		sum += a.Bytes
	}
	return sum
}
