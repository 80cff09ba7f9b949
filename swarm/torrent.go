package swarm

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/pace"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/relay"
)

// Store is what the swarm needs of the local blob; *blockio.Blob implements it. All methods are safe for
// concurrent use.
type Store interface {
	Geometry() blob.Geometry
	// Pieces is the set of complete pieces: word i, bit j is piece i*64+j.
	Pieces() []uint64
	PieceComplete(piece uint32) bool
	// OnPiece calls f, on the goroutine that stored the last block, whenever a piece becomes complete.
	OnPiece(f func(piece uint32)) (cancel func())
	// Has reports whether every block of r is present.
	Has(r blob.Run) bool
	// OnBlocks calls f, on the goroutine that stored them and before what OnPiece calls, whenever blocks of a run
	// become present; not all of the run need to be.
	OnBlocks(f func(blob.Run)) (cancel func())
	// Root is the root of a piece and who vouches for it; blob.Unknown when there is none.
	Root(piece uint32) (blob.Hash, blob.Trust)
	SetRoot(piece uint32, root blob.Hash, t blob.Trust) error
	// Leaves are the leaf hashes of a piece, when all are known and trusted.
	Leaves(piece uint32) ([]blob.Hash, bool)
	// SetLeaves accepts leaves that fold to the known root: ErrCorrupt when they do not, ErrAbsent when no
	// root is known.
	SetLeaves(piece uint32, leaves []blob.Hash) error
	ReadAt(p []byte, off int64) error
	// SendTo writes n bytes from off to a socket; see peerwire.Body.
	SendTo(c syscall.Conn, off int64, n int) error
	Complete() bool
}

// Config describes one torrent.
type Config struct {
	// Keys are the info hashes we answer to: the rendezvous key, the truncated v2 infohash, the v1
	// infohash. The v1 one, or else the first, is tried first when dialling.
	Keys [][20]byte
	// Name is the 32 bytes in the "pieces root" field of hash requests: the BEP 52 root where it is known,
	// else the Sum of the blob's ID.
	Name blob.Hash
	// Root is the BEP 52 root; zero: not known. When it is known, piece roots are asked from peers with
	// proofs that lead to it, and become blob.Pinned.
	Root blob.Hash
	// Info is the info dictionary, bencoded, which is given to peers that have only its hash (BEP 9); nil: it is not
	// known here.
	Info []byte
	// Upload is asked before payload is sent, by class; nil: Options.UploadLimit counts.
	Upload pace.Path
	// Private: peers come from trackers only (BEP 27). Nobody is told of them, and nobody is believed who names
	// one.
	Private bool
	// Store is the local blob.
	Store Store
	// OnComplaints, if set, takes what is wrong with parents, to be told to the tracker. It is called on the
	// event loop and must not block.
	OnComplaints func([]relay.Complaint)
	// OnWanted, if set, is told of blocks that peers wait for because this node was asked to pass them on, and
	// that are absent here: whoever fetches for the store should bring them, too. It is called by readers,
	// again and again for the same blocks, and must not block.
	OnWanted func(blob.Run)
	// Index, if set, says that the blob is a layer of an image, and which files this node vouches for as its index:
	// peers that ask are told the first four. It is called on the event loop and must not block.
	Index func() []peerwire.IndexClaim
	// OnIndex takes what a peer that listens at an address (zero: not known) says after [Torrent.AskIndex]. It may lie.
	// It is called on the event loop and must not block.
	OnIndex func(peer netip.AddrPort, claims []peerwire.IndexClaim)
	// AwaitPlan is how long bulk transfer waits for the first assignment; 0: it does not. A node that has a
	// tracker gives it the time to say who takes what from whom, before everybody asks the one seeder.
	AwaitPlan time.Duration
	// Files, of a v2 or hybrid torrent of several files, takes the place of Name, Root and Store: those that are
	// not empty, in the order of the torrent, without pad files.
	Files []File
	// V1, of a v1 or hybrid torrent, is what BEP 3 says of it. All files of a torrent that is v1 only are one
	// blob, which is Store: they lie in it one after the other.
	V1 *V1
}

// V1 is what an info dictionary of BEP 3 says of the bytes.
type V1 struct {
	// InfoHash is one of Config.Keys: peers that are met under it speak v1.
	InfoHash [20]byte
	// PieceLength is a multiple of 16 KiB, and of the piece length of the store.
	PieceLength int64
	// Length is that of all files together, pad files (BEP 47) included.
	Length int64
	// Sums are the SHA-1 sums of the pieces.
	Sums [][20]byte
}

// Torrent is a swarm, and a blob of one file, or several, in it. It implements blob.Source for a torrent of one
// blob; see [Torrent.File] for others.
type Torrent struct {
	// Constant.
	node  *Node
	cfg   Config
	geo   *space
	files []*file
	named map[blob.Hash]*file // by what hash requests call them
	log   *slog.Logger
	board *board
	avail *availability
	lot   *lot

	events chan event
	wake   chan struct{} // something is in found, or roots is set
	stop   chan struct{} // closed by Close
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // loop, readers, writers, dials

	closing sync.Once
	silent  func() // ends Store.OnPiece and OnBlocks

	roots atomic.Bool // RootsChanged was called and not yet applied
	down  atomic.Int64
	up    atomic.Int64

	saved    atomic.Int64 // bytes that compression kept off the wire
	demanded atomic.Int64 // when somebody was last blocked on a block, unix ns

	uplink   atomic.Int64 // see Uplink
	leftover leftover
	lent     atomic.Int64           // bytes that were sent to them
	relaying atomic.Bool            // there is a plan
	scheme   atomic.Pointer[scheme] // see Planned
	own      atomic.Int32           // connected peers of ours

	mu        sync.Mutex // guards what follows
	found     []uint32   // pieces that became complete and were not announced yet
	fresh     []blob.Run // blocks that became present and peers of ours were not told of
	listeners map[int]func()
	listener  int
}

var _ blob.Source = (*Torrent)(nil)

func newTorrent(n *Node, c Config) (*Torrent, error) {
	geo, files, err := layOut(&c)
	if err != nil {
		return nil, fmt.Errorf("add torrent: %w", err)
	}
	if len(c.Keys) == 0 {
		return nil, fmt.Errorf("add torrent: %w: no info hash to answer to", blob.ErrInvalid)
	}
	if c.V1 != nil {
		// Everybody in the swarm of a hybrid knows its v1 hash, and who can do v2 answers under that one.
		c.Keys = append([][20]byte{c.V1.InfoHash}, slices.DeleteFunc(slices.Clone(c.Keys), func(k [20]byte) bool { return k == c.V1.InfoHash })...)
	}
	t := &Torrent{
		node: n, cfg: c, geo: geo, files: files, named: make(map[blob.Hash]*file),
		log:       n.log.With("torrent", fmt.Sprintf("%x", c.Keys[0][:4])),
		board:     newBoard(geo.Pieces()),
		lot:       newLot(),
		avail:     newAvailability(geo.Pieces()),
		events:    make(chan event, 256),
		wake:      make(chan struct{}, 1),
		stop:      make(chan struct{}),
		listeners: make(map[int]func()),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	for _, f := range files {
		f.t = t
		t.named[f.root], t.named[f.name] = f, f
		f.adoptTrivialLeaves()
	}
	delete(t.named, blob.Hash{})
	pieces, blocks := t.cfg.Store.OnPiece(t.pieceFound), t.cfg.Store.OnBlocks(t.blocksFound)
	t.silent = func() { pieces(); blocks() }
	l := newLoop(t)
	t.wg.Go(l.run)
	return t, nil
}

// AddPeers tells addresses to dial. Those that are known, banned or ourselves are skipped; the others are
// dialled in the background, a bounded number at a time, with backoff.
func (t *Torrent) AddPeers(addrs ...netip.AddrPort) {
	t.post(addAddrs(append([]netip.AddrPort(nil), addrs...)))
}

// Hear is AddPeers for addresses that the host source has named and nobody vouches for (local discovery, DHT):
// the book takes a bounded number of them from one source. A private torrent hears none.
func (t *Torrent) Hear(source netip.Addr, addrs ...netip.AddrPort) {
	if t.cfg.Private || len(addrs) == 0 {
		return
	}
	t.post(hearsay{source.Unmap(), append([]netip.AddrPort(nil), addrs...)})
}

// Has reports whether every block of r could be asked for now: for each piece that r touches, some
// connected peer that serves us has it, or what is asked of it, and somebody we trust vouches for its root. It
// takes no lock when peers have whole pieces.
func (t *Torrent) Has(r blob.Run) bool { return len(t.files) == 1 && t.has(r) }

func (t *Torrent) has(r blob.Run) bool {
	if r.Empty() || r.End() < r.First || r.End() > t.geo.Blocks() {
		return false
	}
	return t.avail.has(t.geo.PiecesOf(r)) || t.avail.hasBlocks(t.geo, r)
}

// Changed registers f, which is called (and must not block) when Has may have become true for some run. It
// is called on the event loop; cancel does not wait for a call in progress.
func (t *Torrent) Changed(f func()) (cancel func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.listener
	t.listener++
	t.listeners[id] = f
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.listeners, id)
	}
}

// RootsChanged says that the store learnt or dropped piece roots. It never blocks.
func (t *Torrent) RootsChanged() {
	t.roots.Store(true)
	t.nudge()
}

// Peers describes who is connected, and who was banned.
func (t *Torrent) Peers() []PeerInfo {
	q := peersQuery{make(chan []PeerInfo, 1)}
	if !t.post(q) {
		return nil
	}
	select {
	case infos := <-q.answer:
		return infos
	case <-t.stop:
		return nil
	}
}

// Stats is what the torrent moved so far.
func (t *Torrent) Stats() Stats {
	return Stats{Downloaded: t.down.Load(), Uploaded: t.up.Load(), Saved: t.saved.Load()}
}

// Close leaves the swarm: connections are closed, Fetch calls end with ErrClosed, and every goroutine of the
// torrent has ended when it returns. It may be called more than once.
func (t *Torrent) Close() error {
	t.node.forget(t)
	t.closing.Do(func() {
		t.silent()
		close(t.stop)
		t.cancel()
	})
	t.wg.Wait()
	return nil
}

// post hands e to the loop; false means that the torrent is closed.
func (t *Torrent) post(e event) bool {
	select {
	case t.events <- e:
		return true
	case <-t.stop:
		return false
	}
}

func (t *Torrent) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// pieceFound is Store.OnPiece: it runs on whatever goroutine stored the last block and must not wait for
// the loop.
func (t *Torrent) pieceFound(piece uint32) {
	t.mu.Lock()
	t.found = append(t.found, piece)
	t.mu.Unlock()
	t.nudge()
	t.lot.leavesKnown(piece)
}

// notify calls the listeners of Changed.
func (t *Torrent) notify() {
	t.mu.Lock()
	fs := make([]func(), 0, len(t.listeners))
	for _, f := range t.listeners {
		fs = append(fs, f)
	}
	t.mu.Unlock()
	for _, f := range fs {
		f()
	}
}

// now is the clock of all measurements, in one place.
func now() time.Time { return time.Now() }
