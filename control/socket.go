package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// SocketName is the name of the socket in a state directory.
const SocketName = "control.sock"

// maxPath is what fits sockaddr_un.sun_path with its terminating zero (unix(7)).
const maxPath = 107

// withSocket calls f with a path of the socket in state that fits sockaddr_un: for a long one it goes
// through a descriptor of the directory.
func withSocket(state string, f func(path string) error) error {
	path := filepath.Join(state, SocketName)
	if len(path) <= maxPath {
		return f(path)
	}
	dir, err := os.Open(state)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + SocketName)
}

// Listen opens the socket in state. The caller holds the lock of the state directory, so a socket that is
// there already was left by a node that died.
func Listen(state string) (net.Listener, error) {
	var l *net.UnixListener
	err := withSocket(state, func(path string) error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var err error
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // path may hold a descriptor that is closed by then; Server.Close unlinks
		// Between bind and chmod the mode of the directory, 0700, keeps others out.
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, Local(fmt.Errorf("control socket in %s: %w: use another --state directory", state, err))
	}
	return l, nil
}

// dial connects to the socket in state. Nobody there is ErrNoDaemon.
func dial(ctx context.Context, state string) (net.Conn, error) {
	var c net.Conn
	err := withSocket(state, func(path string) (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "unix", path)
		return err
	})
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%w in %s", ErrNoDaemon, state)
	case errors.Is(err, fs.ErrPermission):
		return nil, Local(fmt.Errorf("control socket in %s: %w: run as the user whose daemon it is, or name your own --state directory", state, err))
	default:
		return nil, err
	}
}
