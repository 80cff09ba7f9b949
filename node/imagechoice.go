package node

import (
	"errors"
	"fmt"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs/erofs"
)

// ChooseImageMount says how images are mounted on this machine, and why not in a better way: config.Devices if the kernel
// reads EROFS out of files, config.Loop if it does so from a block device, else config.Files. want is that or config.Auto;
// what is wanted and cannot be is an error. can, from [erofs.Probe], is not asked of others than root.
func ChooseImageMount(want string, root bool, can erofs.Support) (how string, why, err error) {
	switch {
	case want == config.Files:
		return config.Files, errors.New("image-mount is files"), nil
	case !root && want == config.Auto:
		return config.Files, fmt.Errorf("%w: mounting them needs root", blob.ErrDenied), nil
	case !root:
		return "", nil, control.Local(fmt.Errorf("image-mount is %s: %w: that needs root: leave it out, or run pantala as root", want, blob.ErrDenied))
	case want == config.Devices && can.Files != nil:
		return "", nil, control.Local(fmt.Errorf("image-mount is devices, which this kernel cannot: %w: leave it out, and the next best is used", can.Files))
	case want == config.Loop && can.Loop != nil:
		return "", nil, control.Local(fmt.Errorf("image-mount is loop, which this machine cannot: %w: leave it out, and what it can is used", can.Loop))
	case want == config.Loop:
		return config.Loop, errors.New("image-mount is loop"), nil
	case can.Files == nil:
		return config.Devices, nil, nil
	case can.Loop == nil:
		return config.Loop, fmt.Errorf("EROFS out of files: %w", can.Files), nil
	}
	return config.Files, fmt.Errorf("EROFS out of files: %w; through a loop device: %w", can.Files, can.Loop), nil
}
