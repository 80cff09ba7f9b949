package swarm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/pace"
	"github.com/pantala/pantala/peerwire"
)

const blockSize = blob.BlockSize

// Options configure a Node. The zero value of every field but Listen is a good default.
type Options struct {
	// Listen is host:port; port 0 takes a free one.
	Listen string
	// PeerID is what we are called on the wire; zero: "-PT0100-" and 12 random bytes.
	PeerID [20]byte
	Log    *slog.Logger // nil: discard
	// MaxPeers bounds the connections of one torrent. Default 128: an own peer costs two goroutines and
	// about 20 KiB.
	MaxPeers int
	// UploadSlots bounds the peers of one torrent that are served at a time. Default 64.
	UploadSlots int
	// UploadLimit bounds the upload of all torrents without a path of their own, in bytes per second; 0: no limit.
	UploadLimit int64
	// NoCompress sends everything as it is, and asks for it so: see decision 0012.
	NoCompress bool
	// NoPEX turns peer exchange (BEP 11) off.
	NoPEX bool
	// OnBytes, if set, is called for payload that came from or went to a peer. It is called by readers and
	// writers, once per block, and must be fast.
	OnBytes func(peer netip.AddrPort, down, up int)
}

// Node is one listener and the torrents behind it.
type Node struct {
	opts      Options
	log       *slog.Logger
	listener  *net.TCPListener
	verifier  *verifier
	dht       atomic.Pointer[dhtNode] // nil: none
	yield     *yielder
	squeezing squeezing
	upload    pace.Path // of torrents that have none of their own
	stop      chan struct{}
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup // accept loop and handshakes

	mu       sync.Mutex // guards what follows
	torrents map[[20]byte]*Torrent
	closed   bool
}

// handshakeTimeout bounds connecting and shaking hands, each. TCP retransmits a lost SYN after 1 s and 3 s,
// so 5 s survives two losses.
const handshakeTimeout = 5 * time.Second

// NewNode listens. Close it.
func NewNode(o Options) (*Node, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxPeers <= 0 {
		o.MaxPeers = 128
	}
	if o.UploadSlots <= 0 {
		o.UploadSlots = 64
	}
	if o.PeerID == ([20]byte{}) {
		copy(o.PeerID[:], "-PT0100-")
		rand.Read(o.PeerID[8:])
	}
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, listenError(o.Listen, err)
	}
	n := &Node{
		opts: o, log: o.Log, listener: ln.(*net.TCPListener), verifier: newVerifier(),
		yield: newYielder(), stop: make(chan struct{}), torrents: make(map[[20]byte]*Torrent),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if o.UploadLimit > 0 {
		n.upload = pace.Path{new(pace.Group).Bucket(o.UploadLimit)}
	}
	n.wg.Go(n.accept)
	n.wg.Go(func() { n.yield.run(n.stop) })
	return n, nil
}

func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen for peers on %s: %w: the address is taken by another process: pass another --listen, or port 0 for a free one (%v)", addr, blob.ErrUnavailable, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen for peers on %s: %w: this machine has no such address: pass --listen with one of its own (%v)", addr, blob.ErrInvalid, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen for peers on %s: %w: ports below 1024 need root: pass another --listen (%v)", addr, blob.ErrDenied, err)
	}
	return fmt.Errorf("listen for peers on %q: %w: pass --listen HOST:PORT (%v)", addr, blob.ErrInvalid, err)
}

// Addr is where others reach us: the listening address with its actual port.
func (n *Node) Addr() netip.AddrPort { return addrOf(n.listener.Addr()) }

// PeerID is what we are called on the wire.
func (n *Node) PeerID() [20]byte { return n.opts.PeerID }

// Add joins the swarm of one blob. Close the torrent, or the node.
func (n *Node) Add(c Config) (*Torrent, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("add torrent: %w", blob.ErrClosed)
	}
	for _, k := range c.Keys {
		if n.torrents[k] != nil {
			return nil, fmt.Errorf("add torrent: %w: %x is already in use", blob.ErrInvalid, k)
		}
	}
	t, err := newTorrent(n, c)
	if err != nil {
		return nil, err
	}
	for _, k := range c.Keys {
		n.torrents[k] = t
	}
	return t, nil
}

// Close closes the torrents and waits for every goroutine of the node. It may be called more than once.
func (n *Node) Close() error {
	n.mu.Lock()
	first := !n.closed
	n.closed = true
	open := make(map[*Torrent]bool)
	for _, t := range n.torrents {
		open[t] = true
	}
	n.mu.Unlock()
	if first {
		close(n.stop)
		n.cancel()
		n.listener.Close()
	}
	n.wg.Wait()
	for t := range open {
		t.Close()
	}
	if first {
		n.verifier.close()
	}
	return nil
}

func (n *Node) forget(t *Torrent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range t.cfg.Keys {
		if n.torrents[k] == t {
			delete(n.torrents, k)
		}
	}
}

func (n *Node) torrent(key [20]byte) *Torrent {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.torrents[key]
}

// accept takes connections until the listener is closed.
func (n *Node) accept() {
	l := newLobby()
	for {
		c, err := n.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, or a connection that was gone before it was taken: wait for either to pass.
			n.log.Warn("accept peer", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-n.stop:
				return
			}
		}
		l.enter(c, now())
		n.wg.Go(func() { n.welcome(c, l) })
	}
}

// welcome shakes hands on an inbound connection and gives it to its torrent.
func (n *Node) welcome(c *net.TCPConn, l *lobby) {
	defer l.leave(c)
	unwatch := context.AfterFunc(n.ctx, func() { c.Close() })
	defer unwatch()
	c.SetDeadline(now().Add(handshakeTimeout))
	theirs, err := peerwire.ReadHandshake(c)
	if err != nil {
		n.log.Debug("inbound handshake", "from", c.RemoteAddr(), "err", err)
		c.Close()
		return
	}
	l.leave(c) // from here on it is not the lobby's to close
	t := n.torrent(theirs.InfoHash)
	if t == nil {
		n.log.Debug("inbound for an unknown torrent", "from", c.RemoteAddr(), "key", fmt.Sprintf("%x", theirs.InfoHash))
		c.Close()
		return
	}
	// Whoever comes under the v1 hash of a hybrid torrent and can do v2 is taken there (BEP 52, "upgrade path"),
	// by an answer under the v2 hash.
	if v2, ok := t.upgrade(); ok && theirs.Reserved.V2() && theirs.InfoHash == t.cfg.V1.InfoHash {
		theirs.InfoHash = v2
	}
	ours := peerwire.Handshake{Reserved: t.abilities(), InfoHash: theirs.InfoHash, PeerID: n.opts.PeerID}
	if _, err := c.Write(peerwire.AppendHandshake(nil, ours)); err != nil {
		c.Close()
		return
	}
	t.adopt(c, theirs, netip.AddrPort{})
}

// adopt gives a connection that has shaken hands to the loop; dialed is the address we dialled, or zero.
func (t *Torrent) adopt(c *net.TCPConn, theirs peerwire.Handshake, dialed netip.AddrPort) {
	c.SetDeadline(time.Time{})
	p, err := newPeer(t, c, theirs, dialed)
	if err != nil || !t.post(peerConnected{p}) {
		c.Close()
	}
}

func addrOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
