package swarm

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// InfoHash says which info dictionary is meant: by its SHA-1 (v1), its SHA-256 (v2), or both. Zero: not given.
type InfoHash struct {
	V1 [20]byte
	V2 blob.Hash
}

// fit reports whether pieces make up a dictionary that has every hash that is given.
func (h InfoHash) fit(pieces []infoPiece) bool {
	v1, v2 := sha1.New(), sha256.New()
	for i := range pieces {
		v1.Write(pieces[i].data)
		v2.Write(pieces[i].data)
	}
	if h.V1 != [20]byte{} && [20]byte(v1.Sum(nil)) != h.V1 {
		return false
	}
	return h.V2.IsZero() || blob.Hash(v2.Sum(nil)) == h.V2
}

// keys are what peers are met under. A peer that can do both tells so, and a v1 client knows only the second.
func (h InfoHash) keys() (ks [][20]byte) {
	if !h.V2.IsZero() {
		ks = append(ks, [20]byte(h.V2[:20]))
	}
	if h.V1 != [20]byte{} {
		ks = append(ks, h.V1)
	}
	return ks
}

// String is a hash in hexadecimal, as it stands in a magnet link.
func (h InfoHash) String() string {
	if !h.V2.IsZero() {
		return "btmh:" + h.V2.String()
	}
	return fmt.Sprintf("btih:%x", h.V1)
}

const (
	// infoPeers bounds the peers that are asked at the same time: a dictionary of a few hundred KiB takes seconds
	// from one of them, so more would only cost connections.
	infoPeers = 16
	// infoAhead is how many pieces are asked of one peer at a time: 64 KiB, a round trip of 50 ms at 10 Mbit/s.
	infoAhead = 4
	// infoWait is how long a peer may take for its extended handshake, or for the next piece.
	infoWait = 10 * time.Second
	// infoAgain is the pause before a peer that could not be reached, or had nothing yet, is tried again, and
	// infoTries how often.
	infoAgain = 2 * time.Second
	infoTries = 5
	// infoAlone is how long a peer may take that is asked alone: 32 MiB at 5 Mbit/s.
	infoAlone = time.Minute
	// infoKnown bounds the addresses that are remembered.
	infoKnown = 4096
)

// FetchInfo gets the info dictionary with this hash from peers (BEP 9), which come over a channel as they are
// found; closing it says that there will be no others. It gives the bytes only when they have the hash: peers that
// contributed to others are asked one by one, and those that lie alone never again. At most peerwire.MaxMetadata
// is held of what has not been verified, and 16 connections.
//
// It ends with ctx, in which case the error says how far it came; ErrUnavailable: all peers have been tried.
func (n *Node) FetchInfo(ctx context.Context, want InfoHash, peers <-chan netip.AddrPort) ([]byte, error) {
	if len(want.keys()) == 0 {
		return nil, fmt.Errorf("fetch metadata: %w: no infohash", blob.ErrInvalid)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unwatch := context.AfterFunc(n.ctx, cancel)
	defer unwatch()
	q := &infoQuest{node: n, want: want, known: make(map[netip.AddrPort]int), sets: make(map[int]*infoSet), liars: make(map[netip.AddrPort]bool), why: make(map[string]int), news: make(chan struct{})}
	rand.Read(q.id[:])
	copy(q.id[:], n.opts.PeerID[:8]) // the same client, but not the peer that torrents are exchanged with
	info, err := q.run(ctx, peers)
	if err == nil {
		return info, nil
	}
	if n.ctx.Err() != nil {
		err = blob.ErrClosed
	}
	return nil, fmt.Errorf("metadata of %s: %w", want, err)
}

// infoQuest is one call of FetchInfo.
type infoQuest struct {
	// Constant.
	node *Node
	want InfoHash
	id   [20]byte

	mu     sync.Mutex // guards what follows
	news   chan struct{}
	known  map[netip.AddrPort]int // addresses, and how often each was tried
	talked int                    // peers that spoke BEP 10
	had    int                    // peers that offered it
	why    map[string]int         // what was wrong with the others
	sets   map[int]*infoSet       // by size: a wrong size must not keep the right one from being collected
	held   int                    // bytes of pieces in sets
	liars  map[netip.AddrPort]bool
	info   []byte // the end
}

// infoSet is what has come from peers that say that the dictionary has this size.
type infoSet struct {
	size   int
	pieces []infoPiece
	left   int
	alone  bool           // what came from several peers was wrong: only one is asked now
	single netip.AddrPort // that one; zero: the next one
	since  time.Time      // when it was chosen
}

func newInfoSet(size int) *infoSet {
	n := peerwire.MetadataPieces(size)
	return &infoSet{size: size, pieces: make([]infoPiece, n), left: n}
}

func (s *infoSet) bytes() (n int) {
	for i := range s.pieces {
		n += len(s.pieces[i].data)
	}
	return n
}

func (s *infoSet) idle() bool {
	return !slices.ContainsFunc(s.pieces, func(p infoPiece) bool { return len(p.asked) > 0 })
}

type infoPiece struct {
	data  []byte
	from  netip.AddrPort
	asked []netip.AddrPort
}

// run starts a worker per address and waits for all of them.
func (q *infoQuest) run(ctx context.Context, peers <-chan netip.AddrPort) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ended := make(chan netip.AddrPort, infoPeers)
	var queue []netip.AddrPort
	var later []netip.AddrPort
	busy := 0
	again := time.NewTicker(infoAgain)
	defer again.Stop()
	for {
		for len(queue) > 0 && busy < infoPeers {
			a := queue[0]
			queue = queue[1:]
			busy++
			wg.Go(func() {
				q.work(ctx, a)
				ended <- a
			})
		}
		if peers == nil && busy == 0 && len(queue)+len(later) == 0 {
			return nil, fmt.Errorf("%w: %s: add peers or trackers to the link, or open the .torrent file", blob.ErrUnavailable, q.report())
		}
		select {
		case a, ok := <-peers:
			if !ok {
				peers = nil
				continue
			}
			a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			if q.meet(a) {
				queue = append(queue, a)
			}
		case a := <-ended:
			busy--
			if info := q.result(); info != nil {
				return info, nil
			}
			if q.again(a) {
				later = append(later, a)
			}
		case <-again.C:
			queue, later = append(queue, later...), nil
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s", context.Cause(ctx), q.report())
		}
	}
}

// meet reports whether an address is new.
func (q *infoQuest) meet(a netip.AddrPort) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, old := q.known[a]; old || len(q.known) >= infoKnown || !a.IsValid() || a == q.node.Addr() {
		return false
	}
	q.known[a] = 0
	return true
}

// again reports whether an address is worth another try.
func (q *infoQuest) again(a netip.AddrPort) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.known[a]++
	return q.known[a] < infoTries && !q.liars[a]
}

func (q *infoQuest) result() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.info
}

// report says how far it came.
func (q *infoQuest) report() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.known) == 0 {
		return "no peer is known"
	}
	s := fmt.Sprintf("%d peers tried, %d of them could be talked to, %d offered it", len(q.known), q.talked, q.had)
	for _, set := range q.sets {
		if n := len(set.pieces); set.left < n {
			s += fmt.Sprintf(", %d of %d pieces came", n-set.left, n)
		}
	}
	if len(q.liars) > 0 {
		s += fmt.Sprintf(", %d sent wrong bytes", len(q.liars))
	}
	var reasons []string
	for r := range q.why {
		reasons = append(reasons, r)
	}
	slices.SortFunc(reasons, func(a, b string) int { return q.why[b] - q.why[a] })
	if len(reasons) > 0 {
		s += " (" + strings.Join(reasons[:min(3, len(reasons))], "; ") + ")"
	}
	return s
}

// work talks to one peer until there is no more use in it.
func (q *infoQuest) work(ctx context.Context, a netip.AddrPort) {
	var err error
	for _, key := range q.want.keys() {
		var greeted bool
		if greeted, err = q.visit(ctx, a, key); greeted || ctx.Err() != nil {
			break // else it may know the torrent under the other key
		}
	}
	if err != nil && !errors.Is(err, errDone) && ctx.Err() == nil {
		q.mu.Lock()
		// Who is asked for does not matter, what is wrong does; a few kinds of it are enough.
		text := err.Error()
		if op := new(net.OpError); errors.As(err, &op) && op.Err != nil {
			text = op.Op + ": " + op.Err.Error()
		}
		if len(q.why) < 16 || q.why[text] > 0 {
			q.why[text]++
		}
		q.mu.Unlock()
	}
	q.leave(a)
}

// visit opens a connection and gets what it can over it. greeted: the peer knows the torrent.
func (q *infoQuest) visit(ctx context.Context, a netip.AddrPort, key [20]byte) (greeted bool, err error) {
	d := net.Dialer{Timeout: handshakeTimeout}
	c, err := d.DialContext(ctx, "tcp", a.String())
	if err != nil {
		return false, err
	}
	defer c.Close()
	unwatch := context.AfterFunc(ctx, func() { c.Close() })
	defer unwatch()
	c.SetDeadline(now().Add(handshakeTimeout))
	// Without BEP 6, as that would oblige us to say what we have, which means nothing before there is an info
	// dictionary.
	ours := peerwire.Handshake{Reserved: peerwire.Reserved{5: 0x10}, InfoHash: key, PeerID: q.id}
	if !q.want.V2.IsZero() {
		ours.Reserved[7] |= 0x10
	}
	if _, err := c.Write(peerwire.AppendHandshake(nil, ours)); err != nil {
		return false, err
	}
	theirs, err := peerwire.ReadHandshake(c)
	switch {
	case err != nil:
		return false, fmt.Errorf("does not know the torrent: %w", err)
	case !slices.Contains(q.want.keys(), theirs.InfoHash):
		return false, fmt.Errorf("%w: it answered for another torrent", blob.ErrInvalid)
	case !theirs.Reserved.Extended():
		return true, errors.New("it does not speak BEP 10")
	}
	hello := peerwire.ExtendedHandshake{
		Client: clientName, Messages: map[string]uint8{peerwire.MetadataName: extMetadata}, Queue: maxRequests,
	}
	if _, err := c.Write(peerwire.AppendExtendedHandshake(nil, hello)); err != nil {
		return true, err
	}
	return true, q.talk(ctx, a, c)
}

// talk reads what a peer says, and asks it for pieces.
func (q *infoQuest) talk(ctx context.Context, a netip.AddrPort, c net.Conn) error {
	rd := peerwire.NewReader(c, peerwire.MaxFrame)
	var ext uint8
	size, asked := 0, 0
	since := now() // of the last thing of use
	for {
		var out []byte
		for ext != 0 && asked < infoAhead {
			piece, ok, over := q.next(a, size)
			if over != nil || ctx.Err() != nil {
				return over
			}
			if !ok {
				break
			}
			out = peerwire.AppendMetadata(out, ext, peerwire.Metadata{Type: peerwire.MetadataRequest, Piece: piece})
			asked++
		}
		if len(out) > 0 {
			c.SetDeadline(now().Add(infoWait))
			if _, err := c.Write(out); err != nil {
				return err
			}
		}
		if ext != 0 && asked == 0 {
			// Others have been asked for all that is missing; what they do not bring is ours.
			if err := q.wait(ctx); err != nil {
				return nil
			}
			since = now()
			continue
		}
		c.SetDeadline(since.Add(infoWait))
		m, err := rd.Next()
		if err != nil {
			return err
		}
		switch {
		case m.ID != peerwire.Extended:
		case m.Ext == 0:
			h, err := peerwire.ParseExtendedHandshake(m.Data)
			if err != nil {
				return err
			}
			q.note(h)
			if ext, size = h.Messages[peerwire.MetadataName], h.MetadataSize; ext == 0 || size == 0 {
				return errors.New("it does not have the metadata")
			}
			since = now()
		case m.Ext == extMetadata && asked > 0:
			answer, err := peerwire.ParseMetadata(m.Data)
			if err != nil {
				return err
			}
			switch answer.Type {
			case peerwire.MetadataReject:
				return errors.New("it gives no metadata")
			case peerwire.MetadataData:
				asked--
				since = now()
				if err := q.take(a, size, answer); err != nil {
					return err
				}
			}
		}
	}
}

func (q *infoQuest) note(h peerwire.ExtendedHandshake) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.talked++
	if h.Messages[peerwire.MetadataName] != 0 && h.MetadataSize > 0 {
		q.had++
	}
}

// errDone: the info dictionary is there.
var errDone = errors.New("done")

// next is the next piece to ask of a peer that offers size bytes. Not ok: there is none now. over is why there will
// be none.
func (q *infoQuest) next(a netip.AddrPort, size int) (piece uint32, ok bool, over error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.info != nil {
		return 0, false, errDone
	}
	if q.liars[a] {
		return 0, false, errors.New("it sent wrong metadata")
	}
	s := q.sets[size]
	if s == nil {
		s = newInfoSet(size)
		q.sets[size] = s
	}
	if s.alone && !s.single.IsValid() {
		s.single, s.since = a, now()
	}
	switch {
	case s.alone && s.single != a:
		return 0, false, nil
	case s.alone && now().Sub(s.since) > infoAlone:
		return 0, false, errors.New("it is too slow")
	}
	best := -1
	for i := range s.pieces {
		p := &s.pieces[i]
		if p.data != nil || len(p.asked) >= 2 || slices.Contains(p.asked, a) {
			continue
		}
		if best < 0 || len(p.asked) < len(s.pieces[best].asked) {
			best = i
		}
	}
	if best < 0 {
		return 0, false, nil
	}
	s.pieces[best].asked = append(s.pieces[best].asked, a)
	return uint32(best), true, nil
}

// take keeps a piece; the last one shows whether all are right.
func (q *infoQuest) take(a netip.AddrPort, size int, m peerwire.Metadata) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sets[size]
	if q.info != nil || s == nil || int(m.Piece) >= len(s.pieces) || !slices.Contains(s.pieces[m.Piece].asked, a) {
		return nil // late
	}
	if want := min(peerwire.MetadataPiece, size-int(m.Piece)*peerwire.MetadataPiece); len(m.Data) != want {
		q.liars[a] = true
		return fmt.Errorf("%w: metadata piece of %d bytes instead of %d", blob.ErrInvalid, len(m.Data), want)
	}
	p := &s.pieces[m.Piece]
	if p.data != nil {
		return nil
	}
	if q.held+len(m.Data) > peerwire.MaxMetadata {
		q.thinOut(s)
	}
	p.data, p.from = slices.Clone(m.Data), a
	q.held += len(m.Data)
	if s.left--; s.left > 0 {
		return nil
	}
	var from []netip.AddrPort
	for i := range s.pieces {
		if !slices.Contains(from, s.pieces[i].from) {
			from = append(from, s.pieces[i].from)
		}
	}
	q.tell()
	if q.want.fit(s.pieces) {
		q.info = make([]byte, 0, size)
		for i := range s.pieces {
			q.info = append(q.info, s.pieces[i].data...)
		}
		return errDone
	}
	q.held -= size
	again := newInfoSet(size)
	again.alone = true
	q.sets[size] = again
	if len(from) == 1 {
		q.liars[a] = true
		q.node.log.Warn("peer sent wrong metadata", "addr", a, "torrent", q.want.String())
		return fmt.Errorf("%w: metadata with another hash", blob.ErrCorrupt)
	}
	return nil
}

// leave gives back what a peer has not delivered.
func (q *infoQuest) leave(a netip.AddrPort) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for size, s := range q.sets {
		for i := range s.pieces {
			p := &s.pieces[i]
			p.asked = slices.DeleteFunc(p.asked, func(o netip.AddrPort) bool { return o == a })
		}
		switch {
		case s.alone && s.single == a:
			q.held -= s.bytes()
			again := newInfoSet(size)
			again.alone = true
			q.sets[size] = again
		case !s.alone && s.left == len(s.pieces) && s.idle():
			delete(q.sets, size) // nothing came of it
		}
	}
	q.tell()
}

// thinOut makes room for s: what else has been collected goes, the largest first. mu is held.
func (q *infoQuest) thinOut(s *infoSet) {
	var largest *infoSet
	for _, o := range q.sets {
		if o != s && (largest == nil || o.bytes() > largest.bytes()) {
			largest = o
		}
	}
	if largest != nil {
		q.held -= largest.bytes()
		delete(q.sets, largest.size)
	}
}

// tell wakes all that wait. mu is held.
func (q *infoQuest) tell() {
	close(q.news)
	q.news = make(chan struct{})
}

// wait waits for a change, but not for long: what others were asked for may have timed out.
func (q *infoQuest) wait(ctx context.Context) error {
	q.mu.Lock()
	news, over := q.news, q.info != nil
	q.mu.Unlock()
	if over {
		return errDone
	}
	select {
	case <-news:
		return nil
	case <-time.After(time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
