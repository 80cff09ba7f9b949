package bench

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// The tracker beside chihaya (Go) and opentracker (C): 16 connections with one announce outstanding each, every
// announce by a peer that was not seen before, spread over a hundred swarms, over loopback. The server's CPU counts;
// the announcers share the machine with it.

const (
	announcers  = 16
	trackerHash = 100 // swarms
)

// trackerUnder is a tracker process.
type trackerUnder struct {
	name string
	addr string // HOST:PORT of HTTP and UDP
	pid  int
}

// trackers are the ways to start one. What is not installed says why.
var trackers = []struct {
	name  string
	start func(b *testing.B, w *e2etest.World) *trackerUnder
}{
	{"chihaya", startChihaya}, {"opentracker", startOpentracker}, {"pantala", startPantalaTracker},
}

func startPantalaTracker(b *testing.B, w *e2etest.World) *trackerUnder {
	tr := w.Tracker("--interval", "30m")
	return &trackerUnder{"pantala", strings.TrimSuffix(strings.TrimPrefix(tr.URL, "http://"), "/announce"), tr.PID()}
}

// startChihaya starts the program that BENCH_CHIHAYA names, or chihaya in the PATH or beside ours.
func startChihaya(b *testing.B, w *e2etest.World) *trackerUnder {
	program := os.Getenv("BENCH_CHIHAYA")
	if program == "" {
		var err error
		if program, err = exec.LookPath("chihaya"); err != nil {
			program = filepath.Join("..", "bin", "chihaya")
			if _, err := os.Stat(program); err != nil {
				b.Skip("no chihaya in PATH, bin or BENCH_CHIHAYA: make bench-rivals says how to build it")
			}
			program, _ = filepath.Abs(program)
		}
	}
	addr := fmt.Sprintf("127.0.0.1:%d", e2etest.FreePort(b))
	conf := filepath.Join(w.Dir("chihaya"), "chihaya.yaml")
	text := fmt.Sprintf(`chihaya:
  announce_interval: 30m
  min_announce_interval: 15m
  metrics_addr: ""
  prometheus_addr: ""
  http:
    addr: %q
    enable_keepalive: true
    idle_timeout: 30s
    announce_routes: ["/announce"]
    scrape_routes: ["/scrape"]
    read_timeout: 5s
    write_timeout: 5s
    allow_ip_spoofing: false
    max_numwant: 100
    default_numwant: 50
    max_scrape_infohashes: 50
  udp:
    addr: %q
    max_clock_skew: 10s
    private_key: "a key of at least sixteen bytes"
    allow_ip_spoofing: false
    max_numwant: 100
    default_numwant: 50
    max_scrape_infohashes: 50
  storage:
    name: memory
    config:
      gc_interval: 3m
      peer_lifetime: 31m
      shard_count: 1024
      prometheus_reporting_interval: 1s
`, addr, addr)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	p := w.Start(e2etest.Command{Args: []string{program, "--config", conf}})
	w.Defer(func() { stop(p) })
	w.Until(10*time.Second, "chihaya listens", func() bool {
		if p.Ended() {
			b.Fatalf("%v", p.Wait(0))
		}
		return e2etest.Listening(addr)
	})
	return &trackerUnder{"chihaya", addr, p.PID()}
}

// startOpentracker starts Debian's, which answers only for hashes that are in a list.
func startOpentracker(b *testing.B, w *e2etest.World) *trackerUnder {
	program, err := exec.LookPath("opentracker")
	if err != nil {
		b.Skip("no opentracker: apt-get install opentracker")
	}
	dir := w.Dir("opentracker")
	var list bytes.Buffer
	for i := range trackerHash {
		fmt.Fprintf(&list, "%x\n", swarmHash(i))
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "list"), list.Bytes(), 0o644)); err != nil {
		b.Fatal(err)
	}
	port := strconv.Itoa(e2etest.FreePort(b))
	addr := "127.0.0.1:" + port
	p := w.Start(e2etest.Command{Args: []string{program, "-i", "127.0.0.1", "-p", port, "-P", port, "-d", dir, "-w", "list"}})
	w.Defer(func() { stop(p) })
	w.Until(10*time.Second, "opentracker listens", func() bool {
		if p.Ended() {
			b.Fatalf("%v", p.Wait(0))
		}
		return e2etest.Listening(addr)
	})
	return &trackerUnder{"opentracker", addr, p.PID()}
}

func swarmHash(i int) (h [20]byte) {
	binary.BigEndian.PutUint64(h[:], uint64(i)+1)
	copy(h[8:], "an info hash")
	return h
}

// runAnnounces has the announcers announce n times in all, and reports.
func runAnnounces(b *testing.B, t *trackerUnder, n int, dial func(addr string) (announce func(swarm [20]byte, id uint64) error, close func(), err error)) {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, announcers)
	before, began := e2etest.CPU(t.pid), time.Now()
	for range announcers {
		all.Go(func() {
			announce, done, err := dial(t.addr)
			if err != nil {
				errs <- err
				return
			}
			defer done()
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := announce(swarmHash(int(i%trackerHash)), uint64(i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	took, cpu := time.Since(began), e2etest.CPU(t.pid)-before
	select {
	case err := <-errs:
		b.Fatalf("%s: %v", t.name, err)
	default:
	}
	per := cpu.Seconds() / float64(n) * 1e5
	b.ReportMetric(float64(n)/took.Seconds(), "announces/s")
	b.ReportMetric(per, "cpu-s/100k")
	key := b.Name()[:strings.LastIndexByte(b.Name(), '/')]
	rival[key+t.name] = per
	if t.name == "pantala" {
		against(b, key+"chihaya", per, false, "x-chihaya")
		against(b, key+"opentracker", per, false, "x-opentracker")
	}
	hideTime(b)
}

// announceCount is enough for 10 ms ticks of CPU time to be 1 % at 0.4 s a 100 000.
func announceCount(b *testing.B) int {
	n := 200_000
	if s := os.Getenv("BENCH_ANNOUNCES"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v <= 0 {
			b.Fatalf("BENCH_ANNOUNCES=%q is not a number of announces", s)
		}
		n = v
	}
	return n
}

// BenchmarkTrackerUDP is announces over UDP (BEP 15).
func BenchmarkTrackerUDP(b *testing.B) { benchTrackers(b, dialUDP) }

// BenchmarkTrackerHTTP is announces over HTTP: on connections that are kept, where the tracker keeps them.
func BenchmarkTrackerHTTP(b *testing.B) { benchTrackers(b, dialHTTP) }

func benchTrackers(b *testing.B, dial func(string) (func([20]byte, uint64) error, func(), error)) {
	for _, t := range trackers {
		b.Run(t.name, func(b *testing.B) {
			w := e2etest.New(b)
			under := t.start(b, w)
			for b.Loop() {
				runAnnounces(b, under, announceCount(b), dial)
			}
		})
	}
}

// dialUDP connects to a tracker.
func dialUDP(addr string) (func([20]byte, uint64) error, func(), error) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return nil, nil, err
	}
	reply := make([]byte, 2048)
	ask := func(q []byte, least int) ([]byte, error) {
		for try := range 5 {
			if _, err := c.Write(q); err != nil {
				return nil, err
			}
			if err := c.SetReadDeadline(time.Now().Add(time.Second << try)); err != nil {
				return nil, err
			}
			for {
				n, err := c.Read(reply)
				if err != nil {
					time.Sleep(20 * time.Millisecond) // not a timeout: the tracker has only just begun
					break
				}
				if n >= least && bytes.Equal(reply[:8], append(q[8:12:12], q[12:16]...)) {
					return reply[:n], nil
				}
				if n >= 8 && bytes.Equal(reply[4:8], q[12:16]) {
					return nil, fmt.Errorf("tracker says %q", reply[8:n])
				}
			}
		}
		return nil, fmt.Errorf("tracker does not answer")
	}
	q := make([]byte, 98)
	connect := binary.BigEndian.AppendUint64(nil, 0x41727101980)
	connect = append(connect, 0, 0, 0, 0, 7, 7, 7, 7)
	id, err := ask(connect, 16)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	copy(q, id[8:16])
	binary.BigEndian.PutUint32(q[8:], 1)
	binary.BigEndian.PutUint64(q[64:], 1<<20)
	binary.BigEndian.PutUint32(q[80:], 2)
	binary.BigEndian.PutUint32(q[88:], 12345)
	binary.BigEndian.PutUint32(q[92:], 1<<32-1)
	copy(q[36:], "-XX0001-")
	return func(swarm [20]byte, peer uint64) error {
		binary.BigEndian.PutUint32(q[12:], uint32(peer))
		copy(q[16:], swarm[:])
		binary.BigEndian.PutUint64(q[48:], peer)
		binary.BigEndian.PutUint16(q[96:], uint16(1024+peer%64000))
		_, err := ask(q, 20)
		return err
	}, func() { c.Close() }, nil
}

// dialHTTP connects to a tracker, again after each announce when it hangs up.
func dialHTTP(addr string) (func([20]byte, uint64) error, func(), error) {
	var c net.Conn
	var r *bufio.Reader
	var q []byte
	used, hangsUp := false, false
	var one func(swarm [20]byte, peer uint64) (err error)
	one = func(swarm [20]byte, peer uint64) (err error) {
		if c == nil {
			if c, err = net.Dial("tcp", addr); err != nil {
				return err
			}
			r, used = bufio.NewReader(c), false
		}
		q = append(q[:0], "GET /announce?info_hash="...)
		for _, x := range swarm {
			q = append(q, '%', "0123456789abcdef"[x>>4], "0123456789abcdef"[x&15])
		}
		q = fmt.Appendf(q, "&peer_id=-XX0001-%012d&port=%d&uploaded=0&downloaded=0&left=1048576&event=started&key=ab12&compact=1&numwant=50 HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1\r\nAccept-Encoding: gzip\r\n\r\n", peer, 1024+peer%64000, addr)
		if _, err = c.Write(q); err != nil && !used {
			return err
		}
		keep, length := true, -1
		for first := true; ; first = false {
			line, err := r.ReadSlice('\n')
			if err != nil && first && used && !hangsUp { // opentracker does not say that it does not keep connections
				hangsUp = true
				c.Close()
				c = nil
				return one(swarm, peer)
			}
			if err != nil {
				return err
			}
			line = bytes.TrimRight(line, "\r\n")
			if first {
				if keep = bytes.HasPrefix(line, []byte("HTTP/1.1")); !bytes.Contains(line, []byte(" 200 ")) {
					return fmt.Errorf("tracker says %q", line)
				}
				continue
			}
			if len(line) == 0 {
				break
			}
			name, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimSpace(value)
			switch strings.ToLower(string(name)) {
			case "content-length":
				length, _ = strconv.Atoi(string(value))
			case "connection":
				keep = !bytes.EqualFold(value, []byte("close"))
			}
		}
		var body []byte
		if length >= 0 {
			if body, err = r.Peek(min(length, 16)); err == nil {
				if bytes.HasPrefix(body, []byte("d14:failure")) {
					return fmt.Errorf("tracker says %q", body)
				}
				_, err = r.Discard(length)
			}
		} else {
			keep = false
			_, err = io.Copy(io.Discard, r)
		}
		if used = true; !keep || hangsUp {
			c.Close()
			c = nil
		}
		return err
	}
	return one, func() {
		if c != nil {
			c.Close()
		}
	}, nil
}

// stop ends a rival.
func stop(p *e2etest.Process) {
	if !p.Ended() {
		p.Signal(syscall.SIGKILL)
		p.Wait(5 * time.Second)
	}
}
