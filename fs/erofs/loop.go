package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// loopTries bounds how often another process may take the loop device that we were told is free.
const loopTries = 16

// MountFlat mounts one file that holds everything at the places of [Image.Devices], through a loop device, for kernels
// that do not read EROFS out of files. The loop device goes when the mount goes. The file may be a FUSE file, also one
// that is served by this very process, as with [Mount].
//
// The loop device reads the file directly (O_DIRECT) where it can: through the page cache it would read one thing after
// the other, and a read that waits for bytes from afar would hold up all others.
func MountFlat(ctx context.Context, flat, dir string) (Backing, error) {
	// Not by package os: its poller would ask a FUSE file about poll(2), while it keeps its processor.
	fd, err := unix.Open(flat, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount %s: %w", flat, err)
	}
	defer unix.Close(fd)
	for range loopTries {
		loop, err := attachLoop(fd, flat)
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		if err != nil {
			return "", err
		}
		// The mount keeps the device; when it could not be made, closing the last descriptor clears it.
		_, err = mount(ctx, loop.Name(), nil, dir)
		loop.Close()
		if err != nil {
			return "", err
		}
		b := Backing(filepath.Join("/sys/block", filepath.Base(loop.Name()), "queue/read_ahead_kb"))
		b.ReadAhead(ReadAheadWhole)
		return b, nil
	}
	return "", fmt.Errorf("%w: no loop device stays free; raise max_loop", blob.ErrUnavailable)
}

// attachLoop gives an open file to a free loop device (loop(4)). unix.EBUSY: somebody else was faster.
func attachLoop(fd int, name string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: no loop devices: %w; run modprobe loop, or give the container /dev/loop-control", blob.ErrUnavailable, err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("%w: find a free loop device: %w", blob.ErrUnavailable, err)
	}
	loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; in a container, give it the block devices of major number 7", blob.ErrUnavailable, err)
	}
	config := unix.LoopConfig{Fd: uint32(fd), Size: 1 << defaultBlockBits}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:len(config.Info.File_name)-1], name)
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		loop.Close()
		if errors.Is(err, unix.EBUSY) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: give %s to %s: %w", blob.ErrUnavailable, name, loop.Name(), err)
	}
	return loop, nil
}
