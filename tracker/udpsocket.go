package tracker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// udpBatch is how many packets are taken in with one system call, and answered with another one. A batch is as long as
// what has come in while the one before was answered: few when there is little to do, 64 in a storm.
const udpBatch = 64

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte // the struct is aligned to 8
}

// udpSocket receives and sends in batches. Its memory is allocated once: the kernel is given pointers to it.
type udpSocket struct {
	file    *os.File
	fd      int
	pktinfo bool // it hears on all addresses, and must answer from the one that was asked
	in, out [udpBatch]mmsghdr
	inIO    [udpBatch]unix.Iovec
	outIO   [udpBatch]unix.Iovec
	names   [udpBatch]unix.RawSockaddrInet6 // also of IPv4
	control [udpBatch][64]byte
	inBuf   [udpBatch][maxRequestUDP]byte
	outBuf  [udpBatch][maxReplyUDP]byte
}

// newUDPSocket takes c over.
func newUDPSocket(c *net.UDPConn) (*udpSocket, error) {
	file, err := c.File() // a duplicate
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	if err2 := c.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return nil, err
	}
	// Fd makes it blocking. A thread that waits in the kernel is woken by the packet itself; the poller of the runtime
	// would be woken, ask what has come, wake a goroutine, which then reads: twice the time per announce when there
	// is little to do.
	u := &udpSocket{file: file, fd: int(file.Fd()), pktinfo: at.Addr().IsUnspecified()}
	if u.pktinfo {
		if at.Addr().Is4() {
			err = unix.SetsockoptInt(u.fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			err = unix.SetsockoptInt(u.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
		if err != nil {
			file.Close()
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	for i := range u.in {
		u.inIO[i].Base = &u.inBuf[i][0]
		u.inIO[i].SetLen(maxRequestUDP)
		u.in[i].hdr.Name = (*byte)(unsafe.Pointer(&u.names[i]))
		u.in[i].hdr.Iov = &u.inIO[i]
		u.in[i].hdr.SetIovlen(1)
		u.out[i].hdr.Iov = &u.outIO[i]
		u.out[i].hdr.SetIovlen(1)
	}
	return u, nil
}

// receive waits for packets and returns how many there are.
func (u *udpSocket) receive() (int, error) {
	for i := range u.in {
		h := &u.in[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		if u.pktinfo {
			h.Control = &u.control[i][0]
			h.SetControllen(len(u.control[i]))
		}
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(u.fd), uintptr(unsafe.Pointer(&u.in[0])), udpBatch, unix.MSG_WAITFORONE, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR, unix.ECONNREFUSED: // the latter is news of an answer that nobody wanted
		default:
			return 0, os.NewSyscallError("recvmmsg", errno)
		}
	}
}

// from is the address of the sender of packet i; ok is false for what has none.
func (u *udpSocket) from(i int) (ip [16]byte, ok bool) {
	n := &u.names[i]
	switch n.Family {
	case unix.AF_INET:
		ip[10], ip[11] = 255, 255
		copy(ip[12:], (*unix.RawSockaddrInet4)(unsafe.Pointer(n)).Addr[:])
		return ip, true
	case unix.AF_INET6:
		return n.Addr, true
	}
	return ip, false
}

// reply makes b, which lies in outBuf[k], the k-th packet to be sent: to the sender of packet i.
func (u *udpSocket) reply(k, i int, b []byte) {
	o, q := &u.out[k].hdr, &u.in[i].hdr
	u.outIO[k].Base = &b[0]
	u.outIO[k].SetLen(len(b))
	o.Name, o.Namelen = q.Name, q.Namelen
	o.Control, o.Controllen = nil, 0
	if !u.pktinfo {
		return
	}
	// in_pktinfo is ifindex | spec_dst | addr, in6_pktinfo is addr | ifindex: sent back without the interface, it is
	// the address to send from (ip(7), ipv6(7)).
	const body = unix.SizeofCmsghdr
	c := u.control[i][:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
	switch {
	case q.Controllen < body:
		return
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO:
		clear(c[body : body+4])
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO:
		clear(c[body+16 : body+20])
	default:
		return
	}
	o.Control = &c[0]
	o.SetControllen(int(unix.CmsgSpace(int(h.Len) - body)))
}

// send sends the first n replies. What the kernel does not take is dropped, as the network may: the client asks again.
func (u *udpSocket) send(n int) {
	for at := 0; at < n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(u.fd), uintptr(unsafe.Pointer(&u.out[at])), uintptr(n-at), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			at++ // the first one is to blame
		default:
			at += int(sent)
		}
	}
}

// ServeUDP answers the exchange of BEP 15 on c, which it takes over, until Close; then it returns nil. It may be
// called for several sockets.
func (s *Server) ServeUDP(c *net.UDPConn) error {
	u, err := newUDPSocket(c)
	if err != nil {
		return fmt.Errorf("%w: tracker: UDP: %v", blob.ErrUnavailable, err)
	}
	defer runtime.KeepAlive(u)
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() { // waited for below
		defer close(watched)
		select {
		case <-s.closing:
			// Not connected, so it is told that it cannot be shut down; its receivers are woken all the same
			// (inet_shutdown in net/ipv4/af_inet.c).
			_ = unix.Shutdown(u.fd, unix.SHUT_RDWR)
		case <-done:
		}
	}()
	err = s.answerUDP(u)
	close(done)
	<-watched
	u.file.Close()
	select {
	case <-s.closing:
		return nil
	default:
	}
	return fmt.Errorf("%w: tracker: UDP: %v", blob.ErrUnavailable, err)
}

func (s *Server) answerUDP(u *udpSocket) error {
	d := &udpDoor{s: s, ids: newConnIDs(&s.connKey, s.began)}
	for {
		n, err := u.receive()
		select {
		case <-s.closing:
			return nil
		default:
		}
		if err != nil {
			if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) {
				time.Sleep(time.Millisecond) // the kernel is short of memory: it will not be for long
				continue
			}
			return err
		}
		now := time.Now()
		k := 0
		for i := range n {
			ip, ok := u.from(i)
			if !ok {
				continue
			}
			b := d.answer(u.outBuf[k][:0], u.inBuf[i][:u.in[i].len], &ip, now)
			if len(b) > 0 {
				u.reply(k, i, b)
				k++
			}
		}
		u.send(k)
	}
}
