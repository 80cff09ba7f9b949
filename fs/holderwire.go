package fs

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// What the holder (holder.go) and the process that serves a mount say to each other: one JSON object a message, after
// its length as four bytes, big endian. Every message is answered by one. A descriptor travels with the first byte of a
// message (unix(7), SCM_RIGHTS).
const (
	holdVersion = 1
	// maxHoldMessage bounds a message, in bytes: 100 000 files of a hundred or so.
	maxHoldMessage = 16 << 20
	// holdWait is how long an answer may take. The holder does nothing but copy a few hundred bytes.
	holdWait = 2 * time.Second
)

// What a message asks for.
const (
	holdKeep = "keep" // keep this mount: Mount, Files and the descriptor
	holdTake = "take" // the answer brings Mount, Files and the descriptor; whoever had the mount has it no more
	holdFile = "file" // a file is so now: File
	holdGone = "gone" // a file is gone: File.ID
	holdEnd  = "end"  // forget the mount and exit
)

type holdMessage struct {
	Version int
	Op      string     `json:",omitempty"`
	Err     string     `json:",omitempty"` // of an answer
	Mount   *heldMount `json:",omitempty"`
	File    *heldFile  `json:",omitempty"`
	Files   []heldFile `json:",omitempty"`

	fd int // -1: none
}

// heldMount is what a successor must know of a mount beside its descriptor.
type heldMount struct {
	Dir, Dev string
	Init     []byte // as the kernel sent it; it was saved before it was answered
	Pass     bool   // passthrough was wanted when INIT was answered
}

// heldFile is what a successor must know of a device.
type heldFile struct {
	ID      uint64
	Name    string          `json:",omitempty"`
	Size    int64           `json:",omitempty"`
	Backing int32           `json:",omitempty"` // backing id; 0: none
	Handles map[uint64]bool `json:",omitempty"` // of open files; true: passed through
}

// sendHold sends m, with its descriptor if it has one.
func sendHold(c *net.UnixConn, m holdMessage) error {
	m.Version = holdVersion
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	packet := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	var rights []byte
	if m.fd >= 0 {
		rights = unix.UnixRights(m.fd)
	}
	n, _, err := c.WriteMsgUnix(packet, rights, nil)
	if err == nil && n < len(packet) {
		_, err = c.Write(packet[n:])
	}
	return err
}

// receiveHold receives a message. The descriptor in it belongs to the caller.
func receiveHold(c *net.UnixConn) (m holdMessage, err error) {
	m.fd = -1
	var length [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, got, _, _, err := c.ReadMsgUnix(length[:], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return m, err
	}
	fd := rightsIn(oob[:got])
	defer func() {
		if err != nil && fd >= 0 {
			unix.Close(fd)
		}
	}()
	if _, err := io.ReadFull(c, length[n:]); err != nil {
		return m, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxHoldMessage {
		return m, fmt.Errorf("%w: a message of %d bytes", blob.ErrInvalid, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return m, err
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("%w: a message of the holder: %w", blob.ErrInvalid, err)
	}
	m.fd = fd
	if m.Version != holdVersion {
		return m, fmt.Errorf("%w: version %d of the holder, this is %d; unmount all images and mount them again", blob.ErrInvalid, m.Version, holdVersion)
	}
	return m, nil
}

// rightsIn is the descriptor of a control message, -1: none.
func rightsIn(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	found := -1
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if found < 0 {
				found = fd
			} else {
				unix.Close(fd)
			}
		}
	}
	return found
}

// exchange sends a message and returns its answer.
func exchange(c *net.UnixConn, m holdMessage) (holdMessage, error) {
	if err := c.SetDeadline(time.Now().Add(holdWait)); err != nil {
		return holdMessage{fd: -1}, err
	}
	if err := sendHold(c, m); err != nil {
		return holdMessage{fd: -1}, err
	}
	a, err := receiveHold(c)
	if err == nil && a.Err != "" {
		err = errors.New(a.Err)
	}
	return a, err
}

// withSocketPath calls f with a path of a socket that fits sockaddr_un, however long its directory is.
func withSocketPath(path string, f func(path string) error) error {
	if len(path) < 108 { // sun_path with its terminating zero, unix(7)
		return f(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path))
}
