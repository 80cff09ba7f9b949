package e2etest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Net is a network of its own: a bridge, and hosts that are plugged into it. All of it lives in network namespaces
// that have no name and no way out: each is held by a child that waits for the end of the test process, so that
// the kernel takes everything back however that ends.
type Net struct {
	w     *World
	pid   int // of the child that holds the namespace with the bridge
	hosts int
}

// Host is one machine of a [Net]: a network namespace with loopback and one Ethernet interface, eth0. Files and
// mounts are the test's own.
type Host struct {
	IP  string
	lan *Net
	pid int // of the child that holds the namespace
	n   int
}

// NeedNet is [Need] for making network namespaces, bridges, Ethernet pairs and traffic shapers.
func NeedNet(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	for _, p := range []string{"ip", "tc"} {
		NeedProgram(t, p, "apt-get install iproute2")
	}
	for _, p := range []string{"unshare", "nsenter"} {
		NeedProgram(t, p, "apt-get install util-linux")
	}
	out, err := exec.Command("unshare", "--net", "ip", "link", "add", "br0", "type", "bridge").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	Need(t, "network namespaces with a bridge", err, "give the container --cap-add SYS_ADMIN --cap-add NET_ADMIN, and load the modules bridge, veth and sch_tbf")
}

// Net makes a network without hosts.
func (w *World) Net() *Net {
	w.T.Helper()
	NeedNet(w.T)
	n := &Net{w: w, pid: w.namespace()}
	w.inside(n.pid, "ip", "link add br0 type bridge forward_delay 0", "link set br0 up")
	// A switch has no firewall: without this each packet passes the bridge's hooks for iptables, where they are loaded.
	exec.Command("nsenter", "--target", strconv.Itoa(n.pid), "--net", "sh", "-c",
		"for f in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 > $f; done").Run()
	return n
}

// namespace starts the child that holds a new network namespace, and returns its id.
func (w *World) namespace() int {
	w.T.Helper()
	in, out, err := os.Pipe() // cat ends at the end of the pipe: when the World, or the test process, ends
	if err != nil {
		w.T.Fatal(err)
	}
	p := w.Start(Command{Args: []string{"unshare", "--net", "cat"}, Stdin: in})
	in.Close()
	w.Defer(func() {
		out.Close()
		p.Wait(10 * time.Second)
	})
	own, _ := os.Readlink("/proc/self/ns/net")
	w.Until(10*time.Second, "a child has a network namespace of its own", func() bool {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID()))
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID()))
		return err == nil && ns != own && strings.TrimSpace(string(comm)) == "cat"
	})
	return p.PID()
}

// inside has ip or tc do a batch of commands in the namespace of a process.
func (w *World) inside(pid int, program string, lines ...string) {
	w.T.Helper()
	c := exec.Command("nsenter", "--target", strconv.Itoa(pid), "--net", program, "-batch", "-")
	c.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		w.T.Fatalf("%s: %s: %v\n%s", program, strings.Join(lines, "; "), err, out)
	}
}

// Host plugs a new machine into the network.
func (n *Net) Host() *Host {
	n.w.T.Helper()
	n.hosts++
	h := &Host{IP: address(n.hosts), lan: n, pid: n.w.namespace(), n: n.hosts}
	port := fmt.Sprintf("h%d", h.n)
	// The pair is made inside of the switch: nothing is ever seen in the namespace of the test.
	n.w.inside(n.pid, "ip",
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", port, h.pid),
		fmt.Sprintf("link set %s master br0 up", port))
	lines := []string{
		"link set lo up",
		"address add " + h.IP + "/16 broadcast 10.77.255.255 dev eth0",
		"link set eth0 address " + hardware(h.n) + " up",
		"route add 224.0.0.0/4 dev eth0", // local discovery (BEP 14) asks a group
	}
	for other := 1; other <= known; other++ {
		if other != h.n {
			lines = append(lines, fmt.Sprintf("neighbour replace %s lladdr %s dev eth0 nud permanent", address(other), hardware(other)))
		}
	}
	n.w.inside(h.pid, "ip", lines...)
	return h
}

// known is how many hosts of a network know each other without asking (ARP). All namespaces together share a table of
// 1024 neighbours (net.ipv4.neigh.default.gc_thresh3, arp(7)), which 33 hosts that talk to each other fill: from then
// on nobody can be reached any more. What never changes is not counted.
const known = 64

func address(host int) string { return fmt.Sprintf("10.77.%d.%d", host>>8, host&255) }

// hardware is a locally administered address.
func hardware(host int) string { return fmt.Sprintf("02:00:0a:4d:%02x:%02x", host>>8, host&255) }

// Start starts a child on the host.
func (h *Host) Start(c Command) *Process {
	h.lan.w.T.Helper()
	c.Host = h
	return h.lan.w.Start(c)
}

// Cap limits what the host sends, in tc's words ("40mbit"). The bucket of 32 KiB, 6.5 ms at 40 Mbit/s, is the
// shortest that a kernel of 250 ticks a second fills evenly; at gigabits it has to hold what such a tick sends, 500 kB
// at 1 Gbit/s. What exceeds 50 ms in the queue is dropped, as by a switch.
func (h *Host) Cap(rate string) {
	h.lan.w.T.Helper()
	burst := "32kb"
	if strings.HasSuffix(rate, "gbit") {
		burst = "512kb"
	}
	h.lan.w.inside(h.pid, "tc", "qdisc replace dev eth0 root tbf rate "+rate+" burst "+burst+" latency 50ms")
}

// Uncap has the host send without a limit again.
func (h *Host) Uncap() {
	h.lan.w.T.Helper()
	h.lan.w.inside(h.pid, "tc", "qdisc replace dev eth0 root pfifo_fast")
}

// Delay adds a one-way delay to what the switch sends to the host, such as "5ms", as half of a round trip.
func (h *Host) Delay(d string) {
	h.lan.w.T.Helper()
	h.lan.w.inside(h.lan.pid, "tc", fmt.Sprintf("qdisc replace dev h%d root netem delay %s limit 10000", h.n, d))
}

// Link takes the host off the network, or plugs it in again; nobody is told, as with a broken switch.
func (h *Host) Link(up bool) {
	h.lan.w.T.Helper()
	state := map[bool]string{true: "up", false: "down"}[up]
	h.lan.w.inside(h.lan.pid, "ip", fmt.Sprintf("link set h%d %s", h.n, state))
}

// Wire is what the host has sent and received so far through eth0, headers included as far as the kernel makes them:
// TCP hands the pair segments of up to 64 KiB with one header of 66 bytes each (generic segmentation offload). The
// shaper counts the headers of the packets that these would become on a real wire, 1514 bytes for 1448 of payload.
func (h *Host) Wire() (sent, received int64) {
	h.lan.w.T.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", h.pid))
	if err != nil {
		h.lan.w.T.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); strings.TrimSpace(name) == "eth0" && len(f) > 8 {
			received, _ = strconv.ParseInt(f[0], 10, 64) // proc_pid_net(5): 8 columns received, 8 sent
			sent, _ = strconv.ParseInt(f[8], 10, 64)
			return sent, received
		}
	}
	h.lan.w.T.Fatalf("host %s has lost eth0:\n%s", h.IP, b)
	return 0, 0
}

// Listening reports whether a process of the host listens on a TCP port, on whatever address.
func (h *Host) Listening(port int) bool {
	return h.socket("tcp", port, "0A") || h.socket("tcp6", port, "0A")
}

// Bound reports whether a process of the host receives on a UDP port.
func (h *Host) Bound(port int) bool {
	return h.socket("udp", port, "07") || h.socket("udp6", port, "07")
}

// socket looks for local port and state in /proc/PID/net/tcp and the like; 0A is LISTEN, 07 an unconnected socket
// of UDP.
func (h *Host) socket(proto string, port int, state string) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", h.pid, proto))
	want := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], want) && f[3] == state {
			return true
		}
	}
	return false
}

// command is args, run on the host.
func (h *Host) command(args []string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(h.pid), "--net", "--"}, args...)
}

// Do has f open sockets in the network of the host: they stay there wherever they are used. f must open them
// itself, not in a goroutine that it starts.
func (h *Host) Do(f func() error) error {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer own.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	failed := f()
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(failed, err) // the thread stays locked, so it ends with its goroutine
	}
	runtime.UnlockOSThread()
	return failed
}

// Listen opens a TCP port of the host.
func (h *Host) Listen(port int) (l net.Listener, err error) {
	err = h.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", h.IP, port))
		return err
	})
	return l, err
}

// Dial connects from the host to an address, which is no name.
func (h *Host) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// HTTP is a client that speaks from the host.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: h.Dial}}
}
