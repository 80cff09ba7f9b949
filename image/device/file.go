package device

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/mmap"
)

// sealSuffix is appended to the path of a device's file for that of its seal.
const sealSuffix = ".complete"

// openFile opens or makes the file, and finds out what of it may be right. whole: all of it is.
func (d *Device) openFile(whole bool) (err error) {
	d.file, err = os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("file of layer %s: %w", d.name, err)
	}
	defer func() {
		if err != nil {
			d.file.Close()
		}
	}()
	st, err := d.file.Stat()
	if err != nil {
		return fmt.Errorf("file of layer %s: %w", d.name, err)
	}
	sealed := d.size == 0 || st.Size() == d.size && sealOf(st) == readSeal(d.path)
	if !sealed {
		if err := removeSeal(d.path); err != nil {
			return err
		}
	}
	if whole = whole && st.Size() == d.size; whole {
		for i := range d.spans {
			d.present.set(uint32(i))
		}
		d.left.Store(0)
		d.bytes.Store(d.size)
	} else if st.Size() != d.size {
		// A file of another length is no device of this layer.
		if err := errors.Join(d.file.Truncate(0), d.file.Truncate(d.size)); err != nil {
			return fmt.Errorf("file of layer %s: make room for %d bytes: %w", d.name, d.size, err)
		}
	} else if !sealed {
		d.findOld()
	}
	if d.region, err = mmap.Map(d.file, d.size); err != nil {
		return fmt.Errorf("layer %s: %w", d.name, err)
	}
	if sealed {
		d.left.Store(0)
		d.bytes.Store(d.size)
		d.complete.Store(true)
		close(d.completed)
	}
	return nil
}

// findOld marks the spans all of whose bytes lie in the file (lseek(2), SEEK_DATA), for their digests to decide. What
// cannot be found out is fetched anew.
func (d *Device) findOld() {
	fd := int(d.file.Fd())
	next := uint32(0)
	for at := int64(0); at < d.size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err != nil {
			return // ENXIO: only a hole is left
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil || hole <= data {
			return
		}
		for next < uint32(len(d.spans)) && d.spans[next].Device < data {
			next++
		}
		for ; next < uint32(len(d.spans)) && d.end(next) <= hole; next++ {
			d.maybe.set(next)
		}
		at = hole
	}
}

// keep writes a verified span to the file, unless it lies there, and says so. kept false: the disk does not take it.
// last: with it all are present.
func (d *Device) keep(span uint32, data []byte, there bool) (kept, last bool) {
	if !there {
		if _, err := d.file.WriteAt(data, d.spans[span].Device); err != nil {
			d.notKept(span, err)
			return false, false
		}
	}
	d.present.set(span)
	d.bytes.Add(int64(len(data)))
	return true, d.left.Add(-1) == 0
}

// seal makes a file complete of which all spans are present. It is reached once.
func (d *Device) seal() {
	if err := Seal(d.path); err != nil {
		d.log.Warn("a layer is all here but cannot be sealed; it will be verified again after a restart", "layer", d.name, "error", err)
		return
	}
	d.complete.Store(true)
	close(d.completed)
	d.log.Info("layer complete", "layer", d.name, "bytes", d.size)
}

// Seal makes whatever is in the file at path believed from now on, after making it durable: all its bytes must be
// verified. It is for a device that has become complete, and for who has written a whole layer himself.
func Seal(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	temp := path + sealSuffix + ".new"
	s, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	_, err = io.WriteString(s, sealOf(st))
	err = errors.Join(err, s.Sync(), s.Close())
	if err == nil {
		err = os.Rename(temp, path+sealSuffix)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	return nil
}

// Sealed reports whether the file at path is a complete layer of size bytes, so that it can be used without a device.
func Sealed(path string, size int64) bool {
	st, err := os.Stat(path)
	return err == nil && st.Size() == size && sealOf(st) == readSeal(path)
}

// Remove deletes the file of a device that is not open, and its seal; first the seal.
func Remove(path string) error {
	err := removeSeal(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeSeal makes sure that a file is not believed.
func removeSeal(path string) error {
	err := os.Remove(path + sealSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: the seal of %s cannot be removed: %w", blob.ErrInvalid, path, err)
	}
	return syncDir(filepath.Dir(path))
}

// sealOf is what a seal says of a file: whoever changes or replaces it leaves another.
func sealOf(st os.FileInfo) string {
	var ino, dev uint64
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		ino, dev = sys.Ino, uint64(sys.Dev)
	}
	return fmt.Sprintf("pantala layer 1\nsize %d\nmtime %d\ninode %d\ndevice %d\n", st.Size(), st.ModTime().UnixNano(), ino, dev)
}

// readSeal is the seal of a file, "" if it has none.
func readSeal(path string) string {
	b, err := os.ReadFile(path + sealSuffix)
	if err != nil {
		return ""
	}
	return strings.Clone(string(b))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
