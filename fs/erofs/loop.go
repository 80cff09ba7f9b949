package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// loopTries bounds how often another process may take the loop device that we were told is free.
const loopTries = 16

// MountFlat mounts one file that holds everything at the places of [Image.Devices], through a loop device, for kernels
// that do not read EROFS out of files. The loop device goes when the mount goes. The file may be a FUSE file.
func MountFlat(ctx context.Context, flat, dir string) error {
	f, err := os.Open(flat)
	if err != nil {
		return fmt.Errorf("mount %s: %w", flat, err)
	}
	defer f.Close()
	for range loopTries {
		loop, err := attachLoop(f, flat)
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		if err != nil {
			return err
		}
		// The mount keeps the device; when it could not be made, closing the last descriptor clears it.
		err = mount(ctx, loop.Name(), nil, dir)
		loop.Close()
		return err
	}
	return fmt.Errorf("%w: no loop device stays free; raise max_loop", blob.ErrUnavailable)
}

// attachLoop gives f to a free loop device (loop(4)). unix.EBUSY: somebody else was faster.
func attachLoop(f *os.File, name string) (*os.File, error) {
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
	config := unix.LoopConfig{Fd: uint32(f.Fd()), Size: 1 << defaultBlockBits}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
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
