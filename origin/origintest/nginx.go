package origintest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nginxBinary is where Debian puts it.
const nginxBinary = "/usr/sbin/nginx"

// Nginx is a real nginx in its own folder, on ports of its own.
type Nginx struct {
	// Root is the folder it serves under "/"; put files here.
	Root string
	// URL and TLSURL are its addresses, without a slash at the end; CACert is the PEM file of the CA that
	// signed the certificate of the second.
	URL, TLSURL, CACert string

	tb     testing.TB
	dir    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has been waited for
}

// StartNginx starts nginx until the test ends. locations is put into its server block. Where nginx is not
// installed the test is skipped, unless CI=true is set: there it must be.
func StartNginx(tb testing.TB, locations string) *Nginx {
	tb.Helper()
	if _, err := os.Stat(nginxBinary); err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("nginx is needed when CI=true: install the package nginx-light: %v", err)
		}
		tb.Skipf("no nginx: %v", err)
	}
	dir := tb.TempDir()
	n := &Nginx{Root: filepath.Join(dir, "root"), CACert: filepath.Join(dir, "ca.pem"), tb: tb, dir: dir}
	for _, d := range []string{n.Root, filepath.Join(dir, "tmp")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	n.certificates()
	tb.Cleanup(n.stop)
	// Between choosing a free port and nginx listening on it another process may take it.
	for range 5 {
		if n.start(locations) {
			return n
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, "error.log"))
	tb.Fatalf("nginx does not start:\n%s", log)
	return nil
}

// start is one attempt.
func (n *Nginx) start(locations string) bool {
	plain, tls := freePort(n.tb), freePort(n.tb)
	n.URL, n.TLSURL = "http://"+plain, "https://"+tls
	conf := strings.NewReplacer("LOCATIONS", strings.ReplaceAll(locations, "DIR", n.dir), "DIR", n.dir, "PLAIN", plain, "TLS", tls).Replace(`
daemon off; master_process off; pid DIR/nginx.pid; error_log DIR/error.log;
events { worker_connections 256; }
http {
	access_log off; default_type application/octet-stream; sendfile on; keepalive_timeout 65;
	client_body_temp_path DIR/tmp; proxy_temp_path DIR/tmp; fastcgi_temp_path DIR/tmp; uwsgi_temp_path DIR/tmp; scgi_temp_path DIR/tmp;
	server {
		listen PLAIN; listen TLS ssl;
		ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem;
		root DIR/root;
		LOCATIONS
	}
}`)
	path := filepath.Join(n.dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		n.tb.Fatal(err)
	}
	n.cmd = exec.Command(nginxBinary, "-p", n.dir, "-e", filepath.Join(n.dir, "error.log"), "-c", path)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		n.tb.Fatal(err)
	}
	cmd, exited := n.cmd, make(chan struct{})
	n.exited = exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
	for range 500 { // 5 s
		if c, err := net.Dial("tcp", plain); err == nil {
			c.Close()
			return true
		}
		select {
		case <-exited:
			n.cmd = nil
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	n.stop()
	return false
}

// stop kills nginx, by its pid, and waits for its end.
func (n *Nginx) stop() {
	if n.cmd == nil {
		return
	}
	n.cmd.Process.Kill()
	<-n.exited
	n.cmd = nil
}

// Write puts a file under Root, or replaces it by rename.
func (n *Nginx) Write(name string, p []byte) {
	n.tb.Helper()
	tmp := filepath.Join(n.dir, "new")
	if err := os.WriteFile(tmp, p, 0o644); err != nil {
		n.tb.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(n.Root, name)); err != nil {
		n.tb.Fatal(err)
	}
}

// freePort is an address of loopback on which nobody listens now.
func freePort(tb testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// certificates writes a CA and a certificate for 127.0.0.1 that it signed.
func (n *Nginx) certificates() {
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			n.tb.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte) {
		p := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(n.dir, name), p, 0o600); err != nil {
			n.tb.Fatal(err)
		}
	}
	caKey, leafKey := key(), key()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
	}
	sign := func(c, parent *x509.Certificate, pub *ecdsa.PublicKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, caKey)
		if err != nil {
			n.tb.Fatal(err)
		}
		return der
	}
	write("ca.pem", "CERTIFICATE", sign(ca, ca, &caKey.PublicKey))
	write("cert.pem", "CERTIFICATE", sign(leaf, ca, &leafKey.PublicKey))
	der, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		n.tb.Fatal(err)
	}
	write("key.pem", "EC PRIVATE KEY", der)
}
