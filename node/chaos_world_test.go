package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/origin/origintest"
	"github.com/pantala/pantala/swarm/swarmtest"
)

const (
	chaosNodes     = 3
	readersPerNode = 3
)

// world is everything there is in one run. Only the goroutine of the test changes it.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	dir     string
	objects []*object
	nodes   []*chaosNode
	tracker *chaosTracker
	liars   []*swarmtest.Liar
	seeded  bool // there is one more node, which has the first versions and is never stopped
	seed    *chaosNode
	holds   []func() // end the seed's use of the objects

	// stormy says that reads may fail; calmed is when the last storm ended.
	stormy atomic.Bool
	calmed atomic.Int64 // unix nanoseconds

	reads, failed, cancelled, bytes, stops, images atomic.Int64
}

// object is one thing to read. Its versions are named by their ETag.
type object struct {
	origin   *origintest.Server
	modified time.Time // of the newest version
	changed  atomic.Int64

	mu       sync.Mutex
	versions map[string][]byte
}

// bytes are those of the version with an ETag.
func (o *object) bytes(etag string) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.versions[etag]
}

func newWorld(t *testing.T, rng *rand.Rand) *world {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, rng: rng, dir: dir, tracker: newChaosTracker(t)}
	w.stormy.Store(true)
	for range 2 {
		// Above 8 MiB an origin that ignores ranges can only be streamed.
		size := []int{1<<20 + 1, 3<<20 + 777, 6 << 20, 10<<20 - 5}[rng.IntN(4)]
		o := &object{versions: map[string][]byte{}, modified: time.Now().Add(-24 * time.Hour).Truncate(time.Second)}
		data := origintest.Bytes(rng.Uint64(), size)
		o.versions[`"v1"`] = data
		o.origin = origintest.New(t, origintest.Of(data))
		o.origin.Config.ErrorLog = nil
		o.origin.Version(`"v1"`, o.modified)
		w.objects = append(w.objects, o)
	}
	if w.seeded = rng.IntN(2) == 0; w.seeded {
		w.startSeed()
	}
	for i := range chaosNodes {
		c := config.Default(0, os.Getenv)
		c.State, c.Listen, c.Timeout = filepath.Join(dir, fmt.Sprint("node", i)), "127.0.0.1:0", chaosTimeout
		c.Trackers = []string{w.tracker.url}
		c.Memory = fetch.MinMemory
		c.Quota = []int64{0, 0, 2 << 20, 5 << 20, 12 << 20}[rng.IntN(5)]
		c.Strict = rng.IntN(4) == 0
		n := &chaosNode{w: w, i: i, conf: c, fill: []string{"never", "idle", "eager"}[rng.IntN(3)]}
		n.start()
		w.nodes = append(w.nodes, n)
		t.Logf("node %d: quota %d, strict %v, fill %s", i, c.Quota, c.Strict, n.fill)
	}
	return w
}

// startSeed starts the node that has everything.
func (w *world) startSeed() {
	c := config.Default(0, os.Getenv)
	c.State, c.Listen, c.Timeout = filepath.Join(w.dir, "seed"), "127.0.0.1:0", chaosTimeout
	c.Trackers = []string{w.tracker.url}
	w.seed = &chaosNode{w: w, i: chaosNodes, conf: c}
	w.seed.start()
	for _, o := range w.objects {
		l, done, err := w.seed.use(w.t.Context(), o, "eager")
		if err != nil {
			w.t.Fatal(err)
		}
		w.holds = append(w.holds, done)
		<-l.store.Completed()
	}
}

// storm lets things go wrong for d.
func (w *world) storm(d time.Duration) {
	w.stormy.Store(true)
	for end := time.Now().Add(d); time.Now().Before(end); {
		w.gust()
		time.Sleep(time.Duration(w.rng.IntN(250)) * time.Millisecond)
	}
}

// gust is one thing that goes wrong, or is repaired.
func (w *world) gust() {
	o, n := w.objects[w.rng.IntN(len(w.objects))], w.nodes[w.rng.IntN(len(w.nodes))]
	switch w.rng.IntN(12) {
	case 0, 1, 2:
		o.origin.Set(w.fault())
	case 3, 4:
		o.origin.Set(origintest.Faults{})
	case 5:
		o.origin.CloseClientConnections()
	case 6:
		w.tracker.stop()
	case 7:
		w.tracker.start(w.rng.IntN(2) == 0)
	case 8:
		n.stop(w.rng.IntN(2) == 0)
		n.check()
		n.start()
	case 9, 10:
		w.lie(n, o)
	case 11:
		if w.rng.IntN(4) == 0 {
			w.change(o)
		} else {
			n.image()
		}
	}
}

// fault is something that an origin does wrong, but for wrong bytes: whoever reads those directly must
// believe them.
func (w *world) fault() (f origintest.Faults) {
	some := 1 + w.rng.Int64N(300<<10)
	switch w.rng.IntN(15) {
	case 0:
		f.Stall = some
	case 1:
		f.Stall = -1
	case 2:
		f.ShortBody = some
	case 3:
		f.Reset = some
	case 4:
		f.Shorten = some
	case 5:
		f.ShiftRange = some
	case 6:
		f.StarTotal = true
	case 7:
		f.NoRangeLine = true
	case 8:
		f.Rate = 64<<10 + w.rng.Int64N(4<<20)
	case 9:
		f.Status = []int{500, 503, 429, 403, 404, 416}[w.rng.IntN(6)]
		f.RetryAfter = []string{"", "0", "1", "x"}[w.rng.IntN(4)]
	case 10:
		f.BadIfRange = true
	case 11:
		f.IgnoreIfRange = true
	case 12:
		f.IgnoreRange = true
	case 13:
		f.NoETag = true
	case 14:
		f.Fresh = true
	}
	f.Times = w.rng.IntN(8) // 0: until something else happens
	return f
}

// lie lets a liar into the swarm of an object at a node: as one who is called, or who calls.
func (w *world) lie(n *chaosNode, o *object) {
	lies := []swarmtest.Lies{
		{}, // an honest one
		{Corrupt: func(block uint32) bool { return block%3 == 0 }},
		{Corrupt: func(block uint32) bool { return true }},
		{BadLeaves: true}, {NoLeaves: true}, {DeafLeaves: true},
		{StallAfter: 5}, {StallAfter: 3, StallMid: true}, {HangUpAfter: 4},
		{Reject: true}, {Choke: true}, {Unasked: true}, {Truncated: true}, {Flood: true},
		{NoFast: true, HangUpAfter: 9}, {Delay: 30 * time.Millisecond}, {NoFast: true, StallAfter: 7},
	}[w.rng.IntN(17)]
	calls := w.rng.IntN(2) == 0
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.node == nil {
		return
	}
	n.node.mu.Lock()
	defer n.node.mu.Unlock()
	for _, l := range n.node.live {
		data := o.bytes(l.meta.Validator)
		if data == nil || l.meta.Source != o.source() {
			continue
		}
		for _, j := range l.joined() {
			liar := swarmtest.NewLiar(blob.GeometryFor(int64(len(data))), data, lies)
			w.liars = append(w.liars, liar)
			if calls {
				liar.Dial(n.node.swarm.Addr(), l.id.Key())
			} else {
				j.torrent.AddPeers(liar.Addr())
			}
		}
	}
	if len(w.liars) > 6 {
		w.liars[0].Close()
		w.liars = w.liars[1:]
	}
}

// source is the URL of the object.
func (o *object) source() string { return o.origin.At("/object") }

// change replaces an object by another version of the same length.
func (w *world) change(o *object) {
	o.mu.Lock()
	o.modified = o.modified.Add(time.Minute)
	data := origintest.Bytes(w.rng.Uint64(), len(o.versions[`"v1"`]))
	o.versions[fmt.Sprintf(`"v%d"`, o.modified.Unix())] = data
	o.mu.Unlock()
	o.changed.Add(1)
	o.origin.Change(origintest.Of(data))
}

// calm makes everything well again; the tracker and the liars stay as they are.
func (w *world) calm() {
	for _, o := range w.objects {
		o.origin.Set(origintest.Faults{})
		o.origin.CloseClientConnections() // what stands still now would for 10 s
	}
	w.calmed.Store(time.Now().UnixNano())
	w.stormy.Store(false)
}

// mayFail reports whether a read that began then may fail.
func (w *world) mayFail(began time.Time) bool {
	return w.stormy.Load() || began.Before(time.Unix(0, w.calmed.Load()).Add(settle))
}

// inspect looks at the nodes from outside, as status does.
func (w *world) inspect() {
	for _, n := range w.nodes {
		n.image()
		n.mu.Lock()
		if n.node != nil {
			if _, err := n.node.Status(w.t.Context()); err != nil {
				w.t.Errorf("status: %v", err)
			}
		}
		n.mu.Unlock()
	}
}

// allReadable waits until the last storm has settled and then reads every object on every node.
func (w *world) allReadable(ctx context.Context) {
	time.Sleep(time.Until(time.Unix(0, w.calmed.Load()).Add(settle)))
	var all sync.WaitGroup
	for _, n := range w.nodes {
		for i := range w.objects {
			r := &chaosReader{w: w, of: n, rng: rand.New(rand.NewPCG(uint64(i), uint64(n.i)))}
			all.Go(func() { r.whole(ctx, i) })
		}
	}
	all.Wait()
}

// withoutOrigin lets the nodes find the seed and then reads what it has on every node that has opened it, while
// the origin is away. Strict nodes cannot check what peers send.
func (w *world) withoutOrigin(ctx context.Context) {
	w.stormy.Store(true)
	for _, o := range w.objects {
		o.origin.Set(origintest.Faults{Status: http.StatusServiceUnavailable})
	}
	w.tracker.start(false)
	time.Sleep(gather)
	var all sync.WaitGroup
	for _, n := range w.nodes {
		for _, o := range w.objects {
			if n.conf.Strict || o.changed.Load() > 0 {
				continue
			}
			r := &chaosReader{w: w, of: n, rng: rand.New(rand.NewPCG(1, uint64(n.i)))}
			all.Go(func() { r.fromSeed(ctx, o) })
		}
	}
	all.Wait()
}

func (w *world) close() {
	w.stormy.Store(true)
	for _, done := range w.holds {
		done()
	}
	for _, n := range w.nodes {
		n.stop(false)
		n.check()
	}
	if w.seeded {
		w.seed.stop(false)
		w.seed.check()
	}
	for _, l := range w.liars {
		l.Close()
	}
	w.tracker.stop()
	w.tracker.tracker.Close()
	for _, o := range w.objects {
		o.origin.Close()
	}
}

func (w *world) tally() string {
	return fmt.Sprintf("%d reads of %d MiB, %d failed, %d cancelled; %d stops, %d images of stores", w.reads.Load(), w.bytes.Load()>>20, w.failed.Load(), w.cancelled.Load(), w.stops.Load(), w.images.Load())
}
