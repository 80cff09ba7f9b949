package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Flags of struct fuse_init_in that [Devices] can use (include/uapi/linux/fuse.h).
const (
	flagPassthrough = 1 << 37
	flagResend      = 1 << 39
)

// DeviceSupport is what this machine can do with [Devices].
type DeviceSupport struct {
	Mount       error  // nil: a directory of devices can be mounted
	Protocol    string // of FUSE, as the kernel speaks it
	Passthrough error  // nil: complete files are read without us
	Handover    error  // nil: a mount survives the process that serves it
}

// String is a line for people.
func (s DeviceSupport) String() string {
	if s.Mount != nil {
		return "no layers can be served while they arrive: " + s.Mount.Error()
	}
	text := "layers are served while they arrive (FUSE " + s.Protocol + ")"
	for _, c := range []struct {
		what string
		err  error
	}{{"complete ones are passed through", s.Passthrough}, {"their mount survives a restart of pantala", s.Handover}} {
		if c.err == nil {
			text += "; " + c.what
		} else {
			text += "; not: " + c.what + ", because " + c.err.Error()
		}
	}
	return text
}

// ProbeDevices finds out by mounting in a temporary directory and listening to what the kernel offers. It takes a
// millisecond.
func ProbeDevices(ctx context.Context) DeviceSupport {
	failed := func(err error) DeviceSupport { return DeviceSupport{err, "", err, err} }
	if !canMount() {
		return failed(fmt.Errorf("%w: it needs CAP_SYS_ADMIN; run pantala daemon as root", ErrPrerequisite))
	}
	dir, err := os.MkdirTemp("", "pantala-probe-")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir)
	// The mount leaves the table while nobody else knows of it; closing the descriptor ends it.
	at, err := attach(ctx, dir, false, false, filepath.Base(dir))
	if err != nil {
		return failed(err)
	}
	defer unix.Close(at.fd)
	first, err := awaitInit(ctx, at.fd)
	if err = errors.Join(err, detach(dir, unix.MNT_DETACH)); err != nil {
		return failed(err)
	}
	return supportOf(first)
}

// supportOf reads what an INIT request offers.
func supportOf(init []byte) DeviceSupport {
	major, minor := host.Uint32(init[inHeaderSize:]), host.Uint32(init[inHeaderSize+4:])
	s := DeviceSupport{Protocol: fmt.Sprintf("%d.%d", major, minor)}
	// struct fuse_init_in: flags at byte 12, flags2 at byte 16.
	flags := uint64(host.Uint32(init[inHeaderSize+12:]))
	if len(init) >= inHeaderSize+20 {
		flags |= uint64(host.Uint32(init[inHeaderSize+16:])) << 32
	}
	if flags&flagPassthrough == 0 {
		s.Passthrough = fmt.Errorf("the kernel is older than Linux 6.9 or was built without CONFIG_FUSE_PASSTHROUGH")
	}
	if flags&flagResend == 0 {
		s.Handover = fmt.Errorf("the kernel is older than Linux 6.9")
	}
	return s
}
