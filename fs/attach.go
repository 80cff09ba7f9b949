package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const deviceFuse = "/dev/fuse"

// attachment is a connection to the kernel that has been mounted but has not seen INIT.
type attachment struct {
	fd         int
	privileged bool // by mount(2); else by fusermount3
}

// attach mounts a new FUSE connection on dir, which is resolved and absolute.
func attach(ctx context.Context, dir string, asFile, allowOther bool, source string) (attachment, error) {
	mode := uint32(unix.S_IFDIR)
	if asFile {
		mode = unix.S_IFREG
	}
	// Options that both ways understand. Permissions are checked by the kernel from our attributes.
	options := []string{"default_permissions", fmt.Sprintf("max_read=%d", maxRead)}
	if allowOther {
		options = append(options, "allow_other")
	}
	if canMount() {
		fd, err := attachDirect(dir, mode, options, source)
		return attachment{fd, true}, err
	}
	fd, err := attachHelper(ctx, dir, options, source)
	return attachment{fd, false}, err
}

// attachDirect mounts by mount(2), which needs CAP_SYS_ADMIN.
func attachDirect(dir string, mode uint32, options []string, source string) (int, error) {
	fd, err := unix.Open(deviceFuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, prerequisites("open "+deviceFuse, err)
	}
	options = append(options, fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d", fd, mode, os.Geteuid(), os.Getegid()))
	// Read-only: not even access times, which would cost a request per read, are to be kept.
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME
	if err := unix.Mount(source, dir, fsType, flags, strings.Join(options, ",")); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.ENODEV) {
			return -1, prerequisites("mount on "+dir, err)
		}
		return -1, fmt.Errorf("%w: mount on %s: %w; check that it is a directory (or, with --as-file, a file) of a local file system", ErrMountPoint, dir, err)
	}
	return fd, nil
}

// helperWait bounds the run of fusermount3, which does a handful of system calls.
const helperWait = 10 * time.Second

// attachHelper lets fusermount3, which is setuid root, open the device and mount it; the descriptor comes back
// over a socket that it inherits (fusermount3(1), _FUSE_COMMFD).
func attachHelper(ctx context.Context, dir string, options []string, source string) (int, error) {
	helper, err := fusermount()
	if err != nil {
		return -1, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair for %s: %w", helper, err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer ours.Close()
	defer theirs.Close()

	source = strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(source)
	options = append(options, "ro", "nosuid", "nodev", "noatime", "subtype="+fsSubtype, "fsname="+source)
	ctx, cancel := context.WithTimeout(ctx, helperWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper, "-o", strings.Join(options, ","), "--", dir)
	cmd.Dir = "/" // the helper must not start inside any mount of ours
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return -1, helperError(dir, stderr.String(), err)
	}
	fd, err := receiveFd(ours)
	if err != nil {
		err = errors.Join(err, detach(dir, unix.MNT_DETACH))
	}
	return fd, err
}

// helperError turns what fusermount3 printed into one line that says what to do.
func helperError(dir, text string, err error) error {
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	if _, after, ok := strings.Cut(text, "fusermount3: "); ok {
		text = after
	}
	switch {
	case strings.Contains(text, "user_allow_other"):
		return fmt.Errorf("%w: %s; add the line user_allow_other to /etc/fuse.conf or leave out --allow-other", ErrPrerequisite, text)
	case strings.Contains(text, "write access") || strings.Contains(text, "bad mount point"):
		return fmt.Errorf("%w: %s; choose a directory of your own", ErrMountPoint, text)
	case strings.Contains(text, "failed to open "+deviceFuse):
		return fmt.Errorf("%w: %s; run as root: chmod 666 %s", ErrPrerequisite, text, deviceFuse)
	case strings.Contains(text, "Operation not permitted"):
		return fmt.Errorf("%w: fusermount3 is not setuid root (%s); run: chmod u+s $(command -v fusermount3)", ErrPrerequisite, text)
	case strings.Contains(text, "too many FUSE filesystems"):
		return fmt.Errorf("%w: %s; unmount some or raise mount_max in /etc/fuse.conf", ErrPrerequisite, text)
	case text == "":
		return fmt.Errorf("%w: fusermount3 could not mount on %s: %w; run pantala doctor", ErrPrerequisite, dir, err)
	}
	return fmt.Errorf("%w: fusermount3 could not mount on %s: %s; run pantala doctor", ErrMountPoint, dir, text)
}

// receiveFd takes one descriptor out of a unix socket message (unix(7), SCM_RIGHTS). The sender has exited, so
// the message is there.
func receiveFd(socket *os.File) (int, error) {
	var data [8]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), data[:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return -1, fmt.Errorf("receive the connection from fusermount3: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err == nil && len(messages) == 1 {
		var fds []int
		if fds, err = unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, fmt.Errorf("fusermount3 sent %d control messages instead of a descriptor (%w)", len(messages), errors.Join(err, syscall.EPROTO))
}

// awaitInit reads the first request of a connection, which mount(2) has queued.
func awaitInit(ctx context.Context, fd int) ([]byte, error) {
	const limit = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	buf := make([]byte, requestSize)
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("the kernel did not start to speak on %s: %w", deviceFuse, err)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 50); err != nil && err != unix.EINTR {
			return nil, fmt.Errorf("poll %s: %w", deviceFuse, err)
		} else if n <= 0 {
			continue
		}
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT:
		case err != nil:
			return nil, fmt.Errorf("read the first request from %s: %w", deviceFuse, err)
		case n < inHeaderSize+16:
			return nil, fmt.Errorf("%w: the first request is %d bytes long", ErrPrerequisite, n)
		default:
			return bytes.Clone(buf[:n]), nil
		}
	}
}
