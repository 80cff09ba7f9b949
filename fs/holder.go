package fs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The holder is a small process that keeps a mount alive while no process serves it: it has a duplicate of the
// descriptor of /dev/fuse, without which the kernel would end the connection, and what a successor must know. It does
// nothing on that descriptor, touches no file of the mount, and never executes another program: closing what it holds
// could wait for a request that nobody answers.

// Keep says how a mount of [Devices] is kept while no process serves it.
type Keep struct {
	// Command runs [Hold] in a process of its own, with descriptor 3, for example /proc/self/exe keep-fuse SOCKET.
	Command []string
	// Socket is where the successor finds it; in a directory that nobody else may enter.
	Socket string
}

// holdFor is how long a mount is kept that nobody serves. Whoever reads it hangs as long (and can be killed); after it
// reads fail. A restart takes seconds; five minutes are for a package manager that stops a service, installs, and
// starts it.
const holdFor = 5 * time.Minute

// holdTick is how often the holder looks whether the mount is gone. It asks poll(2), which does not wait: waiting would
// wake it with each request.
const holdTick = time.Second

// holder is the state of the process.
type holder struct {
	mu      sync.Mutex
	fd      int // /dev/fuse; -1: none yet
	mount   *heldMount
	files   map[uint64]heldFile
	server  *net.UnixConn // of the process that serves; nil: none
	since   time.Time     // since when there is none
	conns   map[*net.UnixConn]bool
	ended   chan struct{}
	endOnce sync.Once
}

// Hold is the main function of the holder. first is its end of a connection to the process that mounts. It returns when
// the mount is gone, when it is told to, when nobody has served the mount for five minutes, or when ctx ends.
func Hold(ctx context.Context, first *os.File, socket string) error {
	c, err := net.FileConn(first)
	first.Close()
	if err != nil {
		return fmt.Errorf("descriptor 3: %w; this command is for pantala itself", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return errors.New("descriptor 3 is no unix socket; this command is for pantala itself")
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var l *net.UnixListener
	err = withSocketPath(socket, func(path string) error {
		// The mode is right from the beginning: nobody else is in this process to be surprised by the mask.
		old := unix.Umask(0o177)
		defer unix.Umask(old)
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return fmt.Errorf("socket of the holder: %w", err)
	}
	l.SetUnlinkOnClose(false) // its name may be another one's by then; see below
	h := &holder{fd: -1, files: map[uint64]heldFile{}, conns: map[*net.UnixConn]bool{}, ended: make(chan struct{}), since: time.Now()}
	var wg sync.WaitGroup
	serve := func(c *net.UnixConn) {
		if h.enter(c) {
			wg.Go(func() { h.serve(c) })
		}
	}
	serve(conn)
	wg.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			serve(c)
		}
	})
	tick := time.NewTicker(holdTick)
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-ctx.Done():
			alive = false
		case <-h.ended:
			alive = false
		case <-tick.C:
			alive = h.needed(time.Now())
		}
	}
	os.Remove(socket)
	l.Close()
	h.closeAll()
	wg.Wait()
	if h.fd >= 0 {
		unix.Close(h.fd)
	}
	return nil
}

// needed reports whether there is something to hold: the connection lives, and somebody serves it or will soon.
func (h *holder) needed(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server == nil && now.Sub(h.since) > holdFor {
		return false
	}
	if h.fd < 0 {
		return true
	}
	p := []unix.PollFd{{Fd: int32(h.fd)}} // only errors: fuse_dev_poll says EPOLLERR when it is not connected
	n, err := unix.Poll(p, 0)
	return err != nil || n == 0
}

// enter counts a connection in; false: the process ends.
func (h *holder) enter(c *net.UnixConn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns == nil {
		c.Close()
		return false
	}
	h.conns[c] = true
	return true
}

func (h *holder) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		c.Close()
	}
	h.conns = nil
}

// serve answers one connection.
func (h *holder) serve(c *net.UnixConn) {
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.conns, c)
		c.Close()
		if h.server == c {
			h.server, h.since = nil, time.Now()
		}
	}()
	for {
		m, err := receiveHold(c)
		if err != nil {
			return
		}
		a := h.answer(c, m)
		if err := sendHold(c, a); err != nil {
			return
		}
		if m.Op == holdEnd && a.Err == "" {
			h.endOnce.Do(func() { close(h.ended) })
			return
		}
	}
}

// answer does what a message says.
func (h *holder) answer(c *net.UnixConn, m holdMessage) holdMessage {
	h.mu.Lock()
	defer h.mu.Unlock()
	no := func(why string) holdMessage {
		if m.fd >= 0 {
			unix.Close(m.fd)
		}
		return holdMessage{Err: why, fd: -1}
	}
	if m.Op != holdTake && m.Op != holdKeep && h.server != c {
		return no("another process serves this mount")
	}
	switch m.Op {
	case holdKeep:
		if h.fd >= 0 || m.fd < 0 || m.Mount == nil {
			return no("one mount is held, which has a descriptor")
		}
		h.fd, h.mount, h.server = m.fd, m.Mount, c
		for _, f := range m.Files {
			h.files[f.ID] = f
		}
		return holdMessage{fd: -1}
	case holdTake:
		if h.fd < 0 {
			return no("no mount is held")
		}
		if h.server != nil && h.server != c {
			h.server.CloseRead() // its serve ends; it may not change anything any more
		}
		h.server = c
		files := slices.SortedFunc(maps.Values(h.files), func(a, b heldFile) int { return compareIDs(a.ID, b.ID) })
		return holdMessage{Mount: h.mount, Files: files, fd: h.fd}
	case holdFile:
		if m.File == nil {
			return no("no file")
		}
		h.files[m.File.ID] = *m.File
	case holdGone:
		if m.File == nil {
			return no("no file")
		}
		delete(h.files, m.File.ID)
	case holdEnd:
	default:
		return no("unknown message " + m.Op)
	}
	if m.fd >= 0 {
		return no("a descriptor that is not wanted")
	}
	return holdMessage{fd: -1}
}

func compareIDs(a, b uint64) int {
	if a < b {
		return -1
	}
	return 1
}
