package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/image/artifact"
	"github.com/pantala/pantala/image/device"
	"github.com/pantala/pantala/origin/registry"
	"github.com/pantala/pantala/tracker"
)

// A container image is a list of layers. Each layer is a blob like any other: in the store, in a swarm, with the
// registry as its origin. Beside it stands its index (imageindex.go), a small blob that says what is in the layer and
// how any part of it is decoded alone; and a device (imagelayer.go), its decoded address space, which arrives span by
// span. The entries of all layers are merged into one tree, whose metadata the kernel mounts as EROFS over the devices
// (imagetree.go). Who wants a tree is either a mount (imagemount.go) or containerd's snapshotter (imagedoor.go); both
// get the same one.

// images is what a node knows of container images. Nothing of it exists before the first image is asked for.
type images struct {
	n        *Node
	dir      string // of everything below
	registry *registry.Client
	decoders *device.Pool
	shrinker shrinker
	how      string // config.Devices or config.Loop: the kernel mounts trees by itself; config.Files: this process serves them

	records *tracker.Records // nil: no tracker
	keys    artifact.Keys    // whose signatures of indexes are believed

	mu      sync.Mutex
	layers  map[blob.Hash]*layer // by digest of the stored blob
	trees   map[blob.Hash]*rootfs
	mounts  map[string]*imageMount        // by directory
	held    map[string]map[string]*rootfs // by manifest and directory: for containerd
	forgets map[string]int                // by manifest: how often containerd has forgotten it
	begun   map[string][]*preparation     // by manifest: trees that are being made ready for containerd
	devices *fs.Devices                   // nil: not mounted yet
	nodes   map[string]uint64             // see nodeID; nil: not read yet
	closing bool                          // nothing is held for containerd any more
	kept    []*layer                      // of an earlier process, see adopt
	flats   map[string]*flat              // by name: those that no tree has, see takeFlat
	settled chan struct{}                 // closed when the layers that an earlier process has served are open again
}

// imagesDir is the directory of what is kept of images in a state directory. It holds:
//
//	manifests/   what references led to, so that an image starts again while its registry is away
//	layers/      which index a layer has
//	decoded/     decoded layers, sparse
//	trees/       metadata of merged trees
//	devices/     the FUSE mount that serves incomplete layers, and trees as one file
//	mnt/         the mounted trees
//	snapshots/   of containerd
//	rw/          what was written to images mounted with --rw
func imagesDir(state string) string { return filepath.Join(state, "images") }

// newImages builds what images need. It makes no request and no mount.
func (n *Node) newImages() (*images, error) {
	s := &images{
		n: n, dir: imagesDir(n.cfg.State), layers: map[blob.Hash]*layer{}, trees: map[blob.Hash]*rootfs{},
		mounts: map[string]*imageMount{}, held: map[string]map[string]*rootfs{}, forgets: map[string]int{},
		flats: map[string]*flat{}, begun: map[string][]*preparation{}, settled: make(chan struct{}),
	}
	var dirs []string
	if d := n.cfg.DockerConfig; d != "" {
		dirs = []string{d}
	}
	var err error
	if s.keys, err = readKeys(n.cfg.IndexKeys); err != nil {
		return nil, err
	}
	s.registry, err = registry.New(registry.Options{
		CACert: n.cfg.CACert, Insecure: n.cfg.PlainHTTP, CertsDir: n.cfg.CertsDir, ConfigDirs: dirs, Timeout: n.cfg.Timeout, Dir: filepath.Join(imagesDir(n.cfg.State), "manifests"), Log: n.log, UserAgent: "pantala/" + n.opts.Version,
	})
	if err != nil {
		return nil, err
	}
	if err := s.chooseMount(); err != nil {
		return nil, err
	}
	s.shrinker = newShrinker()
	s.decoders = device.NewPool(device.PoolOptions{Busy: s.shrinker.busy})
	n.wg.Go(func() { n.shrink(s.shrinker) })
	if len(n.cfg.Trackers) > 0 {
		addr := n.swarm.Addr()
		s.records = tracker.NewRecords(tracker.RecordsOptions{Trackers: n.cfg.Trackers, PeerID: n.swarm.PeerID(), Port: int(addr.Port()), IP: advertised(addr), Log: n.log})
	}
	s.resume()
	return s, nil
}

// chooseMount decides how trees are mounted.
func (s *images) chooseMount() (err error) {
	var can erofs.Support
	root := os.Geteuid() == 0
	if root && s.n.cfg.ImageMount != config.Files {
		can = erofs.Probe(s.n.asking)
	}
	var why error
	if s.how, why, err = ChooseImageMount(s.n.cfg.ImageMount, root, can); err != nil {
		return err
	}
	if why != nil {
		s.n.log.Info(map[string]string{
			config.Loop:  "images are mounted through loop devices",
			config.Files: "images are served name by name, which is slower",
		}[s.how], "why", why)
	}
	return nil
}

// path is a file or directory of images, whose parent it makes.
func (s *images) path(elem ...string) (string, error) {
	p := filepath.Join(append([]string{s.dir}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return "", control.Local(fmt.Errorf("state directory: %w", err))
	}
	return p, nil
}

// close ends everything, in the reverse order in which it was made. Mounts that somebody asked for by command go, by
// force if they are in use; of containerd's images those that are in use stay: see leave.
func (s *images) close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	mounts := slices.Collect(maps.Values(s.mounts))
	held := map[*rootfs]bool{}
	for _, trees := range s.held {
		for _, t := range trees {
			held[t] = true
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, m := range mounts {
		errs = append(errs, m.close(ctx, true))
	}
	s.mu.Lock()
	trees := slices.Collect(maps.Values(s.trees))
	s.mu.Unlock()
	for _, t := range trees {
		if !held[t] {
			<-t.gone
		}
	}
	stay, more := s.leave(ctx, slices.Collect(maps.Keys(held)))
	errs = append(errs, more...)
	s.mu.Lock()
	devices := s.devices
	if stay {
		s.devices = nil
	}
	layers := slices.Collect(maps.Values(s.layers))
	s.mu.Unlock()
	for t := range held {
		s.giveBack(t)
	}
	s.dropFlats()
	for _, l := range s.kept {
		s.releaseLayer(l)
	}
	for _, l := range layers {
		<-l.gone
	}
	if devices != nil && !stay {
		errs = append(errs, devices.Unmount(ctx))
	}
	if s.records != nil {
		errs = append(errs, s.records.Close())
	}
	s.registry.Close()
	return errors.Join(errs...)
}

// deviceMount is the FUSE mount of incomplete layers, and of trees in one file, made when it is first needed.
func (s *images) deviceMount(ctx context.Context) (*fs.Devices, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // mounting takes milliseconds and nobody could go on without it
	if s.devices != nil {
		return s.devices, nil
	}
	dir := filepath.Join(s.dir, "devices")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, control.Local(fmt.Errorf("state directory: %w", err))
	}
	d, err := fs.MountDevices(ctx, dir, s.deviceOptions())
	if err != nil {
		return nil, control.Local(fmt.Errorf("layers cannot be served: %w", err))
	}
	s.devices = d
	return d, nil
}

// busy reports whether an image is mounted or held.
func (s *images) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mounts) > 0 || len(s.trees) > 0 || len(s.layers) > 0
}

// resolveTimeout bounds how long a registry may take to say what a reference leads to.
func (s *images) resolveTimeout(o control.Options) time.Duration {
	return cmp.Or(o.Timeout, s.n.cfg.Timeout)
}
