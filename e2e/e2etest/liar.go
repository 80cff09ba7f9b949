package e2etest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Liar makes an honest node a lying peer: it stands between the node and the swarm, and flips a bit in every
// block that the node sends. Three parts play together: a front for the tracker, which the node is told to use and
// which replaces the node's port by the liar's in everything the node reports, and tells it of no peer; a TCP proxy on that port; and the
// codec of BEP 3 frames, as far as finding `piece` messages takes.
type Liar struct {
	Tracker string       // what the honest node gets as --tracker
	Lies    atomic.Int64 // blocks sent with a wrong bit
	Conns   atomic.Int64 // connections accepted
	Cut     atomic.Int64 // connections that the receiver of lies has closed
	port    int
	ip      string // where it and the honest node listen
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	target  atomic.Int64 // port of the honest node, learnt from its reports
	wg      sync.WaitGroup
}

// Liar makes a liar in front of a tracker, on loopback.
func (w *World) Liar(tracker string) *Liar {
	w.T.Helper()
	return w.liar(tracker, "127.0.0.1", nil)
}

// Liar makes a liar on the host, in front of a tracker; the honest node is to run on the same host.
func (h *Host) Liar(tracker string) *Liar {
	h.lan.w.T.Helper()
	return h.lan.w.liar(tracker, h.IP, h)
}

func (w *World) liar(tracker, ip string, h *Host) *Liar {
	w.T.Helper()
	listen := func() net.Listener {
		var l net.Listener
		open := func() (err error) { l, err = net.Listen("tcp", ip+":0"); return err }
		err := error(nil)
		if h != nil {
			err = h.Do(open)
		} else {
			err = open()
		}
		if err != nil {
			w.T.Fatal(err)
		}
		return l
	}
	wire, front := listen(), listen()
	client := &http.Client{Timeout: 30 * time.Second}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	if h != nil {
		client, dial = h.HTTP(), h.Dial
	}
	l := &Liar{Tracker: "http://" + front.Addr().String() + "/announce", port: wire.Addr().(*net.TCPAddr).Port, ip: ip, dial: dial}
	base := strings.TrimSuffix(tracker, "/announce")
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { l.forward(rw, r, client, base) })}
	quit := make(chan struct{})
	l.wg.Go(func() { srv.Serve(front) })
	l.wg.Go(func() { l.accept(wire, quit) })
	w.Defer(func() {
		close(quit)
		wire.Close()
		srv.Close()
		l.wg.Wait()
		client.CloseIdleConnections()
	})
	return l
}

// forward passes a request on to the tracker with the port replaced: port=N in the query of an announce (BEP 3),
// 4:porti<N>e in a bencoded body.
func (l *Liar) forward(rw http.ResponseWriter, r *http.Request, client *http.Client, base string) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	const key = "4:porti"
	if i := bytes.Index(body, []byte(key)); i >= 0 {
		if end := bytes.IndexByte(body[i:], 'e'); end > len(key) {
			l.learn(string(body[i+len(key) : i+end]))
			body = append(append(append([]byte{}, body[:i]...), fmt.Sprintf("%s%d", key, l.port)...), body[i+end:]...)
		}
	}
	// The other parameters are passed on byte by byte: info_hash and peer_id are binary.
	params := strings.Split(r.URL.RawQuery, "&")
	for i, p := range params {
		if v, ok := strings.CutPrefix(p, "port="); ok {
			l.learn(v)
			params[i] = "port=" + strconv.Itoa(l.port)
		}
	}
	url := base + r.URL.EscapedPath()
	if q := strings.Join(params, "&"); q != "" {
		url += "?" + q
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, url, bytes.NewReader(body))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	req.Header = r.Header.Clone()
	res, err := client.Do(req)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	for k, v := range res.Header {
		rw.Header()[k] = v
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	answer = withoutPeers(answer)
	rw.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	rw.WriteHeader(res.StatusCode)
	rw.Write(answer)
}

// withoutPeers empties the strings of peers in a bencoded answer, so that the node behind the liar dials nobody by
// itself.
func withoutPeers(answer []byte) []byte {
	for _, key := range []string{"5:peers", "6:peers6"} {
		i := bytes.Index(answer, []byte(key))
		if i < 0 {
			continue
		}
		i += len(key)
		colon := bytes.IndexByte(answer[i:], ':')
		if colon < 0 {
			continue
		}
		n, err := strconv.Atoi(string(answer[i : i+colon]))
		if end := i + colon + 1 + n; err == nil && n >= 0 && end <= len(answer) {
			answer = append(append(append([]byte{}, answer[:i]...), "0:"...), answer[end:]...)
		}
	}
	return answer
}

func (l *Liar) learn(port string) {
	if n, err := strconv.Atoi(port); err == nil && n > 0 && n != l.port {
		l.target.Store(int64(n))
	}
}

func (l *Liar) accept(wire net.Listener, quit <-chan struct{}) {
	for {
		in, err := wire.Accept()
		if err != nil {
			return
		}
		l.Conns.Add(1)
		l.wg.Go(func() {
			defer in.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			out, err := l.dial(ctx, "tcp", fmt.Sprintf("%s:%d", l.ip, l.target.Load()))
			cancel()
			if err != nil {
				return
			}
			defer out.Close()
			ended := make(chan struct{}, 2)
			l.wg.Go(func() {
				io.Copy(out, in) // the receiver's requests, as they are
				l.Cut.Add(1)
				ended <- struct{}{}
			})
			l.wg.Go(func() {
				l.lie(in, out)
				ended <- struct{}{}
			})
			select {
			case <-ended:
			case <-quit:
			}
		})
	}
}

// lie copies the frames of BEP 3 from the honest node: 68 bytes of handshake, then a big-endian length, an id
// and a body. Blocks are in those with id 7, `piece`, after index and begin; and in the long ones of extensions
// (id 20, BEP 10), such as the DATA of docs/wire.md, after a header that is short beside them.
func (l *Liar) lie(to io.Writer, from io.Reader) {
	const piece, extended, header, long = 7, 20, 9, 4 << 10
	if _, err := io.CopyN(to, from, 68); err != nil {
		return
	}
	for {
		var size [4]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > 1<<20 {
			return // no frame of ours is that long: out of step
		}
		frame := make([]byte, 4+n)
		copy(frame, size[:])
		if _, err := io.ReadFull(from, frame[4:]); err != nil {
			return
		}
		if n > header && frame[4] == piece || n > long && frame[4] == extended {
			frame[4+header+int(n-header)/2] ^= 1
			l.Lies.Add(1)
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}
