package fs

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The part of the FUSE protocol that we speak ourselves; everything else is go-fuse's (proto.go). Layouts are
// those of include/uapi/linux/fuse.h, protocol 7.40; integers are in the byte order of the host.

// host is the byte order of the kernel we talk to.
var host = binary.NativeEndian

// Opcodes that do not go through go-fuse.
const (
	opLookup      = 1
	opForget      = 2
	opRead        = 15
	opInit        = 26
	opInterrupt   = 36
	opBmap        = 37
	opPoll        = 40
	opBatchForget = 42
	opLseek       = 46
	opStatx       = 52
)

const (
	inHeaderSize  = 40 // struct fuse_in_header
	readInSize    = 40 // struct fuse_read_in
	outHeaderSize = 16 // struct fuse_out_header
)

// maxRead is the largest READ and READDIR, in bytes: 256 pages, the kernel's default fs.fuse.max_pages_limit.
const maxRead = 1 << 20

// requestSize is the buffer that the kernel insists on before it hands out a request: max_write plus the
// headers of a WRITE (fuse_dev_do_read), rounded up to pages. Only the first page is ever touched, because a
// read-only mount gets no WRITE, so the rest costs address space and no memory.
const requestSize = maxRead + 4096

// header is a view of the request header.
type header []byte

func (h header) opcode() uint32 { return host.Uint32(h[4:]) }
func (h header) unique() uint64 { return host.Uint64(h[8:]) }
func (h header) node() uint64   { return host.Uint64(h[16:]) }
func (h header) tid() uint32    { return host.Uint32(h[32:]) }

// readOffset and readSize are fields of struct fuse_read_in.
func (h header) readOffset() uint64 { return host.Uint64(h[inHeaderSize+8:]) }
func (h header) readSize() uint32   { return host.Uint32(h[inHeaderSize+16:]) }

// interrupted is the field of struct fuse_interrupt_in: the unique number of the request to interrupt.
func (h header) interrupted() uint64 { return host.Uint64(h[inHeaderSize:]) }

// putOutHeader writes struct fuse_out_header for an answer with n bytes of payload, or for an error.
func putOutHeader(b []byte, unique uint64, n int, errno syscall.Errno) {
	host.PutUint32(b[0:], uint32(outHeaderSize+n))
	host.PutUint32(b[4:], uint32(-int32(errno)))
	host.PutUint64(b[8:], unique)
}

// reply writes a bare header: an empty success or an error. ENOENT means that the kernel no longer waits for
// this request and ENODEV that the connection is gone; neither is of interest to anybody.
func reply(fd int, unique uint64, errno syscall.Errno) {
	var b [outHeaderSize]byte
	putOutHeader(b[:], unique, 0, errno)
	send(fd, b[:])
}

// send writes one message to the kernel.
func send(fd int, b []byte) error {
	for {
		_, err := unix.Write(fd, b)
		if err != unix.EINTR {
			return err
		}
	}
}

// notifyInvalEntry makes the kernel forget that name in directory node parent leads to an inode
// (FUSE_NOTIFY_INVAL_ENTRY, code 3). It waits for the lock of that directory, so no loop may call it.
func notifyInvalEntry(fd int, parent uint64, name string) error {
	const code, fixed = 3, outHeaderSize + 16
	b := make([]byte, fixed+len(name)+1)
	host.PutUint32(b[0:], uint32(len(b)))
	host.PutUint32(b[4:], code)
	host.PutUint64(b[16:], parent)
	host.PutUint32(b[24:], uint32(len(name)))
	copy(b[fixed:], name)
	return send(fd, b)
}

// ioctls of /dev/fuse.
const (
	backingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN, _IOW(229, 1, struct fuse_backing_map)
	backingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE, _IOW(229, 2, uint32_t)
)

// registerBacking tells the kernel that opens of this connection may be passed through to file, and returns
// the id by which OPEN answers name it. It needs CAP_SYS_ADMIN.
func registerBacking(fd int, file uintptr) (int32, error) {
	m := struct {
		fd      int32
		flags   uint32
		padding uint64
	}{fd: int32(file)}
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), backingOpen, uintptr(unsafe.Pointer(&m)))
	if errno != 0 {
		return 0, errno
	}
	return int32(id), nil
}

// forgetBacking gives a backing id back. Files that are open keep what it stood for.
func forgetBacking(fd int, id int32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), backingClose, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return errno
	}
	return nil
}
