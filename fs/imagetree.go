package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fs/erofs"
)

// imageSource is what the mount table calls such a mount.
const imageSource = "pantala-image"

// MountImage mounts the tree of an image on dir, for machines where the kernel may not, or cannot, mount it itself: each
// name and attribute is read from img, each content from devices, which are the layers in the order of the device
// table. Both must stay open until the mount is done.
//
// Who mounts without CAP_SYS_ADMIN sees everything as their own, because the kernel would keep them out of root's files.
func MountImage(ctx context.Context, dir string, img *erofs.Image, devices []Blob, o Options) (*Mounted, error) {
	if o.AsFile {
		return nil, fmt.Errorf("%w: an image is mounted on a directory", blob.ErrInvalid)
	}
	if n := len(img.Devices()); n != len(devices) {
		return nil, fmt.Errorf("%w: the image has %d layers, %d devices were given", blob.ErrInvalid, n, len(devices))
	}
	if img.Size()>>nidShift > math.MaxInt32 {
		return nil, fmt.Errorf("%w: %d bytes of metadata", blob.ErrInvalid, img.Size())
	}
	// A file of the tree is a part of a layer: there is nothing to pass through.
	o.Passthrough = false
	return mountFS(ctx, dir, cmp.Or(o.FSName, imageSource), o, func(m *Mounted) fuse.RawFileSystem {
		m.image = newImageTree(img, devices, !canMount())
		return m.image
	})
}

const nidShift = 5 // nids count 32 bytes of metadata

// imageTree is the file system of [MountImage]. Node ids are nids plus nodeFirst, but for the root; inode numbers are
// nids, as those of the kernel's EROFS. It keeps nothing but the leaves of files that are being read.
type imageTree struct {
	readOnly

	// Constant.
	img     *erofs.Image
	devices []Blob
	squash  bool // everything belongs to this process's user
	owner   fuse.Owner
	files   uint64

	leaves []atomic.Pointer[leaf] // by nid; nil: not read yet. Memory of those that never are is never touched
}

func newImageTree(img *erofs.Image, devices []Blob, squash bool) *imageTree {
	return &imageTree{
		readOnly: newReadOnly(), img: img, devices: devices, squash: squash,
		owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())},
		files: img.Inodes(), leaves: make([]atomic.Pointer[leaf], img.Size()>>nidShift+1),
	}
}

func (t *imageTree) nid(node uint64) uint64 {
	if node == nodeRoot {
		return t.img.Root()
	}
	return node - nodeFirst
}

func (t *imageTree) node(nid uint64) uint64 {
	if nid == t.img.Root() {
		return nodeRoot
	}
	return nid + nodeFirst
}

func (t *imageTree) inode(node uint64) (erofs.Inode, fuse.Status) {
	i, err := t.img.Inode(t.nid(node))
	return i, statusOf(err)
}

func statusOf(err error) fuse.Status { return fuse.Status(errnoOf(err)) }

// leafOf is the file of a node; nil: it is none. It takes no lock, and allocates at the first read of a file only.
func (t *imageTree) leafOf(node uint64) *leaf {
	nid := t.nid(node)
	if nid >= uint64(len(t.leaves)) {
		return nil
	}
	if f := t.leaves[nid].Load(); f != nil {
		return f
	}
	i, err := t.img.Inode(nid)
	if err == nil && i.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	f := t.newLeaf(&i, err)
	t.leaves[nid].Store(f)
	return f
}

// newLeaf finds the bytes of a file.
func (t *imageTree) newLeaf(i *erofs.Inode, err error) *leaf {
	f := &leaf{size: i.Size, name: fmt.Sprintf("inode %d", i.Nid)}
	if err == nil && i.Size > 0 {
		var x erofs.Extent
		if x, err = t.extent(i, 0); err == nil {
			if x.Device > 0 && x.Length == i.Size {
				f.blob, f.offset = t.devices[x.Device-1], x.Offset
			} else {
				f.blob = newScattered(t, *i)
			}
		}
	}
	if err != nil {
		f.blob, f.size = broken{err}, math.MaxInt64 // whatever is read of it fails
	}
	return f
}

// extent is the stretch of a file from off on; it lies in its device.
func (t *imageTree) extent(i *erofs.Inode, off int64) (erofs.Extent, error) {
	x, err := t.img.Extent(i, off)
	if err == nil && x.Device > 0 {
		if size := t.devices[x.Device-1].Size(); x.Length > size || x.Offset > size-x.Length {
			err = fmt.Errorf("%w: inode %d reaches beyond the end of its layer", blob.ErrCorrupt, i.Nid)
		}
	}
	return x, err
}

// Forget says that the kernel does not know a node any more.
func (t *imageTree) Forget(node, _ uint64) {
	if nid := t.nid(node); nid < uint64(len(t.leaves)) {
		t.leaves[nid].Store(nil)
	}
}

// fill describes an inode.
func (t *imageTree) fill(i *erofs.Inode, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: i.Nid, Size: uint64(i.Size), Blocks: uint64(i.Size+511) / 512, Blksize: 4096, Mode: i.Mode, Nlink: i.Links,
		Mtime: uint64(i.Sec), Ctime: uint64(i.Sec), Atime: uint64(i.Sec), Mtimensec: i.Nsec, Ctimensec: i.Nsec, Atimensec: i.Nsec,
		Owner: fuse.Owner{Uid: i.UID, Gid: i.GID},
		// The kernel's 32 bits of a device: 12 of major, 20 of minor number (new_encode_dev).
		Rdev: i.Minor&0xff | i.Major<<8 | i.Minor&^0xff<<12,
	}
	if t.squash {
		out.Owner = t.owner
	}
}

func (t *imageTree) entry(nid uint64, out *fuse.EntryOut) fuse.Status {
	i, err := t.img.Inode(nid)
	if err != nil {
		return statusOf(err)
	}
	out.NodeId, out.Generation = t.node(nid), 1
	t.fill(&i, &out.Attr)
	out.SetEntryTimeout(cacheFor)
	out.SetAttrTimeout(cacheFor)
	return fuse.OK
}

func (t *imageTree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, status := t.inode(h.NodeId)
	if status != fuse.OK {
		return status
	}
	nid, err := t.img.Lookup(&dir, name)
	if errors.Is(err, blob.ErrNotFound) {
		out.SetEntryTimeout(cacheFor) // node id 0: the kernel remembers that there is nothing
		return fuse.OK
	}
	if err != nil {
		return statusOf(err)
	}
	return t.entry(nid, out)
}

func (t *imageTree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	i, status := t.inode(in.NodeId)
	if status != fuse.OK {
		return status
	}
	t.fill(&i, &out.Attr)
	out.SetTimeout(cacheFor)
	return fuse.OK
}

func (t *imageTree) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	i, status := t.inode(h.NodeId)
	if status != fuse.OK {
		return nil, status
	}
	target, err := t.img.Readlink(&i)
	return []byte(target), statusOf(err)
}

// Open and OpenDir have the kernel open by itself from then on, and keep what it has cached: nothing changes, and a READ
// needs no handle.
func (t *imageTree) Open(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EROFS
	}
	return fuse.ENOSYS
}

func (t *imageTree) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (t *imageTree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.list(in, func(e erofs.Dirent) (bool, fuse.Status) {
		return out.AddDirEntry(dirEntry(e)), fuse.OK
	})
}

func (t *imageTree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.list(in, func(e erofs.Dirent) (bool, fuse.Status) {
		slot := out.AddDirLookupEntry(dirEntry(e))
		if slot == nil || e.Name == "." || e.Name == ".." { // node id 0: the kernel does not look these up
			return slot != nil, fuse.OK
		}
		return true, t.entry(e.Nid, slot)
	})
}

func dirEntry(e erofs.Dirent) fuse.DirEntry {
	return fuse.DirEntry{Name: e.Name, Ino: e.Nid, Mode: e.Type, Off: e.Next}
}

// list calls add for the entries of a directory from an offset on, until it says false or fails.
func (t *imageTree) list(in *fuse.ReadIn, add func(e erofs.Dirent) (bool, fuse.Status)) fuse.Status {
	dir, status := t.inode(in.NodeId)
	if status != fuse.OK {
		return status
	}
	err := t.img.Readdir(&dir, in.Offset, func(e erofs.Dirent) (more bool) {
		more, status = add(e)
		return more && status == fuse.OK
	})
	if err != nil {
		return statusOf(err)
	}
	return status
}

// StatFs describes a full file system that holds the layers.
func (t *imageTree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	out.Bsize, out.Frsize, out.NameLen, out.Files = block, block, unix.NAME_MAX, t.files
	out.Blocks = uint64(t.img.Size()+block-1) / block
	for _, d := range t.devices {
		out.Blocks += uint64(d.Size()+block-1) / block
	}
	return fuse.OK
}

func (t *imageTree) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	i, status := t.inode(h.NodeId)
	if status != fuse.OK {
		return 0, status
	}
	all, err := t.img.Xattrs(&i)
	if err != nil {
		return 0, statusOf(err)
	}
	for _, x := range all {
		if x.Name == name {
			return fill(dest, x.Value)
		}
	}
	return 0, fuse.ENOATTR
}

func (t *imageTree) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	i, status := t.inode(h.NodeId)
	if status != fuse.OK {
		return 0, status
	}
	all, err := t.img.Xattrs(&i)
	if err != nil {
		return 0, statusOf(err)
	}
	var names strings.Builder
	for _, x := range all {
		names.WriteString(x.Name + "\x00")
	}
	return fill(dest, names.String())
}
