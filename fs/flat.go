package fs

import (
	"fmt"
	"sort"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fs/erofs"
)

// Flat is the Blob of a whole image as one file: its metadata, and each layer at the place that the metadata gives it
// ([erofs.Image.Devices]). It is for kernels that read EROFS from block devices only, see [erofs.MountFlat]. What lies
// in one layer is read straight from that layer, without an allocation; that is nearly everything, because a file never
// crosses layers. A Flat is never complete: there is no file to pass through.
type Flat struct {
	scattered
	parts []erofs.Extent // by File, without holes; constant
}

var _ Blob = (*Flat)(nil)

// NewFlat puts an image and its layers, in the order of the device table, together. All must stay open for as long as
// the Flat is served.
func NewFlat(img *erofs.Image, devices []Blob) (*Flat, error) {
	table := img.Devices()
	if len(table) != len(devices) {
		return nil, fmt.Errorf("%w: the image has %d layers, %d devices were given", blob.ErrInvalid, len(table), len(devices))
	}
	f := &Flat{scattered: scattered{size: img.Size(), image: img, devices: devices, waits: map[blob.Waiter]*gather{}}}
	f.extent = f.at
	f.parts = append(f.parts, erofs.Extent{Length: img.Size()})
	for i, d := range table {
		size := devices[i].Size()
		if d.Start < f.size || size > d.Length {
			return nil, fmt.Errorf("%w: layer %d has %d bytes, and its place in the image is [%d,+%d) behind %d", blob.ErrCorrupt, i+1, size, d.Start, d.Length, f.size)
		}
		if f.size = d.Start + d.Length; size > 0 {
			f.parts = append(f.parts, erofs.Extent{File: d.Start, Length: size, Device: i + 1})
		}
	}
	return f, nil
}

// at is the stretch from off on. Between the parts there is nothing.
func (f *Flat) at(off int64) (erofs.Extent, error) {
	i := sort.Search(len(f.parts), func(i int) bool { return f.parts[i].File > off }) - 1
	p := f.parts[i] // the first begins at 0
	if in := off - p.File; in < p.Length {
		return erofs.Extent{File: off, Length: p.Length - in, Device: p.Device, Offset: p.Offset + in}, nil
	}
	end := f.size
	if i+1 < len(f.parts) {
		end = f.parts[i+1].File
	}
	return erofs.Extent{File: off, Length: end - off, Device: erofs.Hole}, nil
}

// layer is the layer that holds all n bytes at off, and where; nil: there is none.
func (f *Flat) layer(off int64, n int) (Blob, int64) {
	x, _ := f.at(off)
	if x.Device <= 0 || x.Length < int64(n) {
		return nil, 0
	}
	return f.devices[x.Device-1], x.Offset
}

// Want asks the layer, or all that have a part of it.
func (f *Flat) Want(off int64, n int, w blob.Waiter) bool {
	if b, at := f.layer(off, n); b != nil {
		return b.Want(at, n, w)
	}
	return f.scattered.Want(off, n, w)
}

// Cancel asks all layers: the waiter does not say in which one it waits. Few reads are canceled.
func (f *Flat) Cancel(w blob.Waiter) bool {
	if f.scattered.Cancel(w) {
		return true
	}
	for _, b := range f.devices {
		if b.Cancel(w) {
			return true
		}
	}
	return false
}

// WriteTo answers from the layer's map.
func (f *Flat) WriteTo(fd int, hdr []byte, off int64, n int) (int, error) {
	if b, at := f.layer(off, n); b != nil {
		return b.WriteTo(fd, hdr, at, n)
	}
	return f.scattered.WriteTo(fd, hdr, off, n)
}

// Touch tells the layers.
func (f *Flat) Touch(off int64, n int) {
	if b, at := f.layer(off, n); b != nil {
		b.Touch(at, n)
		return
	}
	f.scattered.Touch(off, n)
}
