package swarm

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
)

// Stats is what a torrent moved since it was added, in bytes of payload.
type Stats struct {
	Downloaded, Uploaded int64
	Saved                int64 // of Uploaded: what compression kept off the wire
}

// PeerInfo describes one peer for people.
type PeerInfo struct {
	Addr       netip.AddrPort // where the connection leads; for one it opened, not where it listens
	Listens    netip.AddrPort // where others can connect to it, as far as is known
	ID         [20]byte
	Client     string // as it names itself (BEP 10), "" when it did not
	Downloaded int64  // bytes of payload from it
	Uploaded   int64  // bytes of payload to it
	Rate       int64  // bytes per second from it, while something was asked
	Pieces     uint32 // how many it has
	Choking    bool   // it does not serve us
	Interested bool   // it wants something of ours
	Inbound    bool   // it opened the connection
	Banned     bool   // it sent bytes or hashes that did not verify; no longer connected
}

// meter measures how fast and how promptly a peer delivers. It is not safe for concurrent use.
type meter struct {
	lat    [64]time.Duration // request to block, the last ones
	n      int               // samples in lat, ever
	rtt    time.Duration     // the shortest seen, aged by tick; 0: none
	rate   float64           // bytes per second, exponentially weighted
	bytes  int64             // at the last tick
	blocks int               // that came besides those in n, ever
}

// rttFloor is the least round trip that the queue depth is computed from. Loopback and datacenter round
// trips (50–200 µs) are shorter than the pauses of the two schedulers between here and the other process; a
// pipe that must not run dry has to cover those, about 2 ms on a loaded two-core machine.
const rttFloor = 2 * time.Millisecond

// received notes that a block came d after it was asked for.
func (m *meter) received(d time.Duration) {
	m.lat[m.n%len(m.lat)] = d
	m.n++
	if m.rtt == 0 || d < m.rtt {
		m.rtt = d
	}
}

// receivedRun notes that n blocks of a run came d after it was asked for; wait: they may not have been there
// then.
func (m *meter) receivedRun(d time.Duration, n int, wait bool) {
	if !wait {
		m.received(d)
		n--
	}
	m.blocks += n
}

// tick notes that total bytes have come so far, the last of them within elapsed, and that inflight blocks
// are still to come. What comes while little is asked says nothing about how fast the peer could be, unless
// it is faster than what is known.
func (m *meter) tick(total int64, elapsed time.Duration, inflight int) {
	sample := float64(total-m.bytes) / elapsed.Seconds()
	m.bytes = total
	switch {
	case m.rate == 0:
		m.rate = sample
	case sample > m.rate || inflight >= blob.MaxBuffer:
		m.rate += 0.3 * (sample - m.rate)
	}
	m.rtt += m.rtt / 1024 // forgets a shortest round trip over minutes, as paths change
}

// p95 is the 95th percentile of the last latencies; 0 when there are none.
func (m *meter) p95() time.Duration {
	n := min(m.n, len(m.lat))
	if n == 0 {
		return 0
	}
	s := m.lat
	slices.Sort(s[:n])
	return s[n*95/100]
}

// depth is how many blocks to keep asked of the peer: twice what the path holds (rate × round trip), so
// that it never runs dry while answers travel, within 64..512 blocks (1..8 MiB). A peer that is new gets 16,
// and one more for each block it delivers, which doubles in every round trip until it is measured.
func (m *meter) depth() int {
	const lo, hi = 64, 512
	d := 2 * m.rate * max(m.rtt, rttFloor).Seconds() / blockSize
	return min(blob.MaxBuffer+m.n+m.blocks, int(max(lo, min(hi, d))))
}
