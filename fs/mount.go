package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// Blob is what a mounted file reads from; *fetch.Blob implements it. All methods are safe for concurrent use
// and none may wait for bytes.
type Blob interface {
	// Size is the length in bytes; it never changes.
	Size() int64
	// Want asks for the n bytes at off. True: they are present, and w is forgotten. False: w is parked and its
	// Ready is called exactly once, perhaps before Want returns, unless Cancel(w) returns true first.
	Want(off int64, n int, w blob.Waiter) bool
	// Cancel reports whether it has taken w back: Ready will not be called.
	Cancel(w blob.Waiter) bool
	// WriteTo writes hdr and the n bytes at off to fd in one writev(2). blob.ErrAbsent: nothing was written,
	// because not all bytes are present (any more); call Want.
	WriteTo(fd int, hdr []byte, off int64, n int) (int, error)
	// Touch tells of a read that was answered from present bytes, so that readahead can follow. It is cheap.
	Touch(off int64, n int)
	// Complete reports whether all bytes are present for good, Completed is closed when they are.
	Complete() bool
	Completed() <-chan struct{}
	// File is the file that holds the bytes of a complete blob, for passthrough. It stays open until the mount
	// is done.
	File() *os.File
}

// File is a file of a mount.
type File struct {
	Name    string       // name in the directory; not used when mounted as a file
	Blob    Blob         // required
	ID      blob.ID      // for user.pantala.id
	ModTime time.Time    // all three times of the file; zero: the time of the mount
	Source  string       // for user.pantala.source and the mount table, both without secrets
	Present func() int64 // bytes on this machine, for user.pantala.present; may be nil
	Digest  string       // "sha256:<hex>" for user.pantala.digest; "" unknown
}

// TreeFile is a file, or a symbolic link, of a mount that has several.
type TreeFile struct {
	File                // Name is not used
	Path       []string // from the mount's directory
	Offset     int64    // of the file in its blob, bytes
	Length     int64    // bytes; Blob may be nil if it is 0
	Executable bool
	Link       string // of a symbolic link: where it leads; Blob is not used then
}

// Options say how to mount. [Defaults] are what most callers want.
type Options struct {
	AsFile      bool         // dir is a file, and becomes the blob itself
	AllowOther  bool         // users other than the mounter may read; always on for root
	Threads     int          // loops that answer the kernel; 0: as many as CPUs, at least 2
	ReadAhead   int          // bytes that the kernel reads ahead, if we are root; 0: 1 MiB
	Passthrough bool         // let the kernel read a complete file itself, where it can
	Log         *slog.Logger // nil: none
	FSName      string       // device in the mount table; "": the source
	Keep        *Keep        // of [MountDevices]: who keeps the mount while no process serves it; nil: nobody
}

// DefaultReadAhead is the readahead of a mount in bytes: one READ of the largest size. Sequential reading of a
// file whose READs take 5 ms each is 13 times faster with 4 MiB than with the kernel's 128 KiB, and 1 MiB takes
// most of that without reading far beyond what small readers want.
const DefaultReadAhead = 1 << 20

// Defaults are the options of an ordinary mount: passthrough on, and everybody may read if root mounts.
func Defaults() Options {
	return Options{AllowOther: os.Geteuid() == 0, ReadAhead: DefaultReadAhead, Passthrough: true}
}

// Mounted is a blob, or a tree of them, that the kernel shows at a path.
type Mounted struct {
	// Constant once Mount has returned.
	dir        string
	leaves     []*leaf     // as the entries of the tree; nil where an entry is no file
	devices    *deviceTree // not nil: files come and go, and leaves is not used
	image      *imageTree  // not nil: the tree of an image, and leaves is not used
	single     bool        // one file, whose completion is waited for
	opt        Options
	log        *slog.Logger
	fd         int    // /dev/fuse; closed by the closer after everybody who writes to it
	privileged bool   // mounted by mount(2)
	init       []byte // INIT as the kernel sent it: a successor must be taught it again
	hold       *hold  // who keeps the mount for a successor; nil: nobody
	canPass    bool   // passthrough is wanted and was negotiated
	info       MountInfo
	proto      *protocol
	table      *presence
	loops      []*loop

	// Shared by goroutines.
	passing atomic.Bool // new opens of some file are handed to the kernel
	leaving atomic.Bool // Unmount was called: reads that nobody waits for end at once
	handed  atomic.Bool // a successor serves the mount: nothing is answered any more
	lot     lot
	rare    rare
	closing sync.RWMutex  // held shared by who uses fd and is no loop
	closed  bool          // fd is; guarded by closing
	nudge   chan struct{} // wakes the keeper
	dead    chan struct{} // closed when all loops have ended
	done    chan struct{} // closed when everything has
}

// Mount mounts f on dir and returns when the mount answers. ctx bounds mounting only; the mount lives until
// [Mounted.Unmount], umount(8) or [Mounted.Abort], which Done tells of. On an error nothing is left mounted.
func Mount(ctx context.Context, dir string, f File, o Options) (*Mounted, error) {
	if f.Blob == nil {
		return nil, fmt.Errorf("%w: a mount needs a blob", blob.ErrInvalid)
	}
	if o.AsFile {
		f.Name = "file" // nobody sees it
	}
	return mount(ctx, dir, []TreeFile{{File: f, Path: []string{f.Name}, Length: f.Blob.Size()}}, f, o)
}

// MountTree is [Mount] of several files. top describes their directory: its ID, ModTime and Source, and Present
// and Digest for its extended attributes.
func MountTree(ctx context.Context, dir string, files []TreeFile, top File, o Options) (*Mounted, error) {
	if o.AsFile {
		return nil, fmt.Errorf("%w: a directory of files cannot be mounted as a file; leave out --as-file", blob.ErrInvalid)
	}
	return mount(ctx, dir, files, top, o)
}

func mount(ctx context.Context, dir string, files []TreeFile, top File, o Options) (*Mounted, error) {
	if err := checkTree(files); err != nil {
		return nil, err
	}
	source := cmp.Or(o.FSName, publicSource(top.Source), fsSubtype)
	return mountFS(ctx, dir, source, o, func(m *Mounted) fuse.RawFileSystem {
		tree := newTree(m, files, top, uint32(os.Geteuid()), uint32(os.Getegid()))
		for _, e := range tree.entries {
			m.leaves = append(m.leaves, e.leaf)
		}
		m.single = tree.alone || tree.asFile
		return tree
	})
}

// mountFS mounts on dir the file system that newFS makes.
func mountFS(ctx context.Context, dir, source string, o Options, newFS func(*Mounted) fuse.RawFileSystem) (*Mounted, error) {
	path, err := checkDir(dir, o.AsFile, nil)
	if err != nil {
		return nil, err
	}
	release, err := reserve(path)
	if err != nil {
		return nil, err
	}
	defer release()
	m := newMounted(path, o)
	at, err := attach(ctx, path, o.AsFile, m.opt.AllowOther, source)
	if err != nil {
		return nil, err
	}
	m.fd, m.privileged = at.fd, at.privileged
	// Passthrough needs CAP_SYS_ADMIN; without it, negotiating it would only forbid to stack on this mount.
	m.proto = newProtocol(newFS(m), o.Passthrough && at.privileged, m.panicked, m.log)
	m.proto.async = m.devices != nil // a loop device reads that way (erofs.MountFlat)
	if err := m.start(ctx); err != nil {
		// Closing the last descriptor of the connection kills it, after which the mount point lets go of it.
		m.hold.end()
		unix.Close(m.fd)
		if uerr := UnmountDir(path, true); uerr != nil {
			m.log.Warn("could not clean up after a failed mount", "dir", path, "error", uerr)
		}
		return nil, err
	}
	if m.privileged {
		m.setReadAhead()
	}
	return m, nil
}

func newMounted(path string, o Options) *Mounted {
	o = o.withDefaults()
	return &Mounted{
		dir: path, opt: o, log: o.Log,
		lot:   lot{reads: map[uint64]*parked{}},
		nudge: make(chan struct{}, 1), dead: make(chan struct{}), done: make(chan struct{}),
	}
}

// checkTree refuses what no directory can hold, and what would be read outside its blob. That no path is there
// twice, or leads through a file, is checked too: the kernel would be shown either.
func checkTree(files []TreeFile) error {
	if len(files) == 0 {
		return fmt.Errorf("%w: a mount needs a file", blob.ErrInvalid)
	}
	isDir := map[string]bool{}
	for i := range files {
		f := &files[i]
		for _, name := range f.Path {
			if err := checkName(name); err != nil {
				return err
			}
		}
		for n := 1; n <= len(f.Path); n++ {
			at, dir := strings.Join(f.Path[:n], "/"), n < len(f.Path)
			if was, ok := isDir[at]; ok && (!was || !dir) {
				return fmt.Errorf("%w: %q is there twice", blob.ErrInvalid, at)
			}
			isDir[at] = dir
		}
		if len(f.Path) == 0 || f.Link == "" && (f.Offset < 0 || f.Length < 0 || f.Blob == nil && f.Length != 0) {
			return fmt.Errorf("%w: %q has no name or no bytes", blob.ErrInvalid, f.Path)
		}
		if f.Blob != nil && f.Length > f.Blob.Size()-f.Offset {
			return fmt.Errorf("%w: %q lies outside its blob", blob.ErrInvalid, f.Path)
		}
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Threads <= 0 {
		o.Threads = max(2, runtime.NumCPU())
	}
	if o.ReadAhead <= 0 {
		o.ReadAhead = DefaultReadAhead
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.AllowOther = o.AllowOther || os.Geteuid() == 0
	return o
}

// checkName refuses names that no directory can hold.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > unix.NAME_MAX || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q cannot be the name of a file; choose one of 1 to %d bytes without a slash", blob.ErrInvalid, name, unix.NAME_MAX)
	}
	return nil
}

// start does what is left after the kernel has been attached: INIT, then the goroutines.
func (m *Mounted) start(ctx context.Context) error {
	first, err := awaitInit(ctx, m.fd)
	if err != nil {
		return err
	}
	m.init = first
	if err := m.locate(); err != nil {
		return err
	}
	if m.opt.Keep != nil {
		m.startHold()
	}
	out := make([]byte, 4096)
	n, pass, err := m.proto.init(first, out)
	if n > 0 {
		if serr := send(m.fd, out[:n]); err == nil && serr != nil {
			err = fmt.Errorf("answer the kernel's INIT: %w", serr)
		}
	}
	if err != nil {
		return err
	}
	m.canPass = m.opt.Passthrough && pass && m.privileged
	if m.opt.Passthrough && !m.canPass {
		reason := "the kernel is older than Linux 6.9 or was built without it"
		if !m.privileged {
			reason = "it needs CAP_SYS_ADMIN"
		}
		m.log.Info("no passthrough: a complete file will be read through pantala", "dir", m.dir, "reason", reason)
	}
	if err := m.begin(); err != nil {
		return err
	}
	if m.single && m.leaves[0].blob.Complete() {
		m.registerBacking(m.leaves[0])
	}
	m.run()
	return nil
}

// startHold has the mount kept for a successor. INIT is not answered yet: whatever happens after, a successor knows it.
func (m *Mounted) startHold() {
	reason := supportOf(m.init).Handover
	if reason == nil && !m.privileged {
		reason = errors.New("it needs CAP_SYS_ADMIN")
	}
	if reason == nil {
		mount := heldMount{Dir: m.dir, Dev: m.info.Dev, Init: m.init, Pass: m.opt.Passthrough}
		m.hold, reason = newHold(*m.opt.Keep, m.fd, mount, m.log)
	}
	if reason != nil {
		m.hold = nil
		m.log.Warn("the mount will not survive a restart of pantala", "dir", m.dir, "reason", reason)
	}
}

// begin is what comes between INIT and the goroutines.
func (m *Mounted) begin() (err error) {
	if m.table, err = watch(m.info.Dev); err != nil {
		return err
	}
	setServed(m.info.Dev, true)
	return nil
}

// locate finds out which device number the kernel gave us, from the mount table: asking the mount itself is
// what this process must never do.
func (m *Mounted) locate() error {
	ours, err := Mounts()
	if err != nil {
		return err
	}
	info, ok := topAt(ours, m.dir)
	if !ok {
		return fmt.Errorf("%w: %s was unmounted while it was being mounted", ErrNotMounted, m.dir)
	}
	m.info = info
	return nil
}

// setReadAhead sets the readahead of the mount's backing device, which INIT can only lower. It needs root;
// without it the kernel's 128 KiB stay.
func (m *Mounted) setReadAhead() {
	path := filepath.Join("/sys/class/bdi", m.info.Dev, "read_ahead_kb")
	if err := os.WriteFile(path, []byte(strconv.Itoa(m.opt.ReadAhead/1024)), 0); err != nil {
		m.log.Debug("readahead stays at the kernel's default", "dir", m.dir, "error", err)
	}
}

// run starts every goroutine of the mount and the closer that waits for them.
func (m *Mounted) run() {
	var loops, rest sync.WaitGroup
	for range m.opt.Threads {
		l := newLoop(m)
		m.loops = append(m.loops, l)
		loops.Go(l.run)
	}
	rest.Go(m.keep)
	if m.single && m.leaves[0].backing.Load() == 0 {
		rest.Go(func() { m.switchOver(m.leaves[0]) })
	}
	go m.close(&loops, &rest)
}

// close waits for the connection to die and takes everything down behind it.
func (m *Mounted) close(loops, rest *sync.WaitGroup) {
	loops.Wait()
	close(m.dead)
	rest.Wait()
	if m.drain() {
		m.closing.Lock()
		m.closed = true
		m.closing.Unlock()
		unix.Close(m.fd)
	} else {
		// Somebody may still write to the descriptor; closing it could send that into another file.
		m.log.Error("BUG: parked reads were not given back; their descriptor stays open", "dir", m.dir, "waiting", m.lot.len())
	}
	m.table.close()
	setServed(m.info.Dev, false)
	if !m.handed.Load() {
		m.hold.end()
	}
	close(m.done)
}

// withKernel calls f with the descriptor of the connection, unless it is closed, or about to be.
func (m *Mounted) withKernel(f func(fd int)) {
	m.closing.RLock()
	defer m.closing.RUnlock()
	if !m.closed {
		f(m.fd)
	}
}

// isDead reports whether the kernel speaks to this process no more.
func (m *Mounted) isDead() bool {
	select {
	case <-m.dead:
		return true
	default:
		return false
	}
}

// Dir is the mount point, absolute and without symbolic links.
func (m *Mounted) Dir() string { return m.dir }

// Info is the mount's line of the mount table.
func (m *Mounted) Info() MountInfo { return m.info }

// Done is closed when the mount is gone, whoever unmounted it, and no goroutine of it is left.
func (m *Mounted) Done() <-chan struct{} { return m.done }
