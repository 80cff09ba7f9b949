package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/swarm"
)

// Options are what New is told beside the configuration.
type Options struct {
	Version string        // for status and the User-Agent
	Log     *slog.Logger  // nil = discard
	Idle    time.Duration // how long to live without mounts and shares; 0 = for ever
	// KeepFuse is the command that runs fs.Hold; the path of a socket is appended. Without it images that are in use
	// do not survive the node.
	KeepFuse []string
}

// Node is one running pantala. It implements control.Node.
type Node struct {
	// Constant after New.
	Cache
	cfg     config.Config
	opts    Options // Idle is guarded by mu
	log     *slog.Logger
	started time.Time
	store   *blockio.Store
	swarm   *swarm.Node
	origin  *origin.Client
	finders finders
	images  atomic.Pointer[images] // set when the first image is asked for
	limits  *limits
	// profiles is in which order images are read when they start.
	profiles *Profiles
	stop     chan struct{}   // closed by Stop, or when idle for long enough
	asking   context.Context // ends when Close begins: requests under way give up
	refuse   context.CancelFunc
	ctx      context.Context // ends when all mounts are gone
	cancel   context.CancelFunc

	requests sync.WaitGroup // requests under way, see begin
	wg       sync.WaitGroup // goroutines of this package

	mu      sync.Mutex
	closing bool
	stopped bool
	busy    int // requests under way that may mount or share
	idle    *time.Timer
	engines map[patience]*fetch.Engine
	mounts  map[string]*mount // by directory
	// detached are mounts that have left the file tree while somebody has a file of them open. They hold their
	// blobs, and keep the node from being idle.
	detached map[*mount]struct{}
	shares   map[blob.ID]*share
	live     map[blob.ID]*live
	doors    []func() error // what else serves, to be closed before anything is unmounted
}

var _ control.Node = (*Node)(nil)

// patience is what one fetch.Engine is made for. Each has a memory budget of its own; all mounts that do not
// ask for another timeout share one.
type patience struct {
	timeout time.Duration
	hard    bool
}

// StoreDir is the directory of cached blobs in a state directory.
func StoreDir(state string) string { return filepath.Join(state, "cache") }

// New builds a node: state directory, store (which locks it), peer wire, origin client. On an error what was
// built already is stopped again.
func New(c config.Config, o Options) (_ *Node, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return nil, control.Local(fmt.Errorf("state directory: %w: make it writable, or name another one with --state", err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	asking, refuse := context.WithCancel(ctx)
	n := &Node{
		cfg: c, opts: o, log: o.Log, started: time.Now(), stop: make(chan struct{}), ctx: ctx, cancel: cancel,
		asking: asking, refuse: refuse,
		limits: newLimits(c), engines: map[patience]*fetch.Engine{}, mounts: map[string]*mount{}, detached: map[*mount]struct{}{},
		shares: map[blob.ID]*share{}, live: map[blob.ID]*live{},
	}
	var undo []func()
	defer func() {
		if err != nil {
			cancel()
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	if n.store, err = blockio.Open(StoreDir(c.State), blockio.Options{Quota: c.Quota, Log: o.Log}); err != nil {
		return nil, control.Local(fmt.Errorf("cache: %w", err))
	}
	undo = append(undo, func() { n.store.Close() })
	// The lock of the store is ours: what lies there was left by a process that died.
	if err = os.RemoveAll(streamDir(c.State)); err != nil {
		return nil, control.Local(fmt.Errorf("state directory: %w", err))
	}
	if err := (digests{digestsDir(c.State)}).sweep(n.store); err != nil {
		o.Log.Warn("old digests stay", "err", err)
	}
	if err := (library{libraryDir(c.State)}).sweep(); err != nil {
		o.Log.Warn("old torrents stay", "err", err)
	}
	n.Cache, n.profiles = Cache{n.store}, OpenProfiles(c.State)
	if err := n.profiles.sweep(); err != nil {
		o.Log.Warn("old profiles stay", "err", err)
	}
	if n.swarm, err = swarm.NewNode(swarm.Options{Listen: c.Listen, NoPEX: !c.PEX, NoCompress: !c.Compress, Log: o.Log}); err != nil {
		return nil, control.Local(fmt.Errorf("peer wire: %w", err))
	}
	undo = append(undo, func() { n.swarm.Close() })
	if err = n.discover(); err != nil {
		return nil, err
	}
	undo = append(undo, func() { n.finders.close() })
	agent := "pantala/" + o.Version
	if n.origin, err = origin.NewClient(origin.Options{CACert: c.CACert, Log: o.Log, UserAgent: agent}); err != nil {
		return nil, err
	}
	if n.left() {
		if _, err = n.imageDoor(); err != nil {
			return nil, err
		}
	}
	n.rest()
	return n, nil
}

// Done is closed when somebody asked the node to stop, or it has been idle for long enough. The owner then
// calls Close.
func (n *Node) Done() <-chan struct{} { return n.stop }

// State is the node's state directory.
func (n *Node) State() string { return n.cfg.State }

// Close unmounts everything, by force what is in use, and stops all parts in reverse order. ctx bounds the
// polite part of it. Files of mounts that are still open a moment later are cut off: who reads them on gets an
// error.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	if n.closing {
		n.mu.Unlock()
		return nil
	}
	n.closing = true
	if n.idle != nil {
		n.idle.Stop()
	}
	n.mu.Unlock()
	n.refuse()
	n.requests.Wait()

	n.mu.Lock()
	mounts := slices.AppendSeq(slices.Collect(maps.Values(n.mounts)), maps.Keys(n.detached))
	shares := n.shares
	n.shares = map[blob.ID]*share{}
	n.mu.Unlock()

	var errs []error
	var all sync.WaitGroup
	var lock sync.Mutex
	anyStuck := false
	for _, m := range mounts {
		all.Go(func() {
			stuck, err := n.shut(ctx, m)
			lock.Lock()
			defer lock.Unlock()
			anyStuck = anyStuck || stuck
			errs = append(errs, control.Local(err))
		})
	}
	all.Wait()
	for _, shut := range n.doors {
		errs = append(errs, control.Local(shut()))
	}
	if s := n.images.Load(); s != nil {
		errs = append(errs, s.close(ctx))
	}
	for _, s := range shares {
		n.release(s.live)
	}
	n.cancel()
	if !anyStuck { // else its end comes with that of the process: reads of it fail from here on
		n.wg.Wait()
	}
	n.mu.Lock()
	engines := n.engines
	n.engines = nil
	n.mu.Unlock()
	for _, e := range engines {
		e.Close()
	}
	errs = append(errs, control.Local(n.finders.close()), n.swarm.Close())
	n.origin.Close()
	errs = append(errs, n.store.Close())
	return errors.Join(errs...)
}

// Stop implements control.Node.
func (n *Node) Stop(_ context.Context, idle bool) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if idle && !n.isIdle() {
		return false, nil
	}
	n.end()
	return true, nil
}

// end closes n.stop once. Needs mu.
func (n *Node) end() {
	if !n.stopped {
		n.stopped = true
		close(n.stop)
	}
}

// isIdle reports whether nobody would miss the node. Needs mu.
func (n *Node) isIdle() bool {
	if s := n.images.Load(); s != nil && s.busy() {
		return false
	}
	return n.busy == 0 && len(n.mounts) == 0 && len(n.detached) == 0 && len(n.shares) == 0
}

// begin says that a request is under way that may mount or share; the caller calls done when it has ended.
// The context it returns also ends when the node is closed.
func (n *Node) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing || n.stopped {
		return nil, nil, fmt.Errorf("%w: the daemon is being stopped: try again in a moment", blob.ErrClosed)
	}
	n.busy++
	n.requests.Add(1)
	if n.idle != nil {
		n.idle.Stop()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(n.asking, func() { cancel(fmt.Errorf("%w: the daemon is being stopped", blob.ErrClosed)) })
	return ctx, func() {
		unlink()
		cancel(nil)
		n.mu.Lock()
		n.busy--
		n.mu.Unlock()
		n.requests.Done()
		n.rest()
	}, nil
}

// StopWhenIdle makes the node end when nothing has been mounted or shared for as long as after.
func (n *Node) StopWhenIdle(after time.Duration) {
	n.mu.Lock()
	n.opts.Idle = after
	n.mu.Unlock()
	n.rest()
}

// rest starts the idle clock when there is nothing to do.
func (n *Node) rest() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opts.Idle == 0 || n.closing || !n.isIdle() {
		return
	}
	if n.idle != nil {
		n.idle.Stop()
	}
	n.idle = time.AfterFunc(n.opts.Idle, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.isIdle() && !n.closing {
			n.log.Info("nothing is mounted or shared any more: stopping")
			n.end()
		}
	})
}

// engine returns the engine for this patience.
func (n *Node) engine(p patience) (*fetch.Engine, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.engines == nil {
		return nil, fmt.Errorf("%w: the node is being stopped", blob.ErrClosed)
	}
	e := n.engines[p]
	if e == nil {
		e = fetch.New(fetch.Options{Memory: n.cfg.Memory, Timeout: p.timeout, Hard: p.hard, Log: n.log})
		n.engines[p] = e
	}
	return e, nil
}
