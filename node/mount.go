package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/pace"
)

// mount is one directory at which a blob is mounted.
type mount struct {
	// Constant once the mount answers.
	request control.MountRequest
	source  string // for status, without secrets
	live    *live
	fs      *fs.Mounted
	gone    chan struct{} // closed when it is no longer mounted and its blob has been released

	// Guarded by Node.mu.
	state string // "mounting", "ready", "failed"
	err   error  // why it failed
	over  bool   // nothing of it is served any more
	kept  bool   // it is over, but its blob is held for status until it is unmounted by name
}

// Mount implements control.Node.
func (n *Node) Mount(ctx context.Context, r control.MountRequest) (reply control.MountReply, err error) {
	ctx, done, err := n.begin(ctx)
	if err != nil {
		return reply, err
	}
	defer done()
	if err := n.expect(r.Expect); err != nil {
		return reply, err
	}
	if !filepath.IsAbs(r.Dir) {
		return reply, fmt.Errorf("%w directory %q: not an absolute path", blob.ErrInvalid, r.Dir)
	}
	r.Dir = filepath.Clean(r.Dir)
	if IsImage(r.Source) {
		return n.mountImage(ctx, r)
	}
	if r.Platform != "" || r.ReadWrite {
		return reply, fmt.Errorf("%w: --platform and --rw are for images (oci://): leave them out", blob.ErrInvalid)
	}
	want, err := ParseDigest(r.Digest)
	if err != nil {
		return reply, err
	}
	if err := n.noticeLazy(r.Dir); err != nil {
		return reply, err
	}
	m := &mount{request: r, source: redact(r.Source), gone: make(chan struct{}), state: "mounting"}
	if err := n.reserve(m); err != nil {
		return reply, err
	}
	defer func() {
		if err != nil {
			n.forget(m)
		}
	}()
	if reply.Warnings, err = n.prepareDir(r); err != nil {
		return reply, err
	}
	f, err := n.find(ctx, r.Source, r.Options, func(int64) {})
	if err != nil {
		return reply, err
	}
	defer f.discard()
	w, err := n.want(r.Source, r.Options, f)
	if err != nil {
		return reply, err
	}
	l, warnings, err := n.hold(ctx, f, w)
	if err != nil {
		return reply, err
	}
	reply.Warnings = append(reply.Warnings, append(f.warnings, warnings...)...)
	reply.Warnings = append(reply.Warnings, n.reachable(l.trackers)...)
	m.live = l
	if f.digest != (blob.Hash{}) && want == (blob.Hash{}) {
		want = f.digest
	}
	one := l.only()
	if one == nil && (want != (blob.Hash{}) || r.AsFile) {
		n.release(l)
		return reply, severalFiles(l)
	}
	check := want != (blob.Hash{}) && !one.verified(want)
	if check && one.store.Complete() { // then it costs little, and the mount can be refused
		if err := n.verify(ctx, one, want); err != nil {
			n.release(l)
			return reply, err
		}
		check = false
	}
	if err := n.serve(ctx, m, want); err != nil {
		n.release(l)
		return reply, err
	}
	if one != nil && !check {
		n.canonize(one)
	}
	if check {
		l.work.Go(func() { n.verifyLater(l.ctx, m, want) })
	}
	if ctx.Err() != nil { // the command that asked is gone: it would not know of the mount
		if err := n.detach(ctx, m); err != nil {
			n.log.Error("unmounting", "dir", r.Dir, "err", err)
		}
		n.settle(context.WithoutCancel(ctx), m)
		return reply, context.Cause(ctx)
	}
	n.log.Info("mounted", "source", m.source, "dir", r.Dir, "blob", l.id, "size", l.size(), "present", l.present())
	reply.ID, reply.Path, reply.Size, reply.Present, reply.Files = l.id.String(), m.path(), l.size(), l.present(), l.files()
	return reply, nil
}

// severalFiles refuses what makes sense for one file only.
func severalFiles(l *live) error {
	return fmt.Errorf("%w: %s is a torrent of %d files: leave out --digest and --as-file", blob.ErrInvalid, l.meta.Name, len(l.torrent.Info.Files))
}

// path is where the mounted file is, or the directory of several.
func (m *mount) path() string {
	if t := m.live.torrent; m.request.AsFile || t != nil && !t.Info.Single {
		return m.request.Dir
	}
	return filepath.Join(m.request.Dir, m.live.meta.Name)
}

// ParseDigest reads the digest that somebody asks for, "sha256:<64 hex>"; zero when there is none. All zeroes
// stand for "none" in this package and are nobody's digest, so they are refused rather than not checked.
func ParseDigest(s string) (blob.Hash, error) {
	if s == "" {
		return blob.Hash{}, nil
	}
	h, err := blob.ParseDigest(s)
	if err == nil && h.IsZero() {
		err = fmt.Errorf("%w: digest %s is a placeholder: give the real one, or none", blob.ErrInvalid, s)
	}
	return h, err
}

// expect refuses a request whose command line asks for another node than this one.
func (n *Node) expect(settings []control.Setting) error {
	whole := n.cfg.Whole()
	for key, bucket := range map[string]*pace.Bucket{"upload-limit": n.limits.host.upload, "download-limit": n.limits.host.download, "origin-limit": n.limits.host.origin} {
		whole[key] = strconv.FormatInt(bucket.Rate(), 10) // pantala limits may have changed it
	}
	for _, s := range settings {
		have := whole[s.Key]
		if s.Value != have {
			return fmt.Errorf("%w: %s is %s, but the daemon that runs in %s has %s: leave it out, or stop that daemon (pantala daemon --stop), or name another --state", blob.ErrInvalid, s.From, s.Value, n.cfg.State, have)
		}
	}
	return nil
}

// reserve makes the directory this mount's own.
func (n *Node) reserve(m *mount) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.mounts[m.request.Dir]; o != nil {
		return control.Local(fmt.Errorf("%s: %s is already %s there: pantala umount %s", m.request.Dir, o.source, map[string]string{"mounting": "being mounted", "ready": "mounted", "failed": "mounted, and failed,"}[o.state], m.request.Dir))
	}
	n.mounts[m.request.Dir] = m
	return nil
}

func (n *Node) forget(m *mount) {
	n.mu.Lock()
	if n.mounts[m.request.Dir] == m {
		delete(n.mounts, m.request.Dir)
	}
	n.mu.Unlock()
	n.rest()
}

// prepareDir checks that the directory can be mounted on. What a killed daemon left mounted there is
// unmounted first.
func (n *Node) prepareDir(r control.MountRequest) (warnings []string, err error) {
	err = fs.CheckDir(r.Dir, r.AsFile, n.cfg.State)
	if errors.Is(err, fs.ErrStale) {
		if err = fs.UnmountDir(r.Dir, true); err != nil {
			return nil, control.Local(fmt.Errorf("%s: left mounted by a daemon that was killed: %w", r.Dir, err))
		}
		warnings = append(warnings, "unmounted what a daemon that was killed had left at "+r.Dir)
		err = fs.CheckDir(r.Dir, r.AsFile, n.cfg.State)
	}
	return warnings, control.Local(err)
}

// serve mounts the live blob and watches the mount until it ends.
func (n *Node) serve(ctx context.Context, m *mount, digest blob.Hash) error {
	l, r := m.live, m.request
	allow := n.cfg.AllowOther
	if r.AllowOther != nil {
		allow = *r.AllowOther
	}
	file := fs.File{
		Name: l.meta.Name, ID: l.id, ModTime: modTime(l.meta.Validator, n.started), Source: m.source, Present: l.present,
	}
	if one := l.only(); one != nil {
		file.Blob = one.fetch
		if digest != (blob.Hash{}) {
			file.Digest = "sha256:" + digest.String()
		} else if d := one.digest.Load(); d != nil {
			file.Digest = "sha256:" + d.String()
		}
	}
	o := fs.Options{
		AsFile: r.AsFile, AllowOther: allow, Passthrough: n.cfg.Passthrough && !r.NoPassthrough,
		Log: n.log, FSName: m.source,
	}
	var err error
	if l.torrent == nil || r.AsFile {
		m.fs, err = fs.Mount(ctx, r.Dir, file, o)
	} else {
		file.ModTime = cmp.Or(l.torrent.Created, n.started)
		m.fs, err = fs.MountTree(ctx, r.Dir, l.tree(file), file, o)
	}
	if err != nil {
		return control.Local(err)
	}
	n.mu.Lock()
	m.state = "ready"
	n.wg.Add(1)
	n.mu.Unlock()
	go func() {
		defer n.wg.Done()
		<-m.fs.Done()
		n.ended(m)
	}()
	return nil
}

// modTime is the modification time of the mounted file: the origin's when its validator says one, else that
// of the node's start.
func modTime(validator string, otherwise time.Time) time.Time {
	if t, err := time.Parse(time.RFC1123, validator); err == nil {
		return t
	}
	return otherwise
}

// reachable warns when others cannot reach what trackers tell them about this node.
func (n *Node) reachable(trackers []string) []string {
	if !n.swarm.Addr().Addr().IsLoopback() {
		return nil
	}
	for _, t := range trackers {
		u, err := url.Parse(t)
		if err != nil {
			continue
		}
		host := u.Hostname()
		if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.IsLoopback() {
			continue
		}
		return []string{fmt.Sprintf("other machines cannot fetch from this one, which listens on %s only: pass --listen %s", n.swarm.Addr(), net.JoinHostPort("HOST", "PORT"))}
	}
	return nil
}
