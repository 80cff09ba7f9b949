package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/origin/registry"
)

// imageMount is one directory at which an image is mounted for somebody who asked by command.
type imageMount struct {
	s       *images
	request control.MountRequest
	source  string // for status
	tree    *rootfs
	rw      string       // directory of what is written; "": read-only
	served  *fs.Mounted  // the mount, where the kernel has none of the tree that could be shown; else nil
	image   *erofs.Image // what served reads

	// Guarded by images.mu.
	state string // "mounting", "ready"
}

// unmountWait bounds how long an unmount is tried while the mount is in use.
const unmountWait = 3 * time.Second

// IsImage reports whether a source is a container image.
func IsImage(source string) bool { return strings.HasPrefix(source, "oci://") }

// mountImage is Mount for an image.
func (n *Node) mountImage(ctx context.Context, r control.MountRequest) (reply control.MountReply, err error) {
	switch {
	case r.AsFile:
		return reply, fmt.Errorf("%w: an image is a directory: leave out --as-file", blob.ErrInvalid)
	case r.Digest != "":
		return reply, fmt.Errorf("%w: an image is asked for by digest in its name: oci://HOST/NAME@sha256:…", blob.ErrInvalid)
	case os.Geteuid() != 0 && r.ReadWrite:
		return reply, control.Local(errors.New("--rw needs root, which may mount an overlay: leave it out, or run pantala as root"))
	}
	if err := n.imageOptions(r.Options); err != nil {
		return reply, err
	}
	s, err := n.imageDoor()
	if err != nil {
		return reply, err
	}
	m := &imageMount{s: s, request: r, source: r.Source, state: "mounting"}
	if err := s.reserve(m); err != nil {
		return reply, err
	}
	defer func() {
		if err != nil {
			s.forget(m)
		}
	}()
	if reply.Warnings, err = n.prepareDir(r); err != nil {
		return reply, err
	}
	img, warnings, err := s.resolve(ctx, r.Source, r.Platform, r.Options)
	if err != nil {
		return reply, err
	}
	reply.Warnings = append(reply.Warnings, warnings...)
	if m.tree, err = s.acquireTree(ctx, img, len(img.Layers), r.Options); err != nil {
		return reply, err
	}
	if err := m.show(ctx); err != nil {
		s.releaseTree(m.tree)
		return reply, control.Local(err)
	}
	s.mu.Lock()
	m.state = "ready"
	s.remember()
	s.mu.Unlock()
	n.log.Info("mounted", "source", m.source, "dir", r.Dir, "manifest", img.Manifest)
	st := m.status()
	reply.ID, reply.Path, reply.Size, reply.Present = st.ID, r.Dir, st.Size, st.Present
	return reply, nil
}

// imageOptions refuses what is not said of one mount where registries are concerned, because layers are shared by all
// images that have them.
func (n *Node) imageOptions(o control.Options) error {
	if _, err := n.fillOf(o); err != nil {
		return err
	}
	own := n.cfg.CACert
	if own != "" {
		own, _ = filepath.Abs(own)
	}
	switch {
	case len(o.Header) > 0:
		return fmt.Errorf("%w: -H is not for images: log in to the registry (docker login, podman login), or write the header into its hosts.toml", blob.ErrInvalid)
	case len(o.Mirrors) > 0:
		return fmt.Errorf("%w: --mirror is not for images: write mirrors of a registry into its hosts.toml", blob.ErrInvalid)
	case o.CACert != "" && o.CACert != own:
		return fmt.Errorf("%w: the daemon was started without this --cacert, and all images share what it trusts: unmount everything first, or write ca = %q into the registry's hosts.toml", blob.ErrInvalid, o.CACert)
	case len(o.Trackers) > 0 && !slices.Equal(o.Trackers, n.cfg.Trackers):
		return fmt.Errorf("%w: the daemon was started with other trackers, and images ask those: unmount everything first, or leave out --tracker", blob.ErrInvalid)
	}
	return nil
}

// show makes the tree visible at the directory.
func (m *imageMount) show(ctx context.Context) (err error) {
	if m.tree.dir == "" {
		m.served, m.image, err = m.s.serve(ctx, m.tree, m.request.Dir)
		return err
	}
	if !m.request.ReadWrite {
		return bindReadOnly(m.tree.dir, m.request.Dir)
	}
	rw, err := m.s.path("rw", "x")
	if err != nil {
		return err
	}
	if m.rw, err = os.MkdirTemp(filepath.Dir(rw), "mount-"); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	upper, work := filepath.Join(m.rw, "upper"), filepath.Join(m.rw, "work")
	if err = errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o700)); err == nil {
		err = unix.Mount("overlay", m.request.Dir, "overlay", 0, "lowerdir="+m.tree.dir+",upperdir="+upper+",workdir="+work)
	}
	if err != nil {
		os.RemoveAll(m.rw)
		return fmt.Errorf("overlay at %s: %w", m.request.Dir, err)
	}
	return nil
}

// close unmounts the directory.
func (m *imageMount) close(ctx context.Context, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, unmountWait)
	defer cancel()
	var err error
	switch {
	case m.served != nil && force:
		err = m.s.unserve(ctx, m.served, m.image)
	case m.served != nil:
		if err = m.served.Unmount(ctx); err == nil {
			err = m.image.Close()
		}
	default:
		err = unmountDir(ctx, m.request.Dir)
		if err != nil && force {
			err = detachDir(m.request.Dir)
		}
	}
	if err != nil {
		return control.Local(err)
	}
	if m.rw != "" {
		if err := os.RemoveAll(m.rw); err != nil {
			m.s.n.log.Warn("what was written to an image stays on disk", "dir", m.rw, "err", err)
		}
	}
	m.s.forget(m)
	m.s.releaseTree(m.tree)
	return nil
}

// reserve makes the directory this mount's own.
func (s *images) reserve(m *imageMount) error {
	s.n.mu.Lock()
	other := s.n.mounts[m.request.Dir] != nil
	s.n.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if other || s.mounts[m.request.Dir] != nil {
		return control.Local(fmt.Errorf("%s: something is already mounted there: pantala umount %s", m.request.Dir, m.request.Dir))
	}
	s.mounts[m.request.Dir] = m
	return nil
}

func (s *images) forget(m *imageMount) {
	s.mu.Lock()
	if s.mounts[m.request.Dir] == m {
		delete(s.mounts, m.request.Dir)
		if m.state == "ready" {
			s.remember()
		}
	}
	s.mu.Unlock()
	s.n.rest()
}

// status is one line of mounts.
func (m *imageMount) status() control.Mount {
	out := control.Mount{Source: m.source, Dir: m.request.Dir, Name: m.tree.image.Ref.String(), State: "ready"}
	if fill, err := m.s.n.fillOf(m.tree.options); err == nil {
		out.Fill = fill.String()
	}
	out.ID = "sha256:" + m.tree.image.Manifest.String()
	out.Digest = out.ID
	out.Complete = true
	for _, l := range m.tree.layers {
		for _, stored := range l.lives() {
			t := stored.status()
			out.Size += t.Size
			out.Present += t.Present
			out.FromPeers += t.FromPeers
			out.FromOrigin += t.FromOrigin
			out.Uploaded += t.Uploaded
			if t.LastError != "" {
				out.LastError = t.LastError
			}
			out.Peers = max(out.Peers, t.Peers)
		}
		st := l.device.Stats()
		out.Waiting += st.Waiting
		out.Errors += st.Errors
		out.Complete = out.Complete && l.device.Complete()
	}
	return out
}

// addStatus appends the mounts of images, and the peers of their layers.
func (s *images) addStatus(to *control.Status, seen map[blob.ID]bool) {
	s.mu.Lock()
	var mounts []*imageMount
	for _, m := range s.mounts {
		if m.state == "ready" {
			mounts = append(mounts, m)
		}
	}
	s.mu.Unlock()
	for _, m := range mounts {
		to.Mounts = append(to.Mounts, m.status())
		for _, l := range m.tree.layers {
			for _, stored := range l.lives() {
				s.n.addPeers(to, stored, seen)
			}
		}
	}
}

// unmountImage is Unmount for an image; false: none is mounted there.
func (n *Node) unmountImage(ctx context.Context, dir string, force bool) (bool, error) {
	s := n.images.Load()
	if s == nil {
		return false, nil
	}
	s.mu.Lock()
	m := s.mounts[dir]
	state := ""
	if m != nil {
		state = m.state
	}
	s.mu.Unlock()
	switch {
	case m == nil:
		return false, nil
	case state == "mounting":
		return true, control.Local(fmt.Errorf("%s is only being mounted: try again in a moment", dir))
	}
	return true, m.close(ctx, force)
}

// imageDoor returns what the node knows of images, which it begins to know now.
func (n *Node) imageDoor() (*images, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return nil, fmt.Errorf("%w: the node is being stopped", blob.ErrClosed)
	}
	if s := n.images.Load(); s != nil {
		return s, nil
	}
	s, err := n.newImages()
	if err == nil {
		n.images.Store(s)
	}
	return s, err
}

// resolve asks the registry what a reference leads to. While the registry is away, what it led to last time holds.
func (s *images) resolve(ctx context.Context, source, platform string, o control.Options) (img *registry.Image, warnings []string, err error) {
	ref, err := registry.Parse(source)
	if err != nil {
		return nil, nil, err
	}
	p, err := registry.ParsePlatform(platform)
	if err != nil {
		return nil, nil, err
	}
	long := s.resolveTimeout(o)
	bounded, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	if img, err = s.registry.Resolve(bounded, ref, p); err != nil {
		if bounded.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("image %s: %w: no answer within %v: check that the registry can be reached from here, or give it more time with --timeout", ref, blob.ErrUnavailable, long)
		}
		return nil, nil, err
	}
	if img.Stale {
		warnings = append(warnings, fmt.Sprintf("the registry does not answer: using what %s was last time, sha256:%v", ref, img.Manifest))
	}
	if len(img.Layers) == 0 {
		return nil, nil, fmt.Errorf("%w: %s has no layers: there is nothing to mount", blob.ErrInvalid, ref)
	}
	return img, warnings, nil
}
