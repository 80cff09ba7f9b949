package fs

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hold is the serving process's side of the holder. A nil hold keeps nothing.
type hold struct {
	// Constant.
	keep  Keep
	fd    int
	mount heldMount
	log   *slog.Logger

	mu    sync.Mutex // one exchange at a time, which takes microseconds and at most holdWait
	conn  *net.UnixConn
	child *exec.Cmd           // the holder, if this process has started it
	files map[uint64]heldFile // what the holder knows
	off   bool                // it is not used any more
}

// newHold starts a holder and gives it a mount.
func newHold(k Keep, fd int, mount heldMount, log *slog.Logger) (*hold, error) {
	h := &hold{keep: k, fd: fd, mount: mount, log: log, files: map[uint64]heldFile{}}
	return h, h.startHolder()
}

// startHolder runs the command and hands everything over. Needs mu, or to be the only user.
func (h *hold) startHolder() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "holder"), os.NewFile(uintptr(pair[1]), "holder")
	defer theirs.Close()
	c, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return err
	}
	conn := c.(*net.UnixConn) // as it was made
	cmd := exec.Command(h.keep.Command[0], h.keep.Command[1:]...)
	cmd.Dir = "/" // not inside any mount
	cmd.ExtraFiles = []*os.File{theirs}
	// Its stdout and stderr are /dev/null: it outlives us, and whoever reads our output until that ends would wait for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends us must not end it
	if err := cmd.Start(); err != nil {
		conn.Close()
		return fmt.Errorf("start the holder of the mount: %w", err)
	}
	m := holdMessage{Op: holdKeep, Mount: &h.mount, fd: h.fd}
	for _, f := range h.files {
		m.Files = append(m.Files, f)
	}
	if _, err := exchange(conn, m); err != nil {
		conn.Close()
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("hand the mount to its holder: %w", err)
	}
	h.conn, h.child = conn, cmd
	return nil
}

// takeHold finds the holder of an earlier process and takes the mount over.
func takeHold(k Keep, log *slog.Logger) (*hold, []heldFile, error) {
	var conn *net.UnixConn
	err := withSocketPath(k.Socket, func(path string) (err error) {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: no process holds a mount: %w", ErrNotMounted, err)
	}
	a, err := exchange(conn, holdMessage{Op: holdTake, fd: -1})
	if err == nil && (a.fd < 0 || a.Mount == nil) {
		err = fmt.Errorf("it has sent no mount")
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("%w: the holder does not give the mount: %w", ErrNotMounted, err)
	}
	h := &hold{keep: k, fd: a.fd, mount: *a.Mount, log: log, conn: conn, files: map[uint64]heldFile{}}
	for _, f := range a.Files {
		h.files[f.ID] = f
	}
	return h, a.Files, nil
}

// put tells that a file is so now; it is known to a successor when put returns.
func (h *hold) put(f heldFile) {
	h.tell(holdMessage{Op: holdFile, File: &f, fd: -1}, func() { h.files[f.ID] = f })
}

// gone tells that a file is gone.
func (h *hold) gone(id uint64) {
	h.tell(holdMessage{Op: holdGone, File: &heldFile{ID: id}, fd: -1}, func() { delete(h.files, id) })
}

// tell sends a change. A holder that has died is replaced, once per change.
func (h *hold) tell(m holdMessage, change func()) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off {
		return
	}
	change()
	_, err := exchange(h.conn, m)
	if err == nil {
		return
	}
	h.log.Warn("the holder of the mount of layers is gone; another is started", "error", err)
	h.drop()
	if err := h.startHolder(); err != nil {
		h.off = true
		h.log.Error("the mount of layers will not survive a restart of pantala", "error", err)
	}
}

// drop ends the connection, and the holder if it is a child of ours. Needs mu.
func (h *hold) drop() {
	h.conn.Close()
	if h.child != nil {
		stop := time.AfterFunc(holdWait, func() { h.child.Process.Kill() })
		h.child.Wait()
		stop.Stop()
		h.child = nil
	}
}

// end tells the holder to exit, because the mount is gone.
func (h *hold) end() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off {
		return
	}
	h.off = true
	_, err := exchange(h.conn, holdMessage{Op: holdEnd, fd: -1})
	if err != nil {
		h.log.Debug("the holder of the mount is gone already", "error", err)
	}
	h.drop()
}

// isOff reports whether nobody holds the mount.
func (h *hold) isOff() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.off
}

// leave lets go of the holder, which goes on.
func (h *hold) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.off {
		h.off = true
		h.conn.Close()
	}
}
