package node

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/relay"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/tracker"
)

// A torrent is a live blob without bytes of its own: its parts are. In v2 and hybrids each file that has bytes is a
// part, which other torrents may share; all files of a v1 torrent are one. The torrent is in a swarm, its parts are
// not: they fetch from the swarms of all torrents they belong to.

// part says which blob holds a file's bytes.
type part struct {
	file     int // index of the (first) file
	id       blob.ID
	geometry blob.Geometry
	root     blob.Hash // zero in v1
	name     string
}

// partsOf are the blobs of a torrent, in the order of its piece space. A torrent that is one file has one, even if
// it is empty.
func partsOf(i *metainfo.Info) (parts []part) {
	if !i.HasV2 {
		if i.Length > 0 || i.Single {
			parts = append(parts, part{id: metainfo.SpaceID(i.InfoHashV1), geometry: i.V1Geometry(), name: i.Name})
		}
		return parts
	}
	for f := range i.Files {
		file, g := &i.Files[f], i.Geometry(f)
		if file.Length == 0 && !i.Single {
			continue
		}
		name := i.Name
		if !i.Single {
			name += "/" + file.String()
		}
		parts = append(parts, part{f, metainfo.FileID(file.Root, g), g, file.Root, name})
	}
	return parts
}

// filesPerPart is how many descriptors an open blob holds: data, leaves, log.
const filesPerPart = 3

// roomFor refuses to open more blobs than half of the descriptors that this process may have: a daemon that cannot
// open connections any more is of no use to its other mounts.
func roomFor(parts int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur/2 >= uint64(parts*filesPerPart) {
		return nil
	}
	return control.Local(fmt.Errorf("a torrent of %d files needs %d file descriptors, and this process may have %d: raise the limit of the daemon (ulimit -n %d)", parts, parts*filesPerPart, limit.Cur, 4*parts*filesPerPart))
}

// openTorrent opens the parts of a torrent and joins its swarm. After an error release closes what was opened.
func (n *Node) openTorrent(l *live, f found, w wanted) error {
	info := f.torrent.Info
	l.torrent = f.torrent
	parts := partsOf(info)
	if err := roomFor(len(parts)); err != nil {
		return err
	}
	if err := n.limit(l, &w); err != nil {
		return err
	}
	seeds := n.webSeeds(f.torrent, w.options)
	selected := map[blob.ID]bool{}
	for _, p := range parts {
		selected[p.id] = selected[p.id] || f.only == nil || !info.HasV2 || f.only(p.file)
	}
	for i, p := range parts {
		one := found{
			id: p.id, geometry: p.geometry, root: p.root, layers: f.torrent.Layers[p.root], part: true,
			meta: blockio.Meta{Source: f.meta.Source, Name: p.name},
		}
		if seeds != nil {
			one.seed = func(l *live) fetch.Origin { return seeds.of(l, p) }
		}
		pw := wanted{fill: w.fill, patience: w.patience, strict: w.strict, limits: w.limits}
		if !selected[p.id] {
			pw.fill = fetch.FillNever
		}
		if w.importPart != nil {
			pw.imported = func() (*blockio.Blob, error) { return w.importPart(i, one) }
		}
		child, _, err := n.hold(l.ctx, one, pw)
		if err != nil {
			return err
		}
		l.parts = append(l.parts, child)
	}
	if len(parts) == 0 { // only names
		return nil
	}
	return n.joinTorrent(l, f, w, parts)
}

// joinTorrent joins the swarm of a torrent whose parts are open.
func (n *Node) joinTorrent(l *live, f found, w wanted, parts []part) error {
	info := f.torrent.Info
	c := swarm.Config{Keys: info.Keys(), Info: info.Raw, Private: info.Private, Upload: l.upload}
	if info.HasV1 {
		c.V1 = &swarm.V1{InfoHash: info.InfoHashV1, PieceLength: info.PieceLength, Length: info.V1Length, Sums: info.Pieces}
	}
	if len(parts) == 1 {
		c.Store, c.Root, c.Name = l.parts[0].store, parts[0].root, parts[0].root
		if c.Name.IsZero() {
			c.Name = parts[0].id.Sum
		}
	} else {
		for i, p := range parts {
			c.Files = append(c.Files, swarm.File{Store: l.parts[i].store, Root: p.root})
		}
	}
	var session atomic.Pointer[tracker.Session] // the swarm is there before it
	c.OnComplaints = func(list []relay.Complaint) {
		if s := session.Load(); s != nil {
			s.Complain(list)
		}
	}
	store := newSpaceStore(info, l.parts)
	if len(l.trackers) > 0 {
		c.AwaitPlan = planWait
	}
	if l.fill != fetch.FillNever {
		c.OnWanted = store.wanted
	}
	t, err := n.swarm.Add(c)
	if err != nil {
		return fmt.Errorf("swarm: %w", err)
	}
	wake := l.waker()
	l.leave = append(l.leave, t.Changed(wake))
	for i, p := range l.parts {
		l.leave = append(l.leave, p.sources.add(t.File(i)))
	}
	j := joined{torrent: t, stop: n.seek(l, t, info.Keys(), info.Private)}
	n.announce(l, &j, store, w)
	session.Store(j.session)
	l.swarms.Lock()
	l.swarms.list = append(l.swarms.list, j)
	l.swarms.Unlock()
	t.AddPeers(f.peers...)
	wake()
	return nil
}

// wakeEvery is how often the parts of a torrent of many files are told that peers have more, and manyParts what many
// are: each part looks at what it wants then, which takes it about 2 µs. What is read asks for itself.
const (
	wakeEvery = 50 * time.Millisecond
	manyParts = 64
)

// waker returns what tells all parts that peers may have what they want. It does not block.
func (l *live) waker() func() {
	all := func() {
		for _, p := range l.parts {
			if !p.store.Complete() {
				p.fetch.Wake()
			}
		}
	}
	if len(l.parts) < manyParts {
		return all
	}
	news := make(chan struct{}, 1)
	l.work.Go(func() {
		for {
			select {
			case <-l.ctx.Done():
				return
			case <-news:
			}
			all()
			select {
			case <-l.ctx.Done():
				return
			case <-time.After(wakeEvery):
			}
		}
	})
	return func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// maxSessions bounds the trackers that one torrent is announced to at the same time.
const maxSessions = 8

// announce makes a torrent known to trackers, under each of its infohashes: to those of this node, one of which is
// used at a time and plans, and to those of the torrent, where others look for it. A private torrent is announced to
// its own trackers, and those that the request names, only (BEP 27).
func (n *Node) announce(l *live, j *joined, store *spaceStore, w wanted) {
	info, t, addr := store.info, j.torrent, n.swarm.Addr()
	ours, theirs := l.trackers[:l.named], l.trackers[l.named:]
	if info.Private && len(w.options.Trackers) == 0 {
		ours = nil
	}
	start := func(trackers []string, key [20]byte, plans bool) *tracker.Session {
		o := tracker.SessionOptions{
			Trackers: trackers, Key: key, PeerID: n.swarm.PeerID(), Port: int(addr.Port()), IP: advertised(addr), Plain: !plans,
			Geometry: store.geometry(), Store: store, Log: n.log, OnPeers: func(peers []netip.AddrPort) { t.AddPeers(peers...) }, Zone: n.cfg.Zone, Bulk: l.fill != fetch.FillNever,
		}
		if plans {
			o.OnAssignment = t.SetAssignment
		}
		return tracker.NewSession(o)
	}
	for i, key := range info.Keys() {
		// In v1 a piece of the torrent may be several of the store: the trees of a plan are of the latter.
		plans := i == 0 && info.PieceLength&(info.PieceLength-1) == 0
		if len(ours) > 0 {
			s := start(ours, key, plans)
			if plans {
				j.session, plans = s, false
			} else {
				j.others = append(j.others, s)
			}
		}
		for _, t := range theirs[:min(len(theirs), maxSessions)] {
			s := start([]string{t}, key, plans)
			if plans {
				j.session, plans = s, false
			} else {
				j.others = append(j.others, s)
			}
		}
	}
	if j.session != nil {
		one := *j
		l.work.Go(func() { l.tellUplink(one) })
	}
}

// sources are the swarms that bring the bytes of a part. It implements blob.Source.
type sources struct {
	mu  sync.Mutex // guards changes of all
	all atomic.Pointer[[]blob.Source]
}

func (s *sources) list() []blob.Source {
	if all := s.all.Load(); all != nil {
		return *all
	}
	return nil
}

// add takes a source in until the returned function is called.
func (s *sources) add(one blob.Source) (remove func()) {
	set := func(all []blob.Source) { s.all.Store(&all) }
	s.mu.Lock()
	defer s.mu.Unlock()
	set(append(slices.Clone(s.list()), one))
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := slices.Clone(s.list())
		if i := slices.Index(all, one); i >= 0 {
			set(slices.Delete(all, i, i+1))
		}
	}
}

// Has implements blob.Source.
func (s *sources) Has(r blob.Run) bool {
	return slices.ContainsFunc(s.list(), func(one blob.Source) bool { return one.Has(r) })
}

// Fetch implements blob.Source.
func (s *sources) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	err := fmt.Errorf("%w: no peer has it", blob.ErrUnavailable)
	for _, one := range s.list() {
		if one.Has(r) {
			if err = one.Fetch(ctx, r, into); err == nil || ctx.Err() != nil {
				return err
			}
		}
	}
	return err
}

// spaceStore is the piece space of a torrent as a tracker's session sees it. Roots are those of the infohash or of
// nobody: what a tracker claims is not believed.
type spaceStore struct {
	info  *metainfo.Info
	parts []*live
	first []uint32 // number of the first piece of each part
}

var _ tracker.Store = (*spaceStore)(nil)

func newSpaceStore(info *metainfo.Info, parts []*live) *spaceStore {
	s, at := &spaceStore{info: info, parts: parts}, uint32(0)
	for _, p := range parts {
		s.first = append(s.first, at)
		at += p.store.Geometry().Pieces()
	}
	return s
}

// geometry has as many pieces as the torrent; their lengths are those of the tracker's arithmetic only.
func (s *spaceStore) geometry() blob.Geometry {
	if len(s.parts) == 1 {
		return s.parts[0].store.Geometry()
	}
	return blob.Geometry{Size: s.info.Length, PieceLength: s.info.PieceLength}
}

// part is the index of the part that a piece belongs to.
func (s *spaceStore) part(piece uint32) int {
	return sort.Search(len(s.first), func(k int) bool { return s.first[k] > piece }) - 1
}

// wanted passes on that peers wait for blocks, which lie in one piece of the torrent.
func (s *spaceStore) wanted(r blob.Run) {
	per := s.geometry().BlocksPerPiece()
	k := s.part(r.First / per)
	r.First -= s.first[k] * per
	s.parts[k].fetch.Wanted(r)
}

func (s *spaceStore) Pieces() []uint64 {
	all := make([]uint64, (s.geometry().Pieces()+63)/64)
	for k, p := range s.parts {
		for i, word := range p.store.Pieces() {
			for b := uint32(0); word != 0; b, word = b+1, word>>1 {
				if at := s.first[k] + uint32(i)*64 + b; word&1 != 0 {
					all[at/64] |= 1 << (at % 64)
				}
			}
		}
	}
	return all
}

func (s *spaceStore) PieceComplete(piece uint32) bool {
	k := s.part(piece)
	return k >= 0 && s.parts[k].store.PieceComplete(piece-s.first[k])
}

func (s *spaceStore) OnPiece(f func(uint32)) (cancel func()) {
	var all []func()
	for k, p := range s.parts {
		all = append(all, p.store.OnPiece(func(piece uint32) { f(s.first[k] + piece) }))
	}
	return func() {
		for _, c := range all {
			c()
		}
	}
}

func (s *spaceStore) Root(uint32) (blob.Hash, blob.Trust) { return blob.Hash{}, blob.Unknown }
func (s *spaceStore) Roots(blob.Trust) iter.Seq2[uint32, blob.Hash] {
	return func(func(uint32, blob.Hash) bool) {}
}
func (s *spaceStore) SetRoot(uint32, blob.Hash, blob.Trust) error { return nil }
func (s *spaceStore) DropClaim(uint32)                            {}

// nothing is a store of which nothing is known: for asking trackers for peers.
type nothing struct{ *spaceStore }

func (nothing) Pieces() []uint64                     { return []uint64{0} }
func (nothing) PieceComplete(uint32) bool            { return false }
func (nothing) OnPiece(func(uint32)) (cancel func()) { return func() {} }

// only is the part of a torrent that is one file, or all of v1; nil: it has several.
func (l *live) only() *live {
	if l.torrent == nil {
		return l
	}
	if len(l.parts) == 1 && (l.torrent.Info.Single || !l.torrent.Info.HasV2) {
		return l.parts[0]
	}
	return nil
}

// size is the sum of all files, in bytes.
func (l *live) size() int64 {
	if l.torrent != nil {
		return l.torrent.Info.Bytes()
	}
	return l.store.Size()
}

// present is how many bytes are here; pads of v1 count as bytes of the torrent, as far as it has that many.
func (l *live) present() (n int64) {
	if l.torrent == nil {
		return l.store.Present()
	}
	for _, p := range l.parts {
		n += p.store.Present()
	}
	return min(n, l.size())
}

// complete reports whether all bytes are here.
func (l *live) complete() bool {
	if l.torrent == nil {
		return l.store.Complete()
	}
	return !slices.ContainsFunc(l.parts, func(p *live) bool { return !p.store.Complete() })
}

// blobs are the parts of a torrent, each once: two files of the same bytes are one blob. A blob is its own.
func (l *live) blobs() []*live {
	if l.torrent == nil {
		return []*live{l}
	}
	seen := make(map[*live]bool, len(l.parts))
	all := make([]*live, 0, len(l.parts))
	for _, p := range l.parts {
		if !seen[p] {
			seen[p] = true
			all = append(all, p)
		}
	}
	return all
}

// files is how many files a torrent has that is a directory; 0: it is one file.
func (l *live) files() int {
	if l.torrent == nil || l.torrent.Info.Single {
		return 0
	}
	return len(l.torrent.Info.Files)
}

// place is where a file's bytes are; part is nil where it has none.
type place struct {
	part   *live
	offset int64
}

// places are where the bytes of all files of a torrent are, in their order.
func (l *live) places() []place {
	info, at := l.torrent.Info, 0
	all := make([]place, len(info.Files))
	for i := range info.Files {
		switch f := &info.Files[i]; {
		case f.Symlink != nil || f.Length == 0 && !info.Single:
		case !info.HasV2:
			all[i] = place{l.parts[0], f.Offset}
		default:
			all[i] = place{part: l.parts[at]}
			at++
		}
	}
	return all
}

// tree are the files of a torrent as they are mounted. top describes their directory.
func (l *live) tree(top fs.File) []fs.TreeFile {
	info := l.torrent.Info
	places := l.places()
	all := make([]fs.TreeFile, len(places))
	for i, at := range places {
		f := &info.Files[i]
		t := fs.TreeFile{Path: f.Path, Offset: at.offset, Length: f.Length, Executable: f.Executable}
		if info.Single {
			t.File = top
		}
		if f.Symlink != nil {
			t.Link = strings.Repeat("../", len(f.Path)-1) + strings.Join(f.Symlink, "/")
		}
		if at.part != nil {
			t.Blob, t.ID = at.part.fetch, at.part.id
			if info.HasV2 && !info.Single {
				t.Present = at.part.store.Present
			}
		}
		all[i] = t
	}
	return all
}
