package tracker

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
)

// recordsOf starts a client of trackers, as the node at port.
func recordsOf(t *testing.T, port int, trackers ...string) *Records {
	t.Helper()
	r := NewRecords(RecordsOptions{Trackers: trackers, PeerID: [20]byte{byte(port)}, Port: port, IP: netip.AddrFrom4([4]byte{10, 1, byte(port >> 8), byte(port)}).String(), Patience: awhile})
	t.Cleanup(func() { r.Close() })
	return r
}

func startTracker(t *testing.T) (*Server, string) {
	t.Helper()
	s := NewServer(ServerOptions{})
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.CloseClientConnections()
		h.Close()
	})
	return s, h.URL
}

// vouchersOf waits until so many hosts vouch for the first claim about a layer.
func vouchersOf(t *testing.T, r *Records, layer blob.Hash, n int) (all []IndexClaim) {
	t.Helper()
	eventually(t, "claims about a layer", func() bool {
		var err error
		all, err = r.Index(context.Background(), layer)
		return err == nil && (n == 0 && len(all) == 0 || len(all) > 0 && all[0].Vouchers == n)
	})
	return all
}

// TestRecordsClient: one node claims and records, another asks about many layers in one exchange; what is taken back is
// gone, and so is what a node claimed that leaves.
func TestRecordsClient(t *testing.T) {
	s, url := startTracker(t)
	a, b := recordsOf(t, 1, url), recordsOf(t, 2, url)
	var layers []blob.Hash
	for i := range byte(200) {
		layers = append(layers, blob.Hash{i, 1})
		if err := a.ClaimIndex(layers[i], claimOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	vouchersOf(t, b, layers[199], 1)
	before := s.shelf.stats()
	if err := a.ReportProfile(context.Background(), blob.Hash{9}, []byte("a profile")); err != nil {
		t.Fatal(err)
	}
	f, err := b.Ask(context.Background(), blob.Hash{9}, append(layers, blob.Hash{99, 99})...)
	if err != nil || len(f.Indexes) != 200 || string(f.Profile) != "a profile" {
		t.Fatalf("%v: %d layers, profile %q", err, len(f.Indexes), f.Profile)
	}
	for i, l := range layers {
		c := f.Indexes[l][0]
		if !c.same(new(claimOf(byte(i)))) || c.Trust != blob.Built || len(c.Peers) != 1 || c.Peers[0] != netip.MustParseAddrPort("10.1.0.1:1") {
			t.Fatalf("layer %d: %+v", i, c)
		}
	}
	if got := s.shelf.stats(); got.Layers != 200 || got.Images != 1 || got.Bytes <= before.Bytes {
		t.Errorf("%+v, then %+v", before, got)
	}
	b.ClaimIndex(layers[0], claimOf(0))
	vouchersOf(t, a, layers[0], 2)
	a.DropIndex(layers[0])
	if c := vouchersOf(t, b, layers[0], 1); c[0].Vouchers != 1 {
		t.Errorf("%+v", c)
	}
	a.Close()
	vouchersOf(t, b, layers[199], 0)
	if p, err := b.Profile(context.Background(), blob.Hash{9}); err != nil || string(p) != "a profile" {
		t.Errorf("%v: %q", err, p)
	}
	for _, bad := range []IndexClaim{{}, {Root: blob.Hash{1}, Digest: blob.Hash{1}, Size: 1}, {Root: blob.Hash{1}, Digest: blob.Hash{1}, Trust: blob.Built}} {
		if err := b.ClaimIndex(layers[1], bad); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, maxProfile+1)} {
		if err := b.ReportProfile(context.Background(), blob.Hash{9}, bad); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

// TestRecordsOfTwoTrackers: each is told everything; what only one knows is found.
func TestRecordsOfTwoTrackers(t *testing.T) {
	_, one := startTracker(t)
	_, two := startTracker(t)
	only := recordsOf(t, 1, two)
	both := recordsOf(t, 2, one, two)
	only.ClaimIndex(blob.Hash{1}, claimOf(1))
	both.ClaimIndex(blob.Hash{2}, claimOf(2))
	vouchersOf(t, both, blob.Hash{1}, 1)
	vouchersOf(t, recordsOf(t, 3, one), blob.Hash{2}, 1)
	vouchersOf(t, recordsOf(t, 4, two), blob.Hash{2}, 1)
}

// TestTrackerForgets: a node that hears that a tracker has started anew tells it everything again.
func TestTrackerForgets(t *testing.T) {
	var now atomic.Pointer[Server]
	start := func() *Server {
		s := NewServer(ServerOptions{})
		t.Cleanup(s.Close)
		now.Store(s)
		return s
	}
	start()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }))
	defer h.Close()
	a := recordsOf(t, 1, h.URL)
	a.mu.Lock()
	a.pause = 0
	a.mu.Unlock()
	a.ClaimIndex(blob.Hash{1}, claimOf(1))
	a.ClaimIndex(blob.Hash{2}, claimOf(2))
	vouchersOf(t, a, blob.Hash{1}, 1)
	s := start()
	vouchersOf(t, a, blob.Hash{1}, 1)
	if n := s.shelf.stats().Layers; n != 2 {
		t.Errorf("%d layers", n)
	}
}

// TestNobodyAnswers: without a tracker that answers nothing waits for long, and one that does is not held up by one
// that does not.
func TestNobodyAnswers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	mute := "http://" + silent.Addr().String()
	gone := httptest.NewServer(nil)
	gone.Close()

	none := NewRecords(RecordsOptions{})
	defer none.Close()
	udp := NewRecords(RecordsOptions{Trackers: []string{"udp://127.0.0.1:1"}})
	defer udp.Close()
	dead := NewRecords(RecordsOptions{Trackers: []string{mute, gone.URL}})
	defer dead.Close()
	for name, r := range map[string]*Records{"none": none, "udp": udp, "dead": dead} {
		began := time.Now()
		if c, err := r.Index(context.Background(), blob.Hash{1}); len(c) != 0 || !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("%s: %v, %v", name, c, err)
		}
		// It is 250 ms; the rest is for a machine that is busy.
		if took := time.Since(began); took > awhile/2 {
			t.Errorf("%s: %v", name, took)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := r.Index(ctx, blob.Hash{1}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}

	s, url := startTracker(t)
	host, peer := hostAt(1)
	s.shelf.vouch(time.Now(), blob.Hash{1}, claimOf(1), vouch{host: host, peer: peer, since: time.Now().Unix(), at: time.Now().Unix()})
	mixed := recordsOf(t, 1, mute, url)
	began := time.Now()
	if c, err := mixed.Index(context.Background(), blob.Hash{1}); err != nil || len(c) != 1 {
		t.Errorf("%v, %v", c, err)
	}
	if took := time.Since(began); took >= recordsExchange {
		t.Errorf("the answer waited %v for a tracker that is silent", took)
	}
}

// TestOldTracker: one that keeps no records has none.
func TestOldTracker(t *testing.T) {
	var asked atomic.Int32
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.NotFound(w, r)
	}))
	defer h.Close()
	r := recordsOf(t, 1, h.URL)
	if f, err := r.Ask(context.Background(), blob.Hash{1}, blob.Hash{2}); err != nil || len(f.Indexes) != 0 || f.Profile != nil {
		t.Errorf("%+v, %v", f, err)
	}
	for range 3 { // it is left alone for a while
		if _, err := r.Index(context.Background(), blob.Hash{2}); !errors.Is(err, blob.ErrUnavailable) {
			t.Error(err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestRecordsBySRV: trackers that DNS names are asked, and the first question waits for DNS.
func TestRecordsBySRV(t *testing.T) {
	s, url := startTracker(t)
	host, peer := hostAt(1)
	s.shelf.vouch(time.Now(), blob.Hash{1}, claimOf(1), vouch{host: host, peer: peer, since: time.Now().Unix(), at: time.Now().Unix()})
	at := netip.MustParseAddrPort(strings.TrimPrefix(url, "http://"))
	r := NewRecords(RecordsOptions{Trackers: []string{"srv:_pantala._tcp.example.com"}, Patience: awhile, Lookup: func(context.Context, string) ([]*net.SRV, error) {
		time.Sleep(20 * time.Millisecond)
		return []*net.SRV{{Target: at.Addr().String(), Port: at.Port()}}, nil
	}})
	defer r.Close()
	if c, err := r.Index(context.Background(), blob.Hash{1}); err != nil || len(c) != 1 {
		t.Errorf("%v, %v", c, err)
	}
}

// TestSharedRecords: what one tracker is told another one that shares its state answers with, also when a host takes
// its word back; and when the store is gone each goes on with what it knows.
func TestSharedRecords(t *testing.T) {
	redis := startRedis(t)
	_, one, _ := shareState(t, redis.url(t))
	s, two, log := shareState(t, redis.url(t))
	connected(t, 2, one, two)
	a, b, c := recordsOf(t, 1, one), recordsOf(t, 2, two), recordsOf(t, 3, one)
	layer, image := blob.Hash{1}, blob.Hash{2}
	a.ClaimIndex(layer, claimOf(1))
	all := vouchersOf(t, b, layer, 1)
	if !all[0].same(new(claimOf(1))) || len(all[0].Peers) != 1 || all[0].Peers[0] != netip.MustParseAddrPort("10.1.0.1:1") {
		t.Errorf("%+v", all)
	}
	c.ClaimIndex(layer, claimOf(2))
	b.ClaimIndex(layer, claimOf(2))
	for _, r := range []*Records{a, b} {
		if all := vouchersOf(t, r, layer, 2); len(all) != 2 || all[0].Root != claimOf(2).Root || all[1].Vouchers != 1 {
			t.Errorf("%+v", all)
		}
	}
	c.DropIndex(layer)
	if all := vouchersOf(t, b, layer, 1); len(all) != 2 || all[0].Root != claimOf(1).Root {
		t.Errorf("equals: the oldest is first: %+v", all)
	}
	for i, r := range []*Records{a, b, c} {
		if err := r.ReportProfile(context.Background(), image, []byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the profiles of all", func() bool {
		b.Profile(context.Background(), image)
		s.shelf.mu.Lock()
		defer s.shelf.mu.Unlock()
		r, ok := s.shelf.images.get(image)
		return ok && len(r.reports) == 3
	})
	redis.kill()
	if all := vouchersOf(t, b, layer, 1); len(all) != 2 {
		t.Errorf("without the store: %+v", all)
	}
	if p, err := b.Profile(context.Background(), image); err != nil || len(p) != 1 {
		t.Errorf("without the store: %q, %v", p, err)
	}
	if err := checkShelf(s.shelf); err != nil {
		t.Errorf("%v\n%s", err, log)
	}
}

// TestRecordsInStore: hosts and profiles beyond the bounds do not get into the store, and rubbish there does no harm.
func TestRecordsInStore(t *testing.T) {
	redis := startRedis(t)
	s, url, _ := shareState(t, redis.url(t))
	connected(t, 1, url)
	layer, image, now := blob.Hash{1}, blob.Hash{2}, time.Now()
	for i := range 50 {
		q := &recordsRequest{claims: []layerClaim{{layer: layer, IndexClaim: claimOf(1)}}, image: image, report: []byte{1, byte(i)}}
		host, peer := hostAt(i)
		at := now.Unix() + int64(i)
		if err := s.commons.exchangeRecords(context.Background(), *s.commons.live.Load(), now, q, vouch{host: host, peer: peer, since: at, at: at}, report{host, at, q.report}); err != nil {
			t.Fatal(err)
		}
	}
	store := *s.commons.live.Load()
	count := func(key string) int64 {
		n, err := store.Do(context.Background(), store.B().Hlen().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n, m := count(recordKey(layer, "index")), count(recordKey(image, "profiles")); n != maxVouches || m != maxProfiles {
		t.Errorf("%d hosts and %d profiles", n, m)
	}
	for host, value := range map[string]string{"short": "x", strings.Repeat("h", 16): strings.Repeat("\xff", vouchLen), strings.Repeat("i", 16): "y"} {
		for _, key := range []string{recordKey(layer, "index"), recordKey(image, "profiles")} {
			if err := store.Do(context.Background(), store.B().Hset().Key(key).FieldValue().FieldValue(host, value).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	q := &recordsRequest{ask: []blob.Hash{layer}, image: image, want: true}
	if err := s.commons.exchangeRecords(context.Background(), store, now.Add(time.Minute), q, vouch{}, report{}); err != nil {
		t.Fatal(err)
	}
	if c := s.shelf.claims(now.Add(time.Minute), q.ask, hostID{}, 0); len(c) != 1 || c[0].Vouchers != maxVouches {
		t.Errorf("%+v", c)
	}
	if p := s.shelf.profile(now, image, func(all [][]byte) []byte { return bytes.Join(all, nil) }); len(p) < 2*(maxProfiles-1) {
		t.Errorf("%d bytes", len(p))
	}
	// A host that is there keeps its place, and one that has expired makes room.
	host, peer := hostAt(77)
	late := now.Add(claimKept + time.Minute)
	q = &recordsRequest{claims: []layerClaim{{layer: layer, IndexClaim: claimOf(2)}}}
	if err := s.commons.exchangeRecords(context.Background(), store, late, q, vouch{host: host, peer: peer, since: late.Unix(), at: late.Unix()}, report{}); err != nil {
		t.Fatal(err)
	}
	if n := count(recordKey(layer, "index")); n >= maxVouches {
		t.Errorf("%d hosts after all but one had expired", n)
	}
}

// BenchmarkAskRecords is a mount's question: 127 layers and a profile, through HTTP.
func BenchmarkAskRecords(b *testing.B) {
	s := NewServer(ServerOptions{})
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	var layers []blob.Hash
	for i := range 127 {
		layers = append(layers, blob.Hash{byte(i)})
		for n := range 3 {
			host, peer := hostAt(n)
			s.shelf.vouch(time.Now(), layers[i], claimOf(1), vouch{host: host, peer: peer, since: time.Now().Unix(), at: time.Now().Unix()})
		}
	}
	s.shelf.report(time.Now(), blob.Hash{1}, report{profile: make([]byte, 4000), at: time.Now().Unix()})
	r := NewRecords(RecordsOptions{Trackers: []string{"http://" + l.Addr().String()}, Log: slog.New(slog.DiscardHandler)})
	for b.Loop() {
		s.meter.mu.Lock()
		clear(s.meter.all)
		s.meter.mu.Unlock()
		if f, err := r.Ask(context.Background(), blob.Hash{1}, layers...); err != nil || len(f.Indexes) != 127 {
			b.Fatalf("%v, %d", err, len(f.Indexes))
		}
	}
	r.Close()
	s.Close()
	<-done
}
