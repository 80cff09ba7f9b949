package swarm

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// outflow measures how fast one connection takes what we send, and from that bounds how long an urgent block can
// wait behind bulk: by short data messages, and by little that waits unsent in the socket. Its writer owns it, but
// for busy.
type outflow struct {
	raw syscall.RawConn

	busy atomic.Int64 // since when there was always more to send, unix ns; 0: there is not

	rate   float64   // bytes per second while there was more to send; 0: not measured
	window time.Time // start of the measurement under way
	bytes  int64     // sent since
	unsent int       // bytes that may wait in the socket
	brief  bool      // bulk gives way: less is to wait there
}

const (
	// partTime is how long one data message of bulk, and as much again in the socket, should take at most: a
	// reader notices 20 ms less than a frame of a film.
	partTime = 20 * time.Millisecond
	// flowWindow is how long is measured. It is longer than a timer tick and a scheduler's time slice, and much
	// shorter than the time in which links change.
	flowWindow = 50 * time.Millisecond
	// firstPart is the length of the first data messages, in blocks, and firstUnsent what may wait in the socket
	// then: at 40 Mbit/s 13 and 26 ms, and at 10 Gbit/s still enough to keep the other side busy.
	firstPart   = 4
	firstUnsent = 128 << 10
	maxUnsent   = 1 << 20
	minUnsent   = 32 << 10
)

func newOutflow(c *net.TCPConn) (*outflow, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	f := &outflow{raw: raw}
	if addrOf(c.RemoteAddr()).Addr().IsLoopback() {
		f.unpaced()
	}
	f.bound(firstUnsent)
	return f, nil
}

// unpaced takes a connection within this machine from BBR, which is the default of some, to a congestion control
// that does not pace: there is no queue on the way to spare, and pacing was a seventh of the processor time of
// sending over loopback (0.40 to 0.34 CPU seconds per GiB).
func (f *outflow) unpaced() {
	// Failing only costs time.
	_ = f.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
}

// bound sets how many bytes may wait unsent in the socket before it takes no more (TCP_NOTSENT_LOWAT, tcp(7)).
func (f *outflow) bound(n int) {
	f.unsent = n
	// Failing only costs latency, and the connection is gone then.
	_ = f.raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n)
	})
}

// part is how many blocks of bulk one data message should carry.
func (f *outflow) part() uint32 {
	if f.rate == 0 {
		return firstPart
	}
	return uint32(max(1, min(blob.MaxBuffer, f.rate*partTime.Seconds()/blockSize)))
}

// sent notes that n bytes were taken.
func (f *outflow) sent(n int) {
	at := now()
	if f.busy.Load() == 0 {
		f.busy.Store(at.UnixNano())
		f.window, f.bytes = at, 0
		return
	}
	f.bytes += int64(n)
	took := at.Sub(f.window)
	if took < flowWindow {
		return
	}
	sample := float64(f.bytes) / took.Seconds()
	f.window, f.bytes = at, 0
	if f.rate == 0 {
		f.rate = sample
	}
	f.rate += 0.3 * (sample - f.rate)
	want := int(max(minUnsent, min(maxUnsent, f.rate*partTime.Seconds())))
	if f.brief {
		want = max(minUnsent, want/4)
	}
	if want >= 2*f.unsent || want <= f.unsent/2 {
		f.bound(want)
	}
}

// idle notes that there is nothing to send.
func (f *outflow) idle() {
	if f.busy.Load() != 0 {
		f.busy.Store(0)
	}
}

// uplink measures what a torrent can send. The loop owns it.
type uplink struct {
	start time.Time // of the measurement under way; zero: none is
	bytes int64     // sent before it
}

// uplinkWindow is how long there must have been more to send: see [Torrent.Uplink].
const uplinkWindow = 250 * time.Millisecond

// measureUplink looks whether everybody we send to could have taken more, at the time given, and always could
// since the measurement began. A single one that could may just be slow itself.
func (l *loop) measureUplink(at time.Time) {
	u := &l.upload
	backlogged, satisfied := false, false
	for p := range l.peers {
		switch busy := p.flow.busy.Load(); {
		case busy != 0 && at.UnixNano()-busy >= int64(tickBusy):
			backlogged = true
		case busy == 0 && at.Sub(time.Unix(0, p.lastReq.Load())) < uplinkWindow:
			satisfied = true
		}
	}
	if !backlogged || satisfied {
		u.start = time.Time{}
		return
	}
	total := l.t.up.Load()
	if u.start.IsZero() {
		u.start, u.bytes = at, total
		return
	}
	took := at.Sub(u.start)
	if took < uplinkWindow {
		return
	}
	sample := float64(total-u.bytes) / took.Seconds()
	u.start, u.bytes = at, total
	old := float64(l.t.uplink.Load())
	if old > 0 && sample < old {
		sample = old + 0.2*(sample-old)
	}
	l.t.uplink.Store(int64(max(sample, 1)))
}
