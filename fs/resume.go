package fs

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// resendBit is set in the unique number of a request that the kernel sends again (FUSE_UNIQUE_RESEND).
const resendBit = 1 << 63

// notifyResend has the kernel send again what was read by a process that died before it answered
// (FUSE_NOTIFY_RESEND, code 7, Linux 6.9).
func notifyResend(fd int) error {
	var b [outHeaderSize]byte
	host.PutUint32(b[0:], outHeaderSize)
	host.PutUint32(b[4:], 7)
	return send(fd, b[:])
}

// Adopted is a device that an earlier process has served.
type Adopted struct {
	ID   uint64
	Name string
	Size int64 // bytes
}

// ResumeDevices takes over the mount on dir from a process that is gone, killed or by [Devices.Handover]. Options.Keep
// must be that process's. The devices are there as they were, and whoever has them open does not notice, but reads wait:
// the caller opens the blob of each of [Devices.Adopted] and gives it by [Devices.Add] with its id and name, and then
// calls [Devices.Settle]. [ErrNotMounted]: there is nothing to take over; use [MountDevices].
func ResumeDevices(ctx context.Context, dir string, o Options) (*Devices, error) {
	if o.Keep == nil {
		return nil, fmt.Errorf("%w: nothing says who holds the mount", blob.ErrInvalid)
	}
	ours, err := Mounts()
	if err != nil {
		return nil, err
	}
	path, err := resolve(dir, ours)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotMounted, err)
	}
	m := newMounted(path, o)
	h, files, err := takeHold(*o.Keep, m.log)
	if err != nil {
		return nil, err
	}
	info, ok := topAt(ours, path)
	if err := ctx.Err(); err != nil || !ok || info.Dev != h.mount.Dev || h.mount.Dir != path {
		unix.Close(h.fd)
		if err != nil {
			h.leave()
			return nil, err
		}
		h.end()
		return nil, fmt.Errorf("%w: the mount on %s that was held is not there any more", ErrNotMounted, path)
	}
	m.fd, m.privileged, m.init, m.hold, m.info = h.fd, true, h.mount.Init, h, info
	t := newDeviceTree(m)
	m.devices = t
	t.adopt(files)
	m.proto = newProtocol(t, h.mount.Pass, m.panicked, m.log)
	// The library must learn what was agreed on. The kernel has had its answer.
	_, pass, err := m.proto.init(m.init, make([]byte, 4096))
	if err == nil {
		m.canPass = o.Passthrough && pass
		err = m.begin()
	}
	if err != nil {
		h.leave()
		unix.Close(m.fd)
		return nil, err
	}
	// Before anything is read: what we had read ourselves would come twice, and an OPEN that is seen again after its
	// RELEASE would count for ever.
	if err := notifyResend(m.fd); err != nil && err != unix.ENODEV {
		m.log.Error("the kernel does not send again what the last process had not answered; those reads hang until they are killed", "dir", path, "error", err)
	}
	m.run()
	return &Devices{m, t}, nil
}

// Adopted lists the devices of an earlier process that have not been given a blob by Add yet.
func (d *Devices) Adopted() []Adopted {
	var all []Adopted
	for _, f := range d.tree.table.Load().order {
		if l, ok := f.blob.(*latch); ok && l.real.Load() == nil {
			all = append(all, Adopted{f.id, f.name, f.size})
		}
	}
	return slices.Clip(all)
}

// Settle says that no more blobs come for adopted devices: reads of those that have none fail, now and later. Remove
// takes such a device away.
func (d *Devices) Settle() {
	for _, f := range d.tree.table.Load().order {
		if l, ok := f.blob.(*latch); ok {
			l.fail(fmt.Errorf("%w: %s could not be opened again after a restart of pantala", blob.ErrUnavailable, f.name))
		}
	}
}

// Handover lets go of the mount, which goes on: a successor takes it over by [ResumeDevices]. Reads that wait are left
// for it, and no later error of a blob reaches a reader: blobs may be closed now. The process must end soon, because its
// loops are ended only by that, or by the next request. False: nobody holds the mount; it must be unmounted, or it ends
// with this process.
func (d *Devices) Handover() bool {
	m := d.m
	if m.hold == nil || m.hold.isOff() {
		return false
	}
	m.handed.Store(true)
	for _, p := range m.lot.all() {
		if p.f.blob.Cancel(p) {
			p.done() // the kernel sends it again
		}
		p.release()
	}
	m.hold.leave()
	return true
}
