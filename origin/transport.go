package origin

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pantala/pantala/blob"
)

const (
	// dialTimeout covers DNS and TCP: three lost SYNs (1 + 2 + 4 s) and then some.
	dialTimeout = 10 * time.Second
	// readBuffer takes the header of an answer, and the start of the body that came with it, which has to be
	// copied once more from there. A read of a body that asks for at least so much passes the buffer by,
	// straight into the receiver's memory; so a larger buffer costs. Measured against nginx, CPU seconds of
	// this process per GiB, with 4 / 16 / 64 KiB: 0.21 / 0.22 / 0.24 for a run of 64 MiB, 2.4 / 3.8 / 3.4 for
	// single blocks.
	readBuffer = 4 << 10
	// userTimeout is how long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, tcp(7)) before the
	// kernel gives a connection up. It tells a path that has died, most often under a warm connection behind
	// a NAT, from a server that is slow, and net/http then repeats the request on a new connection. 5 s leave
	// room for four retransmissions.
	userTimeout = 5 * time.Second
	// idlePerHost bounds the warm connections to one server; more than a node ever has requests under way.
	idlePerHost = 64
	// idleTimeout is above the 75 s of nginx and the 60 s of most others, so that it is the server who
	// decides.
	idleTimeout = 90 * time.Second
)

// transports are the two ways to the same servers. Bodies come over HTTP/1.1, where a read goes from the
// socket into the caller's memory; HTTP/2 would copy each frame through a pipe and put all ranges behind one
// TCP window. It is used for the servers that speak nothing else.
type transports struct {
	h1, h2 *http.Transport
	only2  sync.Map // host:port → true: the server refused HTTP/1.1 in ALPN
}

// newTransports builds both, trusting the certificates of the system, those in the PEM file cacert, and what of says.
func newTransports(cacert string, of TLS) (*transports, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cacert != "" {
		if err := trust(conf, cacert); err != nil {
			return nil, fmt.Errorf("origin: %w: --cacert: %v", blob.ErrInvalid, err)
		}
	}
	conf, err := of.config(conf)
	if err != nil {
		return nil, err
	}
	dial := of.DialTimeout
	if dial <= 0 {
		dial = dialTimeout
	}
	build := func(h1, h2 bool) *http.Transport {
		conf := conf.Clone()
		if h1 {
			// Offered by name, so that a server that does not speak it says so.
			conf.NextProtos = []string{"http/1.1"}
		}
		protocols := new(http.Protocols)
		protocols.SetHTTP1(h1)
		protocols.SetHTTP2(h2)
		return &http.Transport{
			Protocols:              protocols,
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dial, KeepAlive: 30 * time.Second, Control: control}).DialContext,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    dialTimeout,
			DisableCompression:     true,
			MaxIdleConns:           4 * idlePerHost,
			MaxIdleConnsPerHost:    idlePerHost,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: 256 << 10,
			ReadBufferSize:         readBuffer,
		}
	}
	return &transports{h1: build(true, false), h2: build(false, true)}, nil
}

// trust adds the certificates in a PEM file to those of the system.
func trust(conf *tls.Config, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if conf.RootCAs == nil {
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
	} else {
		conf.RootCAs = conf.RootCAs.Clone()
	}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("no PEM certificate in %s", file)
	}
	return nil
}

// control sets the options of a socket before it is connected.
func control(_, _ string, c syscall.RawConn) error {
	const tcpUserTimeout = 18 // linux/tcp.h; package syscall lacks it
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(userTimeout.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}

// send does one round trip.
func (t *transports) send(req *http.Request) (*http.Response, error) {
	if _, ok := t.only2.Load(req.URL.Host); ok {
		return t.h2.RoundTrip(req)
	}
	resp, err := t.h1.RoundTrip(req)
	// Alert 120 of RFC 7301; crypto/tls does not export the type of a received alert.
	if err != nil && req.URL.Scheme == "https" && strings.Contains(err.Error(), "no application protocol") {
		t.only2.Store(req.URL.Host, true)
		return t.h2.RoundTrip(req)
	}
	return resp, err
}

// idle closes the connections that wait for use.
func (t *transports) idle() {
	t.h1.CloseIdleConnections()
	t.h2.CloseIdleConnections()
}
