package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/origin/registry"
)

// Containers outlive the process that serves their images. A process that stops unmounts what nobody uses and leaves the
// rest as it is: the trees stay mounted, and a holder (fs.Hold) keeps the connection over which their incomplete layers
// are read. The next process takes that over, opens the layers again, and finds the trees where they are. After kill -9
// it is the same, with the trees that nobody uses as well.

// resumeWait bounds taking over a mount, which is an exchange with the holder and some ioctls.
const resumeWait = 5 * time.Second

// keep says who holds the mount of layers while no process serves it; nil: nobody.
func (s *images) keep() *fs.Keep {
	if len(s.n.opts.KeepFuse) == 0 {
		return nil
	}
	socket := filepath.Join(s.dir, "holder.sock")
	return &fs.Keep{Command: append(slices.Clone(s.n.opts.KeepFuse), socket), Socket: socket}
}

func (s *images) deviceOptions() fs.Options {
	return fs.Options{Passthrough: s.n.cfg.Passthrough, Log: s.n.log, FSName: "pantala-layers", Keep: s.keep()}
}

// resume takes over what an earlier process has left mounted. What cannot be taken over is taken out of the file tree.
func (s *images) resume() {
	dir := filepath.Join(s.dir, "devices")
	below, err := fs.Below(s.dir)
	if err != nil {
		s.n.log.Warn("mounts of an earlier daemon stay as they are", "err", err)
		close(s.settled)
		return
	}
	if !slices.ContainsFunc(below, func(m fs.MountInfo) bool { return m.Dir == dir }) {
		close(s.settled)
		s.n.wg.Go(s.restore) // all trees that are mounted have their layers on the disk
		return
	}
	ctx, cancel := context.WithTimeout(s.n.asking, resumeWait)
	defer cancel()
	var d *fs.Devices
	if s.keep() == nil {
		err = errors.New("this program was not told how mounts are kept")
	} else {
		d, err = fs.ResumeDevices(ctx, dir, s.deviceOptions())
	}
	if err != nil {
		s.n.log.Warn("images that an earlier daemon served are lost to their containers: they must be started again", "err", err)
		for _, r := range s.remembered() {
			if err := s.bury(r); err != nil {
				s.n.log.Warn("a mount of an earlier daemon stays", "dir", r.Dir, "err", err)
			}
		}
		for _, m := range slices.Backward(below) {
			if err := detachDir(m.Dir); err != nil {
				s.n.log.Warn("a mount of an earlier daemon stays", "dir", m.Dir, "err", err)
			}
		}
		os.Remove(s.mountsFile())
		close(s.settled)
		return
	}
	s.devices = d
	adopted := d.Adopted()
	s.n.log.Info("took over the layers that an earlier daemon served", "layers", len(adopted))
	s.n.wg.Go(func() {
		s.adopt(s.n.asking, adopted)
		d.Settle()
		close(s.settled)
		s.restore()
	})
}

// adopt opens layers for whom others have files open, all at the same time: their readers wait. They are kept until a
// tree is found that has them.
func (s *images) adopt(ctx context.Context, adopted []fs.Adopted) {
	done := make(chan error, len(adopted))
	for _, a := range adopted {
		s.n.wg.Go(func() { done <- s.adoptOne(ctx, a) })
	}
	for range adopted {
		if err := <-done; err != nil {
			s.n.log.Error("a layer of a running container cannot be read", "err", err)
		}
	}
}

func (s *images) adoptOne(ctx context.Context, a fs.Adopted) error {
	if strings.HasPrefix(a.Name, flatPrefix) {
		return s.adoptFlat(ctx, a.Name)
	}
	l, err := s.adoptLayer(ctx, a.Name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, l)
	return nil
}

// adoptLayer acquires a layer of which only the digest is known, in hexadecimal.
func (s *images) adoptLayer(ctx context.Context, name string) (*layer, error) {
	digest, err := blob.ParseHash(name)
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", name, err)
	}
	k, ok := s.knownIndexOf(digest)
	if !ok || k.Ref == "" {
		return nil, fmt.Errorf("%w: layer sha256:%v: nothing is known of it any more", blob.ErrNotFound, digest)
	}
	ref, err := registry.Parse(k.Ref)
	if err != nil {
		return nil, err
	}
	desc := registry.Layer{Digest: digest, Size: k.Stored, DiffID: k.diffID()}
	layers, err := layersOf(k.Blobs)
	if err != nil {
		return nil, err
	}
	return s.acquire(ctx, &registry.Image{Ref: ref, Layers: layers}, desc, s.nobodyKnows())
}

// unkeep gives layers back that a tree has now, which was mounted before this process was.
func (s *images) unkeep(layers []*layer) {
	var free []*layer
	s.mu.Lock()
	s.kept = slices.DeleteFunc(s.kept, func(l *layer) bool {
		has := slices.Contains(layers, l)
		if has {
			free = append(free, l)
		}
		return has
	})
	s.mu.Unlock()
	for _, l := range free {
		s.releaseLayer(l)
	}
}

// mounted reports whether a tree is mounted at dir already.
func mounted(dir string) bool {
	all, err := fs.Below(dir)
	return err == nil && slices.ContainsFunc(all, func(m fs.MountInfo) bool { return m.Dir == dir && m.Type == "erofs" })
}

// inUse reports whether a mount of this namespace shows a tree somewhere else, or has it below it. (The kernel does not
// say so when the tree is unmounted: an overlay keeps the file system, not the mount.)
func inUse(dir string) bool {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return true
	}
	all, err := fs.Below("/")
	if err != nil {
		return true
	}
	own := slices.IndexFunc(all, func(m fs.MountInfo) bool { return m.Dir == dir })
	if own >= 0 && slices.ContainsFunc(all, func(m fs.MountInfo) bool { return m.Dev == all[own].Dev && m.Dir != dir }) {
		return true
	}
	for line := range strings.Lines(string(raw)) {
		if _, options, ok := strings.Cut(line, " - overlay "); ok && strings.Contains(options, dir) {
			return true
		}
	}
	return false
}

// leave is what close does to the trees that containerd's images have: those that nobody uses are unmounted, the others
// stay when their layers can be read without this process. It returns whether there are such.
func (s *images) leave(ctx context.Context, trees []*rootfs) (stay bool, errs []error) {
	var used []*rootfs
	for _, t := range trees {
		t.cancel()
		t.work.Wait()
		if t.served != nil { // it cannot go on without this process
			errs = append(errs, s.unserve(ctx, t.served, t.tree))
			continue
		}
		if t.dir != "" && (inUse(t.dir) || erofs.Unmount(ctx, t.dir) != nil) {
			used = append(used, t)
		}
	}
	s.mu.Lock()
	d := s.devices
	s.mu.Unlock()
	if len(used) == 0 && (d == nil || !errors.Is(d.Unmount(ctx), fs.ErrBusy)) {
		return false, errs
	}
	if d == nil || d.Handover() {
		s.n.log.Info("images stay mounted, because they are in use; the next daemon takes them over", "images", len(used))
		return true, errs
	}
	for _, t := range used {
		s.n.log.Warn("an image is taken away from those who use it", "image", t.image.Ref)
		errs = append(errs, detachDir(t.dir))
	}
	return false, errs
}

// mountRecord is a mount that somebody asked for by command, as it is remembered for a next process.
type mountRecord struct {
	Source    string `json:"source"`
	Dir       string `json:"dir"`
	Platform  string `json:"platform,omitempty"`
	ReadWrite bool   `json:"read_write,omitempty"`
	Written   string `json:"written,omitempty"` // directory of what was written
}

func (s *images) mountsFile() string { return filepath.Join(s.dir, "mounts") }

// remember writes down which mounts there are. Needs mu.
func (s *images) remember() {
	all := []mountRecord{}
	for _, m := range s.mounts {
		if m.state == "ready" {
			all = append(all, mountRecord{m.request.Source, m.request.Dir, m.request.Platform, m.request.ReadWrite, m.rw})
		}
	}
	raw, err := json.Marshal(all)
	if err == nil {
		err = replace(s.mountsFile(), raw)
	}
	if err != nil {
		s.n.log.Warn("mounts of images are not remembered: they would not survive this daemon", "err", err)
	}
}

// remembered are the mounts of an earlier process.
func (s *images) remembered() (all []mountRecord) {
	raw, err := os.ReadFile(s.mountsFile())
	if err != nil {
		return nil
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		s.n.log.Warn("the mounts of an earlier daemon are not known", "err", err)
		return nil
	}
	return all
}

// restore finds the mounts of an earlier process that are still there. Those that are not are forgotten, with what was
// written to them.
func (s *images) restore() {
	all := s.remembered()
	for _, r := range all {
		if err := s.restoreOne(s.n.asking, r); err != nil {
			s.n.log.Warn("a mount of an earlier daemon is not served any more", "dir", r.Dir, "err", err)
		}
	}
	if len(all) > 0 {
		s.mu.Lock()
		s.remember()
		s.mu.Unlock()
	}
}

// there reports whether a mount of an earlier process is still in the file tree.
func (r mountRecord) there() (bool, error) {
	all, err := fs.Below(r.Dir)
	return err == nil && slices.ContainsFunc(all, func(m fs.MountInfo) bool {
		return m.Dir == r.Dir && (m.Type == "erofs" || m.Type == "overlay" || m.Type == "fuse.pantala")
	}), err
}

// bury takes a mount out of the file tree that cannot be read any more, with what was written to it.
func (s *images) bury(r mountRecord) error {
	there, err := r.there()
	if there {
		err = detachDir(r.Dir)
	}
	if err == nil && r.Written != "" && filepath.Dir(r.Written) == filepath.Join(s.dir, "rw") {
		err = os.RemoveAll(r.Written)
	}
	return err
}

func (s *images) restoreOne(ctx context.Context, r mountRecord) error {
	there, err := r.there()
	if err != nil {
		return err
	}
	if !there {
		return s.bury(r)
	}
	m := &imageMount{
		s: s, source: r.Source, rw: r.Written, state: "mounting",
		request: control.MountRequest{Source: r.Source, Dir: r.Dir, Platform: r.Platform, ReadWrite: r.ReadWrite},
	}
	if err := s.reserve(m); err != nil {
		return err
	}
	img, _, err := s.resolve(ctx, r.Source, r.Platform, control.Options{})
	if err == nil {
		err = s.alive(img)
	}
	if errors.Is(err, errDead) {
		err = errors.Join(err, s.bury(r))
	}
	if err == nil {
		m.tree, err = s.acquireTree(ctx, img, len(img.Layers), control.Options{})
	}
	if err != nil {
		s.forget(m)
		return err
	}
	s.mu.Lock()
	m.state = "ready"
	s.mu.Unlock()
	s.n.log.Info("still mounted", "source", r.Source, "dir", r.Dir)
	return nil
}

// errDead is what a mount is whose tree has ended with the process that served it.
var errDead = errors.New("its image was served by the process that is gone: it was unmounted")

// alive finds out whether the tree of an image is still mounted where an earlier process had it.
func (s *images) alive(img *registry.Image) error {
	dir, err := s.path("mnt", treeKey(img, len(img.Layers)).String()[:32])
	if err == nil && !mounted(dir) {
		err = errDead
	}
	return err
}

// left reports whether an earlier process has left something that resume should look at.
func (n *Node) left() bool {
	dir := imagesDir(n.cfg.State)
	if _, err := os.Stat(dir); err != nil {
		return false
	}
	below, err := fs.Below(dir)
	if err == nil && len(below) > 0 {
		return true
	}
	_, err = os.Stat(filepath.Join(dir, "mounts"))
	return err == nil
}
