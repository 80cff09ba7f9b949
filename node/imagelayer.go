package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/image/device"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/origin/registry"
)

// layer is one layer that some tree uses: its stored blob, its index, its device. All images with this layer share it.
type layer struct {
	image *registry.Image // of whoever opened it; says where the registry has it
	desc  registry.Layer
	ready chan struct{}
	gone  chan struct{}
	ctx   context.Context // ends when nobody wants it any more
	stop  context.CancelFunc

	// Guarded by images.mu.
	refs   int
	doomed bool // what is kept of it goes with the last who uses it

	// Constant after ready.
	err     error
	stored  *live        // the compressed blob; the bootstrap, where there are blobs
	blobs   []*layer     // of a Nydus image, of which only stored is set
	index   *index.Index // nil: err is set
	known   knownIndex   // who vouches for it
	windows *live        // the blob of the index
	device  *device.Device
	served  bool   // the device is a file of the FUSE mount
	path    string // of the device, as EROFS opens it
	built   bool   // its index was built here, now

	refuse atomic.Pointer[context.CancelCauseFunc] // ends whoever reads all of it, see verdict

	touched atomic.Pointer[map[*rootfs]func(span uint32)] // who wants to know which spans are read
	mu      sync.Mutex                                    // guards changes of touched
}

// acquire returns a layer that is open, which it opens when nobody else has. The caller ends with releaseLayer.
func (s *images) acquire(ctx context.Context, img *registry.Image, d registry.Layer, a *asked) (*layer, error) {
	for {
		s.mu.Lock()
		l := s.layers[d.Digest]
		if l != nil && l.refs == 0 { // it is just being closed
			s.mu.Unlock()
			select {
			case <-l.gone:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		first := l == nil
		if first {
			l = &layer{image: img, desc: d, ready: make(chan struct{}), gone: make(chan struct{})}
			l.ctx, l.stop = context.WithCancel(s.n.asking)
			s.layers[d.Digest] = l
		}
		l.refs++
		l.doomed = false
		s.mu.Unlock()
		if first {
			// Others may wait for it, too: whoever came first does not take it with him when he goes.
			s.n.wg.Go(func() {
				defer close(l.ready)
				l.err = s.open(l.ctx, l, a)
			})
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			s.releaseLayer(l)
			return nil, context.Cause(ctx)
		}
		if l.err != nil {
			s.releaseLayer(l)
			return nil, fmt.Errorf("layer sha256:%v: %w", d.Digest, l.err)
		}
		if a.strict {
			if err := s.strictly(l); err != nil {
				s.releaseLayer(l)
				return nil, err
			}
		}
		return l, nil
	}
}

// strictly refuses a layer that is open already, at the word of those who only claim.
func (s *images) strictly(l *layer) error {
	trust := l.known.Trust
	if k, ok := s.knownIndexOf(l.desc.Digest); ok && k.Digest == l.known.Digest {
		trust = k.Trust // it may have been checked since
	}
	if trust > blob.Claimed {
		return nil
	}
	return fmt.Errorf("layer sha256:%v: %w: it is already in use with an index that others only claim, which --strict does not believe: unmount the images that have it first, or hold it against the layer with pantala image check", l.desc.Digest, blob.ErrInvalid)
}

// open makes a layer readable: stored blob, index, device.
func (s *images) open(ctx context.Context, l *layer, a *asked) (err error) {
	before, _ := s.knownIndexOf(l.desc.Digest)
	n, several := nydusLayer(l)
	var found *indexed
	var stored blob.ReaderAt
	if several {
		found, stored, err = s.openNydus(ctx, l, n, a.options)
	} else if err = s.openStored(ctx, l, a.options); err == nil {
		stored = l.stored.fetch
		found, err = s.findIndex(ctx, l, a)
	}
	if err != nil {
		return err
	}
	decoded, err := s.path("decoded", l.desc.Digest.String())
	if err != nil {
		return err
	}
	if found == nil {
		if found, err = s.buildIndex(ctx, l, l.stored.fetch, decoded); err != nil {
			return err
		}
		l.built = true
	}
	l.index, l.windows, l.known = found.index, found.file, found.known
	if !l.built {
		if err := s.redecode(l, before, l.known); err != nil {
			return err
		}
	}
	for p, h := range l.index.Roots {
		trust := min(found.known.Trust, blob.Pinned)
		if err := l.stored.store.SetRoot(uint32(p), h, trust); err != nil && !errors.Is(err, blob.ErrCorrupt) {
			return fmt.Errorf("piece roots of the index: %w", err)
		}
	}
	var name func(uint32) string
	if several {
		name = n.spanName(l.index)
	}
	l.device, err = device.Open(device.Config{
		Index: l.index, Windows: l.windows.fetch, Stored: stored, SpanName: name, Path: decoded, Pool: s.decoders, Whole: l.built,
		Timeout: l.stored.patience.timeout, Log: s.n.log, OnTouch: l.touch,
	})
	if err != nil {
		return control.Local(err)
	}
	if !several {
		s.vouch(l, found.known)
	}
	if l.device.Present() == l.device.Size() && !s.adopted(l.desc.Digest) {
		l.path = decoded
		return nil
	}
	if s.how != config.Devices && !s.adopted(l.desc.Digest) {
		return nil // the tree is not read through a file of the device alone
	}
	mount, err := s.deviceMount(ctx)
	if err != nil {
		return err
	}
	id, err := s.nodeID(l.desc.Digest.String())
	if err != nil {
		return err
	}
	l.path, err = mount.Add(id, l.desc.Digest.String(), l.device)
	l.served = err == nil
	return control.Local(err)
}

// nodeID is the number of a file in the FUSE mount: of a layer, or of a tree. It stays the same for as long as the state
// directory exists, and no other file gets it: EROFS mounts hold on to it, whatever process answers.
func (s *images) nodeID(name string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := filepath.Join(s.dir, "nodes")
	if s.nodes == nil {
		s.nodes = map[string]uint64{}
		raw, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(raw, &s.nodes)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, control.Local(fmt.Errorf("state directory: %s: %w", path, err))
		}
	}
	if id, ok := s.nodes[name]; ok {
		return id, nil
	}
	id := uint64(2)
	for _, used := range s.nodes {
		id = max(id, used+1)
	}
	s.nodes[name] = id
	raw, err := json.Marshal(s.nodes)
	if err == nil {
		err = replace(path, raw)
	}
	if err != nil {
		delete(s.nodes, name)
		return 0, control.Local(fmt.Errorf("state directory: %w", err))
	}
	return id, nil
}

// adopted reports whether a layer is read through a file that an earlier process has served.
func (s *images) adopted(digest blob.Hash) bool {
	s.mu.Lock()
	d := s.devices
	s.mu.Unlock()
	return d != nil && slices.ContainsFunc(d.Adopted(), func(a fs.Adopted) bool { return a.Name == digest.String() })
}

// openStored opens the blob of the layer as the registry has it.
func (s *images) openStored(ctx context.Context, l *layer, asked control.Options) error {
	d, img := l.desc, l.image
	f := found{
		id: blob.DigestID(d.Digest), geometry: blob.GeometryFor(d.Size), digest: d.Digest,
		meta: blockio.Meta{Source: img.Ref.Repository() + "@sha256:" + d.Digest.String(), Name: d.Digest.String(), Digest: "sha256:" + d.Digest.String()},
		seed: func(*live) fetch.Origin { return verdict{s.registry.Layer(s.n.ctx, img.Ref, d), l} },
	}
	if err := f.geometry.Check(); err != nil {
		return err
	}
	o := control.Options{ // the device completes it, see fill
		Fill: fetch.FillNever.String(), Timeout: asked.Timeout, Hard: asked.Hard, Strict: asked.Strict, Tenant: asked.Tenant, LimitRate: asked.LimitRate,
	}
	w, err := s.n.want(f.meta.Source, o, f)
	if err != nil {
		return err
	}
	l.stored, _, err = s.n.hold(ctx, f, w)
	return err
}

// verdict is the layer as the registry has it. That none of its servers has bytes which fit the manifest is no reason to
// ask again and again, as long as nobody else is known to have any: it ends whoever reads the layer whole.
type verdict struct {
	*registry.Blob
	l *layer
}

// Fetch implements blob.Source.
func (v verdict) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	return v.pass(v.Blob.Fetch(ctx, r, into))
}

// Stream implements fetch.Origin.
func (v verdict) Stream(ctx context.Context, w func(p []byte) error) error {
	return v.pass(v.Blob.Stream(ctx, w))
}

func (v verdict) pass(err error) error {
	if refuse := v.l.refuse.Load(); refuse != nil && errors.Is(err, blob.ErrCorrupt) {
		(*refuse)(err)
	}
	return err
}

// touch tells those who record what is read first.
func (l *layer) touch(span uint32) {
	if all := l.touched.Load(); all != nil {
		for _, tell := range *all {
			tell(span)
		}
	}
}

// record has tell called with every span that is read, on behalf of t; nil: no longer.
func (l *layer) record(t *rootfs, tell func(span uint32)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[*rootfs]func(uint32){}
	if old := l.touched.Load(); old != nil {
		maps.Copy(all, *old)
	}
	if delete(all, t); tell != nil {
		all[t] = tell
	}
	l.touched.Store(&all)
}

// releaseLayer gives an acquired layer back; the last one closes it.
func (s *images) releaseLayer(l *layer) {
	s.mu.Lock()
	l.refs--
	last := l.refs == 0
	s.mu.Unlock()
	if !last {
		return
	}
	l.stop()
	s.n.wg.Go(func() {
		<-l.ready
		s.closeLayer(l)
		s.mu.Lock()
		if l.doomed && !s.closing {
			s.mu.Unlock()
			s.erase(l.desc) // before anybody can open it again
			s.mu.Lock()
		}
		delete(s.layers, l.desc.Digest)
		doomed := l.doomed && !s.closing
		s.mu.Unlock()
		if n, ok := nydusLayer(l); ok && doomed {
			s.eraseParts(n)
		}
		close(l.gone)
		s.trim()
		s.n.rest()
	})
}

// closeLayer stops the parts of a layer in the reverse order of open. One whose file somebody still has open, which is a
// mount of an earlier process that no tree is known of, goes on being served until the node is closed.
func (s *images) closeLayer(l *layer) {
	s.mu.Lock()
	mount, closing := s.devices, s.closing
	s.mu.Unlock()
	if l.served && mount != nil {
		err := mount.Remove(l.desc.Digest.String())
		// What reads it has been unmounted. Reads that the kernel had begun by then end when their time is over.
		for end := time.Now().Add(l.stored.patience.timeout + unmountWait); errors.Is(err, fs.ErrBusy) && !closing && time.Now().Before(end); {
			err = mount.Remove(l.desc.Digest.String())
			s.mu.Lock()
			closing = s.closing
			s.mu.Unlock()
		}
		if err != nil {
			s.n.log.Warn("a layer stays", "layer", l.desc.Digest, "err", err)
			if errors.Is(err, fs.ErrBusy) && !closing {
				return
			}
		}
	}
	if l.device != nil {
		if err := l.device.Close(); err != nil {
			s.n.log.Warn("closing a layer", "layer", l.desc.Digest, "err", err)
		}
	}
	if l.windows != nil {
		if s.records != nil {
			s.records.DropIndex(l.desc.Digest)
		}
		s.n.release(l.windows)
	}
	for _, stored := range l.lives() {
		if stored != nil {
			s.n.release(stored)
		}
	}
}

// trim removes decoded layers that nobody uses, the last used last, until the cache holds no more than its quota.
func (s *images) trim() {
	quota := s.n.cfg.Quota
	if quota == 0 {
		return
	}
	dir := filepath.Join(s.dir, "decoded")
	all, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	type file struct {
		path string
		size int64
		used time.Time
	}
	total := s.n.store.Usage().Bytes
	var idle []file
	s.mu.Lock()
	for _, e := range all {
		st, err := e.Info()
		if err != nil {
			continue
		}
		size := allocated(st)
		total += size
		if h, err := blob.ParseHash(e.Name()); err == nil && s.layers[h] == nil {
			idle = append(idle, file{filepath.Join(dir, e.Name()), size, st.ModTime()})
		}
	}
	s.mu.Unlock()
	for total > quota && len(idle) > 0 {
		oldest := 0
		for i := range idle {
			if idle[i].used.Before(idle[oldest].used) {
				oldest = i
			}
		}
		device.Remove(idle[oldest].path)
		total -= idle[oldest].size
		idle = append(idle[:oldest], idle[oldest+1:]...)
	}
}
