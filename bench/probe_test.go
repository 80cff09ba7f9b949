package bench

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// prober measures round trips of small packets between the hosts of a race, through the same queues as the blocks:
// there is an echo on every host that sends blocks, and on one that sends next to nothing. What a round trip to that
// one takes is what two cores and a dozen busy processes make of it.
type prober struct {
	w     *e2etest.World
	began time.Time
	stop  chan struct{}
	conns []*net.UDPConn
	wg    sync.WaitGroup

	mu    sync.Mutex
	trips map[netip.Addr]map[string]samples // by reader and host, in ms
}

const (
	probePort = 7
	// probeEvery is the pause between two packets of a reader: 64 bytes in 20 ms are a thousandth of the link.
	probeEvery = 20 * time.Millisecond
)

// probe starts measuring from each of the readers to all hosts in turn, until its reads are over. end stops it.
func probe(w *e2etest.World, readers, hosts []*e2etest.Host, over func(reader int) bool) *prober {
	w.T.Helper()
	p := &prober{w: w, began: time.Now(), stop: make(chan struct{}), trips: map[netip.Addr]map[string]samples{}}
	for _, h := range hosts {
		c := p.open(h, probePort)
		p.receive(c, func(packet []byte, from netip.AddrPort) { c.WriteToUDPAddrPort(packet, from) })
	}
	for id, r := range readers {
		c := p.open(r, 0)
		trips := map[string]samples{}
		p.trips[netip.MustParseAddr(r.IP)] = trips
		p.receive(c, func(packet []byte, from netip.AddrPort) {
			if len(packet) < 8 {
				return
			}
			took := time.Since(p.began) - time.Duration(binary.BigEndian.Uint64(packet))
			p.mu.Lock()
			defer p.mu.Unlock()
			ip := from.Addr().Unmap().String()
			trips[ip] = append(trips[ip], float64(took.Microseconds())/1e3)
		})
		p.wg.Go(func() {
			tick := time.NewTicker(probeEvery)
			defer tick.Stop()
			buf := make([]byte, 64)
			for i := 0; !over(id); i++ {
				select {
				case <-tick.C:
				case <-p.stop:
					return
				}
				binary.BigEndian.PutUint64(buf, uint64(time.Since(p.began)))
				c.WriteToUDPAddrPort(buf, netip.AddrPortFrom(netip.MustParseAddr(hosts[i%len(hosts)].IP), probePort))
			}
		})
	}
	return p
}

// receive calls f for every packet, one at a time, until c is closed.
func (p *prober) receive(c *net.UDPConn, f func(packet []byte, from netip.AddrPort)) {
	p.wg.Go(func() {
		buf := make([]byte, 64)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			f(buf[:n], from)
		}
	})
}

func (p *prober) open(h *e2etest.Host, port int) (c *net.UDPConn) {
	p.w.T.Helper()
	err := h.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(h.IP), Port: port})
		return err
	})
	if err != nil {
		p.w.T.Fatalf("probe on %s: %v", h.IP, err)
	}
	p.conns = append(p.conns, c)
	return c
}

// end stops measuring.
func (p *prober) end() {
	close(p.stop)
	for _, c := range p.conns {
		c.Close()
	}
	p.wg.Wait()
}

// path is the median round trip of a reader, in ms, of all hosts by how much it has got from each. Called after end.
func (p *prober) path(reader *e2etest.Host, n *e2etest.Node) float64 {
	var s struct {
		Peers []struct {
			Addr       netip.AddrPort `json:"addr"`
			Downloaded float64        `json:"downloaded"`
		} `json:"peers"`
	}
	if out := n.Must("status", "-o", "json"); json.Unmarshal([]byte(out.Stdout), &s) != nil {
		p.w.T.Fatalf("status is not JSON: %v", out)
	}
	trips := p.trips[netip.MustParseAddr(reader.IP)]
	var sum, weight float64
	for _, peer := range s.Peers {
		if ms := trips[peer.Addr.Addr().Unmap().String()]; len(ms) > 0 {
			sum += peer.Downloaded * ms.median()
			weight += peer.Downloaded
		}
	}
	if weight == 0 {
		p.w.T.Fatalf("%s has got nothing from anybody that was probed", reader.IP)
	}
	return sum / weight
}

// at is a percentile of the round trips of a reader to one host, in ms.
func (p *prober) at(reader, host *e2etest.Host, percent int) float64 {
	return p.trips[netip.MustParseAddr(reader.IP)][host.IP].at(percent)
}
