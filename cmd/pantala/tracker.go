package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/profile"
	"github.com/pantala/pantala/tracker"
)

// defaultTracker is where a tracker listens when nobody says where: nothing of ours listens beyond this
// machine unasked.
const defaultTracker = "127.0.0.1:7700"

const trackerLong = `Run a tracker in the foreground. Nodes that name it find each other, and divide what they must read
from the origin among themselves. Any BitTorrent client may announce to it, too,
over HTTP and UDP.

It keeps its state in memory: after a restart, nodes tell it again what they have. Reads go on while
it is away.

For images it also keeps which files nodes say are the indexes of layers, and in which order an image
is read when it starts, merged from what nodes have seen: at most 128 MiB, the least recent go first.

Several trackers: give all nodes the same list (--tracker A,B, or srv:_pantala._tcp.example.com), and
each swarm meets at one of them, and at another while that is away. With --state redis://… (Redis 6.2
or Valkey) they also share what they know, so that nodes of one swarm find each other, and read
everything once, whichever tracker they reach. When that store is away they go on from memory, and
say so in the log and in /stats. Whoever can list processes sees its password.`

const trackerExample = `  pantala tracker --listen 10.0.0.1:7700
  pantala tracker --listen 10.0.0.1:7700 --state redis://10.0.0.9:6379/0
  pantala mount --tracker http://10.0.0.1:7700/announce --listen 10.0.0.2:6881 https://host/model.bin /mnt/model`

func (a *app) trackerCommand() *cobra.Command {
	var interval, lease time.Duration
	var peers int
	var udp, state, blocklist string
	c := &cobra.Command{
		Use:     "tracker",
		Short:   "Run a tracker in the foreground",
		Long:    trackerLong,
		Example: trackerExample,
		GroupID: "run",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			if conf.From("listen") == "" {
				conf.Listen = defaultTracker
			}
			if interval <= 0 || lease <= 0 {
				return usagef("--interval and --lease must be longer than zero")
			}
			if peers <= 0 {
				return usagef("--max-peers must be more than zero")
			}
			o := tracker.ServerOptions{Interval: interval, LeaseFor: lease, MaxPeers: peers, Log: a.logger(a.stderr, conf.LogLevel), Merge: profile.MergeBytes}
			if state != "" && state != "memory" {
				if o.State, err = tracker.ParseStateURL(state); err != nil {
					return usagef("--state: %w", err)
				}
			}
			return a.track(c.Context(), conf.Listen, udp, blocklist, o)
		},
	}
	c.Flags().DurationVar(&interval, "interval", 30*time.Second, "how often peers announce themselves")
	c.Flags().DurationVar(&lease, "lease", 2*time.Second, "how long a node may stand still with what it reads from the origin for others")
	c.Flags().StringVar(&udp, "udp", "", "where to answer BitTorrent clients over UDP: HOST:PORT, or off (default as --listen)")
	c.Flags().StringVar(&state, "state", "memory", "where trackers share what they know: redis://[user:password@]host:port/0, rediss:// for TLS, or memory")
	c.Flags().StringVar(&blocklist, "blocklist", "", "file of what is refused, one a line: address or range, info hash, or peer:PREFIX of peer ids; read again when it changes, and on SIGHUP")
	c.Flags().IntVar(&peers, "max-peers", 2<<20, "how many peers that are not ours are kept, about 100 bytes each; more are refused")
	return c
}

// track serves the tracker until a signal comes, and prints its URL. udp is an address, or "off".
func (a *app) track(ctx context.Context, listen, udp, blocklist string, o tracker.ServerOptions) error {
	var list *tracker.Blocklist
	if blocklist != "" {
		var err error
		if list, err = readBlocklist(blocklist); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return control.Local(fmt.Errorf("tracker: %w: use another --listen address", err))
	}
	var c *net.UDPConn
	if udp != "off" {
		if udp == "" {
			udp = l.Addr().String()
		}
		if c, err = listenUDP(udp); err != nil {
			l.Close()
			return control.Local(fmt.Errorf("tracker: %w: use another --udp address, or --udp off", err))
		}
	}
	t := tracker.NewServer(o)
	t.Block(list)
	var watch sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer watch.Wait()
	defer cancel()
	if blocklist != "" {
		a.reloads.Store(true)
		watch.Go(func() { watchBlocklist(ctx, blocklist, t, o.Log) })
	}
	ended := make(chan error, 2)
	var doors sync.WaitGroup
	doors.Go(func() { ended <- t.Serve(l) })
	fmt.Fprintln(a.stdout, announceURL("http", l.Addr()))
	if c != nil {
		at := c.LocalAddr()
		doors.Go(func() { ended <- t.ServeUDP(c) })
		fmt.Fprintln(a.stdout, announceURL("udp", at))
	}
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	t.Close() // answers the long polls, and ends both doors
	if doors.Wait(); err != nil {
		return control.Local(fmt.Errorf("tracker: %w", err))
	}
	return nil
}

// listenUDP opens a socket on HOST:PORT.
func listenUDP(at string) (*net.UDPConn, error) {
	c, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// announceURL is what --tracker takes. A tracker that listens everywhere is named by an address of this
// machine that others are likely to reach.
func announceURL(scheme string, a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return scheme + "://" + a.String() + "/announce"
	}
	host := at.Addr().Unmap()
	if host.IsUnspecified() {
		host = outward()
	}
	return scheme + "://" + netip.AddrPortFrom(host, at.Port()).String() + "/announce"
}

// outward is the first global unicast address of this machine, else loopback.
func outward() netip.Addr {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() && p.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
