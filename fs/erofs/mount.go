package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// ErrBusy: the mount is in use.
var ErrBusy = errors.New("the mount is in use")

const (
	fsType = "erofs"
	// maxValue is the longest value of a parameter that fsconfig(2) takes, its final zero byte included.
	maxValue = 256
	// ReadAheadWhole and ReadAheadLazy are the readahead of a mount, in KiB, see [Backing.ReadAhead]. Over layers that
	// are here, twice the kernel's own: programs that map a file and read it in order get 8.2 GB/s of it, with 32 KiB
	// 3.8. Over layers that are fetched while they are read, what lies ahead is fetched by the readahead of their
	// device, 1 MiB (fs.DefaultReadAhead); what this one asks for around each page fault of a program is mostly not
	// wanted: node's first line moves 29.5 MB with 256 KiB, 28.5 with 64, 26.2 with 32 and 26.6 with 16.
	ReadAheadWhole = 256
	ReadAheadLazy  = 32
)

// Mount mounts the metadata file meta, read-only, on the directory dir. devices are the files of the layers, in the
// order of the device table. meta must lie on a disk or in memory: the kernel refuses a FUSE file there, because a
// FUSE mount that allows passthrough counts as stacked; the devices may be FUSE files. dir should be below a directory
// that only root may enter: the tree may hold set-id programs.
//
// When a device is served by this very process, that must be able to answer while Mount runs: the kernel opens it.
//
// The mount reads ahead as far as over layers that are here; for others tell its backing.
func Mount(ctx context.Context, meta string, devices []string, dir string) (Backing, error) {
	params := make([]param, 0, len(devices))
	for _, d := range devices {
		params = append(params, param{"device", d})
	}
	b, err := mount(ctx, meta, params, dir)
	if errors.Is(err, unix.EINVAL) {
		return "", fmt.Errorf("%w: %w", err, explain(meta, len(devices)))
	}
	if errors.Is(err, unix.ENOENT) {
		return "", fmt.Errorf("%w: that is the image, one of its %d layers' files, or the directory", err, len(devices))
	}
	return b, err
}

// explain looks itself for what the kernel tells in its log only.
func explain(meta string, devices int) error {
	img, err := OpenFile(meta)
	if err != nil {
		return err
	}
	defer img.Close()
	if n := len(img.Devices()); n != devices {
		return fmt.Errorf("%w: %s has %d layers, %d devices were given", blob.ErrInvalid, meta, n, devices)
	}
	return errors.New("the image is in order as far as we know; the kernel tells more in its log (dmesg)")
}

// param is a parameter of a file system that is a path.
type param struct{ key, path string }

// naming orders the mounts of this process, because the backing device of a new one is found by looking at what came.
var naming sync.Mutex

func mount(ctx context.Context, source string, params []param, dir string) (backing Backing, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	// The directory is held open, so that the mount lands where it was checked.
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount on %s: %w", dir, err)
	}
	defer unix.Close(at)
	fd, err := unix.Fsopen(fsType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", openError(err)
	}
	defer unix.Close(fd)
	var held []int
	defer func() {
		for _, f := range held {
			unix.Close(f)
		}
	}()
	set := func(key, path string) error {
		if len(path) >= maxValue { // its descriptor has a short name
			f, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("mount %s: %s: %w", source, path, err)
			}
			held = append(held, f)
			path = fmt.Sprintf("/proc/self/fd/%d", f)
		}
		if err := unix.FsconfigSetString(fd, key, path); err != nil {
			return kernelError(fd, fmt.Sprintf("%s=%s", key, path), err)
		}
		return nil
	}
	if err := set("source", source); err != nil {
		return "", err
	}
	for _, p := range params {
		if err := set(p.key, p.path); err != nil {
			return "", err
		}
	}
	if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
		return "", kernelError(fd, "ro", err)
	}
	naming.Lock()
	before := backingDevices()
	err = unix.FsconfigCreate(fd)
	if err == nil {
		backing = newBacking(before)
	}
	naming.Unlock()
	if err != nil {
		return "", kernelError(fd, "mount "+source, err)
	}
	// Device nodes of an image are for nobody; what overlayfs shows of them is for its own mount to decide.
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return "", kernelError(fd, "mount "+source, err)
	}
	defer unix.Close(mfd)
	if err := ctx.Err(); err != nil {
		return "", err // closing the descriptor undoes it
	}
	if err := unix.MoveMount(mfd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("mount on %s: %w", dir, err)
	}
	backing.ReadAhead(ReadAheadWhole)
	return backing, nil
}

// openError explains why the kernel gave no file system context.
func openError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: mounting needs CAP_SYS_ADMIN; run as root", blob.ErrDenied)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: this kernel has no EROFS; run modprobe erofs, or use a kernel with CONFIG_EROFS_FS", blob.ErrUnavailable)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: this kernel has no fsopen(2): it is older than Linux 5.2", blob.ErrUnavailable)
	}
	return fmt.Errorf("%w: fsopen %s: %w", blob.ErrUnavailable, fsType, err)
}

// kernelError adds what the kernel wrote into the log of the context.
func kernelError(fd int, doing string, err error) error {
	var said []string
	buf := make([]byte, 1024)
	for {
		n, rerr := unix.Read(fd, buf)
		if rerr != nil || n <= 0 {
			break
		}
		line := strings.TrimSpace(string(buf[:n])) // "e erofs: …": class, then text
		if _, text, ok := strings.Cut(line, " "); ok {
			line = text
		}
		said = append(said, line)
	}
	text := ""
	if len(said) > 0 {
		text = " (the kernel says: " + strings.Join(said, "; ") + ")"
	}
	class := blob.ErrUnavailable
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		class = blob.ErrDenied
	case errors.Is(err, unix.EINVAL):
		class = blob.ErrInvalid
	case errors.Is(err, unix.EUCLEAN):
		class = blob.ErrCorrupt
	}
	return fmt.Errorf("%w: %s: %w%s", class, doing, err, text)
}

// Backing is the backing device of a mount: the file in /sys that says how far the kernel reads ahead. "": not known.
type Backing string

// ReadAhead sets the readahead, in KiB. Where /sys may not be written the kernel's 128 KiB stay.
func (b Backing) ReadAhead(kib int) {
	if b != "" {
		_ = os.WriteFile(string(b), []byte(strconv.Itoa(kib)), 0)
	}
}

const bdiDir = "/sys/class/bdi"

// backingDevices are the backing devices of EROFS mounts over files: erofs-1 and so on.
func backingDevices() map[string]bool {
	names, _ := filepath.Glob(bdiDir + "/" + fsType + "-*") // nothing there: nothing to set
	all := make(map[string]bool, len(names))
	for _, n := range names {
		all[n] = true
	}
	return all
}

// newBacking is the one device that was not there before. When somebody else has mounted one at the same moment it is
// not known which is which.
func newBacking(before map[string]bool) (b Backing) {
	for n := range backingDevices() {
		if before[n] {
			continue
		}
		if b != "" {
			return ""
		}
		b = Backing(filepath.Join(n, "read_ahead_kb"))
	}
	return b
}

const (
	// busyWait is how long Unmount tries again while the mount is in use: for what has just been killed to be gone.
	busyWait = 2 * time.Second
	busyTick = 50 * time.Millisecond
)

// Unmount takes the mount on dir away. While it is in use it tries again for two seconds, or until ctx ends, and then
// returns ErrBusy; the mount is still there. Nothing mounted on dir is no error.
func Unmount(ctx context.Context, dir string) error {
	for end := time.Now().Add(busyWait); ; {
		switch err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); {
		case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%w: unmounting %s needs CAP_SYS_ADMIN; run as root", blob.ErrDenied, dir)
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: %s; end the programs that use it (fuser -vm %s)", ErrBusy, dir, dir)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w", ErrBusy, dir, ctx.Err())
		case <-time.After(busyTick):
		}
	}
}
