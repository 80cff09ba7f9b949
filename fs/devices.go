package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// Devices is a mount of one directory whose files come and go: the address spaces of layers, for file systems above
// that use them as devices. It survives the process that serves it, see [Devices.Handover].
type Devices struct {
	m    *Mounted
	tree *deviceTree
}

// releaseTick is how often Remove looks whether a file has been released.
const releaseTick = 5 * time.Millisecond

// devicesSource is what the mount table calls such a mount.
const devicesSource = "pantala-layers"

// MountDevices mounts an empty directory of devices on dir. A device has a page cache of its own, below that of the file
// system above, for the kernel's readahead: it runs across what that sees as many small files.
//
// A mount that may pass files through counts as stacked: EROFS takes its files as devices, but not as the image
// itself (docs/decisions/0017-layer-devices.md has the rules).
func MountDevices(ctx context.Context, dir string, o Options) (*Devices, error) {
	if o.AsFile {
		return nil, fmt.Errorf("%w: devices are mounted on a directory", blob.ErrInvalid)
	}
	var t *deviceTree
	m, err := mountFS(ctx, dir, cmp.Or(o.FSName, devicesSource), o, func(m *Mounted) fuse.RawFileSystem {
		t = newDeviceTree(m)
		m.devices = t
		return t
	})
	if err != nil {
		return nil, err
	}
	return &Devices{m, t}, nil
}

// Add shows b as a file and returns its path. The id is that of its node and must stay the same when a successor
// serves the mount; it is at least 2 and never used again for another file.
func (d *Devices) Add(id uint64, name string, b Blob) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	if id < nodeFirst || b == nil {
		return "", fmt.Errorf("%w: a device needs a blob and an id from %d on; %q has id %d", blob.ErrInvalid, nodeFirst, name, id)
	}
	if err := d.tree.add(id, name, b); err != nil {
		return "", err
	}
	return filepath.Join(d.m.dir, name), nil
}

// Remove takes a file away; its blob may then be closed. [ErrBusy]: somebody has it open, and has not let go of it
// within two seconds; the kernel tells of it a moment after an unmount. ErrNotFound: there is none of that name. After
// [Devices.Handover] it does nothing.
func (d *Devices) Remove(name string) error {
	m := d.m
	if m.handed.Load() {
		return nil // it is the successor's
	}
	f, err := d.tree.remove(name)
	for end := time.Now().Add(busyWait); errors.Is(err, ErrBusy) && time.Now().Before(end); {
		select {
		case <-m.dead: // the kernel tells of nothing any more
		case <-time.After(releaseTick):
		}
		f, err = d.tree.remove(name)
	}
	if err != nil {
		return err
	}
	m.withKernel(func(fd int) {
		// ENOENT: nobody has looked it up. ENODEV: the mount is gone.
		if err := notifyInvalEntry(fd, nodeRoot, name); err != nil && err != unix.ENOENT && err != unix.ENODEV {
			m.log.Warn("the kernel was not told that a device is gone", "dir", m.dir, "name", name, "error", err)
		}
		if id := f.backing.Load(); id != 0 {
			// The kernel would hold the file, and its space on the disk, for the life of the mount.
			if err := forgetBacking(fd, id); err != nil && err != unix.ENODEV {
				m.log.Warn("the kernel keeps the file of a removed device", "dir", m.dir, "name", name, "error", err)
			}
		}
	})
	for _, p := range m.lot.all() {
		if p.f == f && p.f.blob.Cancel(p) {
			p.failWith(fmt.Errorf("%w: %s was removed", blob.ErrClosed, name))
		}
		p.release()
	}
	return nil
}

// Dir is the mount point, absolute and without symbolic links.
func (d *Devices) Dir() string { return d.m.dir }

// Stats is a snapshot.
func (d *Devices) Stats() Stats { return d.m.Stats() }

// Info is the mount's line of the mount table.
func (d *Devices) Info() MountInfo { return d.m.info }

// Unmount takes the mount away; see [Mounted.Unmount]. EROFS mounts that use its files keep it busy.
func (d *Devices) Unmount(ctx context.Context) error { return d.m.Unmount(ctx) }

// Abort cuts the connection to the kernel; see [Mounted.Abort].
func (d *Devices) Abort() error { return d.m.Abort() }

// Done is closed when the mount is gone and no goroutine of it is left.
func (d *Devices) Done() <-chan struct{} { return d.m.done }
