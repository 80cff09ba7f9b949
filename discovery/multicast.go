package discovery

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// link is one interface of this machine in one address family: a socket that receives what is sent to the group
// there, and one that sends.
type link struct {
	name  string
	six   bool
	group netip.AddrPort // with the interface as its zone for IPv6
	in    *net.UDPConn
	out   *net.UDPConn
}

func (l *link) key() string { return fmt.Sprintf("%s/%v", l.name, l.six) }

func (l *link) close() {
	l.in.Close()
	l.out.Close()
}

// openLink joins the group on one interface. The socket receives only what has come through it: Linux gives each
// packet to all sockets of a port otherwise, and a packet would be taken for one of every interface.
func openLink(ifi *net.Interface, six bool, src netip.Addr, port uint16) (l *link, err error) {
	l = &link{name: ifi.Name, six: six}
	group, network := netip.MustParseAddr(group4), "udp4"
	if six {
		group, network = netip.MustParseAddr(group6).WithZone(ifi.Name), "udp6"
	}
	l.group = netip.AddrPortFrom(group, port)
	if l.in, err = net.ListenMulticastUDP(network, ifi, net.UDPAddrFromAddrPort(l.group)); err != nil {
		return nil, err
	}
	if l.out, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0))); err != nil {
		l.in.Close()
		return nil, err
	}
	err = control(l.in, func(fd int) error {
		if six {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
	})
	if err == nil {
		// One hop: it is called local discovery. Other processes of this machine hear it too.
		err = control(l.out, func(fd int) error {
			if six {
				if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifi.Index); err != nil {
					return err
				}
				return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 1)
			}
			if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(ifi.Index)}); err != nil {
				return err
			}
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 1)
		})
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// control calls f with the descriptor of a socket.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// place is an interface and an address of it to send from.
type place struct {
	ifi *net.Interface
	src netip.Addr
}

// places are the interfaces to announce on for somebody who listens on addr, each with one address of each
// family. On a loopback address nobody else can connect, so only this machine is told; otherwise it is every
// interface that is up and can multicast and has the address, or, when all are listened on, any.
func places(listen netip.Addr) (all []place) {
	ifis, err := net.Interfaces()
	if err != nil {
		return nil
	}
	listen = listen.Unmap()
	for _, ifi := range ifis {
		loop := ifi.Flags&net.FlagLoopback != 0
		if ifi.Flags&net.FlagUp == 0 || loop != listen.IsLoopback() || !loop && ifi.Flags&net.FlagMulticast == 0 {
			continue
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			continue
		}
		var four, six netip.Addr
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, _ := netip.AddrFromSlice(n.IP)
			ip = ip.Unmap()
			switch {
			case !listen.IsUnspecified() && ip != listen.WithZone(""):
			case ip.Is4() && !four.IsValid():
				four = ip
			case ip.Is6() && !ip.IsLinkLocalUnicast() && !six.IsValid():
				// What others see is the address they connect to: a link-local one would need their zone.
				six = ip
			}
		}
		// An IPv4 socket, or one that is bound to one address, cannot be reached in the other family.
		for _, src := range []netip.Addr{four, six} {
			if src.IsValid() {
				all = append(all, place{&ifi, src})
			}
		}
	}
	return all
}
