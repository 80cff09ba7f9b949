package fs

import (
	"fmt"
	"syscall"
	"time"

	"github.com/pantala/pantala/blob"
)

// The keeper looks after parked reads. It sleeps while none is parked.
const (
	// keeperTick bounds how long a reader that ignored one signal and is then killed lingers, and how long
	// umount(8) waits for a read whose reader is gone.
	keeperTick = 100 * time.Millisecond
	// orphanWait is how long a read may wait after the mount has left the mount table: files that were open at
	// a lazy unmount go on being served, but umount must not wait for readahead that nobody waits for.
	orphanWait = 5 * time.Second
)

// keep runs until the connection is dead.
func (m *Mounted) keep() {
	var gaveUp orphan
	tick := time.NewTicker(keeperTick)
	defer tick.Stop()
	for {
		select {
		case <-m.dead:
			return
		case <-m.nudge:
		}
		for m.lot.len() > 0 {
			m.sweep(time.Now(), &gaveUp)
			select {
			case <-m.dead:
				return
			case <-tick.C:
			case <-m.nudge:
			}
		}
	}
}

// wakeKeeper makes the keeper look at the lot. It never blocks.
func (m *Mounted) wakeKeeper() {
	select {
	case m.nudge <- struct{}{}:
	default:
	}
}

// orphan is the last read that was given up after an unmount. When readahead fails, the kernel asks at once for
// the single page that somebody wants of it, which must not wait as long again.
type orphan struct {
	f        *leaf
	off, end int64
	at       time.Time
}

func (o orphan) covers(p *parked, now time.Time) bool {
	return now.Sub(o.at) < time.Second && p.f == o.f && p.off >= o.off && p.off < o.end
}

// sweep gives up reads that nobody waits for: those whose reader was killed after an earlier, harmless signal,
// and those that would keep an unmounted file system from going away.
func (m *Mounted) sweep(now time.Time, gaveUp *orphan) {
	wait := time.Duration(-1)
	if m.table.gone() {
		wait = orphanWait
		if m.leaving.Load() {
			wait = 0
		}
	}
	for _, p := range m.lot.all() {
		if p.interrupted.Load() {
			m.giveUpKilled(p)
		}
		if wait >= 0 && (now.Sub(p.since) >= wait || gaveUp.covers(p, now)) && p.f.blob.Cancel(p) {
			*gaveUp = orphan{p.f, p.off, p.off + int64(p.n), now}
			m.failRead(p.f, p.fd, p.unique, p.off, p.n, fmt.Errorf("%w: %s was unmounted", blob.ErrClosed, m.dir))
			p.done()
		}
		p.release()
	}
}

// drain gives up every parked read of a dead connection and waits until no goroutine is about to write to its
// file descriptor. It reports false when somebody still might after a bound: then the descriptor must stay open.
func (m *Mounted) drain() bool {
	deadline := time.Now().Add(10 * time.Second)
	for {
		ps := m.lot.all()
		for _, p := range ps {
			if p.f.blob.Cancel(p) {
				p.fail(syscall.ENODEV)
			}
			p.release()
		}
		if m.lot.len() == 0 {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond) // Ready is running for those that are left: it takes microseconds
	}
}
