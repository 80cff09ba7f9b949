package tracker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

const redisPassword = "s3cret/&"

// needRedis is the path of a Redis or Valkey server; without one the test fails where CI=true.
func needRedis(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this machine should have redis-server: apt-get install redis-server")
	}
	t.Skip("no redis-server: apt-get install redis-server")
	return ""
}

// redisServer is a real server on loopback that a test may kill and start again.
type redisServer struct {
	t    *testing.T
	port string
	cmd  *exec.Cmd
}

func startRedis(t *testing.T) *redisServer {
	t.Helper()
	needRedis(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	r := &redisServer{t: t, port: port}
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command(needRedis(r.t), "--port", r.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", redisPassword, "--dir", r.t.TempDir())
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for end := time.Now().Add(awhile); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+r.port)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			r.t.Fatal(err)
		}
	}
}

func (r *redisServer) kill() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *redisServer) url(t *testing.T) *StateURL {
	t.Helper()
	u, err := ParseStateURL("redis://default:" + strings.NewReplacer("/", "%2F", "&", "%26").Replace(redisPassword) + "@127.0.0.1:" + r.port + "/0")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// notes is a log that tests read.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

// shareState starts a tracker that shares its state.
func shareState(t *testing.T, u *StateURL) (*Server, string, *notes) {
	t.Helper()
	log := new(notes)
	s := NewServer(ServerOptions{State: u, Log: slog.New(slog.NewTextHandler(log, nil))})
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.CloseClientConnections()
		h.Close()
		if strings.Contains(log.String(), redisPassword) || strings.Contains(log.String(), "s3cret") {
			t.Errorf("the log shows the password:\n%s", log)
		}
	})
	return s, h.URL, log
}

// statsOf reads /stats.
func statsOf(t *testing.T, url string) (all serverStats) {
	t.Helper()
	r, err := http.Get(url + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &all); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(body, []byte("s3cret")) {
		t.Errorf("/stats shows the password: %s", body)
	}
	return all
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(awhile); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// connected waits until trackers see each other.
func connected(t *testing.T, n int, urls ...string) {
	t.Helper()
	for _, url := range urls {
		eventually(t, fmt.Sprintf("%d trackers at the shared state", n), func() bool {
			s := statsOf(t, url).Sharing
			return s != nil && s.OK && s.Trackers == n
		})
	}
}

// TestTwoTrackersOneSwarm: nodes of one swarm that report to different trackers know each other, what each has and
// which roots it claims, and read every piece from the origin once.
func TestTwoTrackersOneSwarm(t *testing.T) {
	redis := startRedis(t)
	_, one, _ := shareState(t, redis.url(t))
	_, two, _ := shareState(t, redis.url(t))
	connected(t, 2, one, two)
	a := participate(t, one, 1, nil)
	a.until(t, "solo", func() bool { return a.State() == Solo })
	for i := range uint32(16) { // what one node has before the other comes
		a.store.put(i, rootOf(i), blob.Direct)
	}
	b := participate(t, two, 2, nil)
	for _, p := range []*participant{a, b} {
		p.until(t, "shared", func() bool { return p.State() == Shared && p.Status().Nodes == 2 })
	}
	a.until(t, "the address of b", func() bool { return a.knows(netip.MustParseAddrPort("127.0.0.1:1002")) })
	b.until(t, "the address of a", func() bool { return b.knows(netip.MustParseAddrPort("127.0.0.1:1001")) })
	for i := range uint32(16) {
		b.until(t, "a root", func() bool { root, _ := b.store.Root(i); return root == rootOf(i) })
	}
	read := make([]int, 64)
	for i := range 16 {
		read[i]++
	}
	a.Want(nil, nil, whole)
	b.Want(nil, nil, whole)
	done := func() bool {
		for i := range read {
			if read[i] == 0 {
				return false
			}
		}
		return true
	}
	end := time.Now().Add(awhile)
	for !done() {
		if time.Now().After(end) {
			t.Fatalf("not read: %v; a %+v, b %+v", read, a.Status(), b.Status())
		}
		for _, p := range []*participant{a, b} {
			for i := range uint32(64) {
				if p.Mine(i) && !p.store.PieceComplete(i) {
					read[i]++
					p.store.put(i, rootOf(i), blob.Direct)
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	for i, n := range read {
		if n != 1 {
			t.Errorf("piece %d was read %d times", i, n)
		}
	}
	for i := range uint32(64) {
		for _, p := range []*participant{a, b} {
			p.until(t, "every root", func() bool { root, _ := p.store.Root(i); return root == rootOf(i) })
		}
	}
	// Who disagrees with a root that was claimed elsewhere starts a dispute everywhere.
	b.store.put(3, rootOf(99), blob.Direct)
	for _, p := range []*participant{a, b} {
		p.until(t, "the dispute", func() bool {
			p.store.mu.Lock()
			defer p.store.mu.Unlock()
			return p.store.dropped[3] > 0
		})
	}
	// Who leaves is gone there too.
	b.Close()
	a.until(t, "solo again", func() bool { return a.State() == Solo })
}

// TestSharedStateDies: without the store the trackers go on from memory and say so, and when it is there again,
// empty, they share everything anew.
func TestSharedStateDies(t *testing.T) {
	redis := startRedis(t)
	_, one, log := shareState(t, redis.url(t))
	_, two, _ := shareState(t, redis.url(t))
	connected(t, 2, one, two)
	a, b := participate(t, one, 1, nil), participate(t, two, 2, nil)
	for _, p := range []*participant{a, b} {
		p.until(t, "shared", func() bool { return p.State() == Shared })
	}
	a.store.put(5, rootOf(5), blob.Direct)
	b.until(t, "a root", func() bool { root, _ := b.store.Root(5); return root == rootOf(5) })

	redis.kill()
	for _, url := range []string{one, two} {
		eventually(t, "that /stats says so", func() bool { s := statsOf(t, url).Sharing; return s != nil && !s.OK && s.Fault != "" })
	}
	if !strings.Contains(log.String(), "going on from memory") {
		t.Errorf("the log does not say it:\n%s", log)
	}
	before := a.Status().Exchanges
	a.Want(nil, []blob.Run{{First: 20, Count: 1}}, nil)
	a.until(t, "a lease from memory", func() bool { return a.Mine(20) })
	a.store.put(20, rootOf(20), blob.Direct)
	c := participate(t, one, 3, nil)
	c.until(t, "the root, from the same tracker", func() bool { root, _ := c.store.Root(20); return root == rootOf(20) })
	a.until(t, "that its status says so", func() bool { return a.Status().Alone })
	if a.Status().Exchanges <= before {
		t.Error("no exchanges without the store")
	}

	redis.start()
	connected(t, 2, one, two)
	a.Want(nil, []blob.Run{{First: 21, Count: 1}}, nil)
	a.until(t, "that its status says so no more", func() bool { return !a.Status().Alone })
	b.until(t, "what happened meanwhile", func() bool { root, _ := b.store.Root(20); return root == rootOf(20) })
	b.until(t, "who came meanwhile", func() bool { return b.knows(netip.MustParseAddrPort("127.0.0.1:1003")) && b.Status().Nodes == 3 })
}

// TestTrackerFailsOver: a tracker dies, and its node goes to the other one, which knows its swarm already.
func TestTrackerFailsOver(t *testing.T) {
	redis := startRedis(t)
	s, one, _ := shareState(t, redis.url(t))
	_, two, _ := shareState(t, redis.url(t))
	connected(t, 2, one, two)
	a := participate(t, one, 1, nil)
	for i := range uint32(8) {
		a.store.put(i, rootOf(i), blob.Direct)
	}
	a.Want(nil, nil, []blob.Run{{First: 8, Count: 4}})
	a.until(t, "leases", func() bool { return a.Mine(8) && a.Mine(11) })
	time.Sleep(3 * publishEvery) // what happened in the last moment a dying tracker takes along
	s.Close()
	b := participate(t, two, 2, nil)
	b.until(t, "not to be alone", func() bool { return b.State() == Shared })
	b.until(t, "a root", func() bool { root, _ := b.store.Root(7); return root == rootOf(7) })
	b.Want(nil, nil, []blob.Run{{First: 0, Count: 16}})
	b.until(t, "leases of what nobody has or reads", func() bool { return b.Mine(12) })
	for i := range uint32(12) {
		if b.Mine(i) {
			t.Errorf("piece %d is leased though the other node has it, or reads it", i)
		}
	}
}

// TestWrongPassword: the tracker works, and says what is wrong without the password.
func TestWrongPassword(t *testing.T) {
	redis := startRedis(t)
	u, err := ParseStateURL("redis://:s3cret-wrong@127.0.0.1:" + redis.port)
	if err != nil {
		t.Fatal(err)
	}
	_, one, log := shareState(t, u)
	a := participate(t, one, 1, nil)
	a.until(t, "solo", func() bool { return a.State() == Solo })
	eventually(t, "the error", func() bool { return strings.Contains(log.String(), "WRONGPASS") })
	if s := statsOf(t, one).Sharing; s.OK || s.State != "redis://127.0.0.1:"+redis.port+"/0" {
		t.Errorf("stats %+v", s)
	}
}

func TestStateURL(t *testing.T) {
	for _, bad := range []string{"", "redis", "http://x", "redis://", "redis://u:s3cret@", "redis://u:s3cret%zz@h:1", "redis://u:s3cret@h:1/notanumber", "/var/lib/pantala"} {
		_, err := ParseStateURL(bad)
		if !errors.Is(err, blob.ErrInvalid) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	u, err := ParseStateURL("rediss://u:s3cret@h:1/3")
	if err != nil || u.String() != "rediss://h:1/3" {
		t.Errorf("%v, %v", u, err)
	}
}

// FuzzForeigner: a record of another tracker is refused, or says the same when it is written again.
func FuzzForeigner(f *testing.F) {
	n := &foreigner{addr: address("A"), geometry: small, zone: "eu/a", have: newBitmap(64)}
	n.have.put(7, true)
	f.Add(n.append(nil))
	f.Add((&foreigner{addr: address("B"), geometry: small, seed: true}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseForeigner(b); err == nil {
			again, err := parseForeigner(got.append(nil))
			if err != nil || again.addr != got.addr || again.seed != got.seed || again.zone != got.zone || again.geometry != got.geometry {
				t.Errorf("%+v became %+v, %v", got, again, err)
			}
		}
	})
}

// FuzzChange: any message of the channel is passed over, or has what it says it has.
func FuzzChange(f *testing.F) {
	f.Add("12345678aaaaaaaaaaaaaaaaaaaac\x00\x00\x00\x07")
	f.Add("12345678aaaaaaaaaaaaaaaaaaaan" + strings.Repeat("p", 40))
	f.Fuzz(func(t *testing.T, m string) {
		if ch, ok := parseChange(m); ok && len(ch.items) > 0 && !strings.ContainsRune("ncd", rune(ch.kind)) {
			t.Errorf("%+v", ch)
		}
	})
}
