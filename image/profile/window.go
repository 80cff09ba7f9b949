package profile

import "time"

// How much is on its way at a time. Too little, and a line with a long round trip stands idle; too much, and who reads
// something else waits behind it. So the window follows what the line holds, the product of the rate at which bytes come
// and the shortest time that one batch takes, and a quarter more, to find out when the line has become faster, and one
// batch, so that one comes while another is asked for. What it holds is found by doubling, as long as that makes it
// faster, as BBR does (Cardwell et al., 2016).

const (
	firstWindow = 512 << 10              // bytes
	leastWindow = 256 << 10              // two batches
	mostWindow  = 16 << 20               // 1 Gbit/s over 128 ms; as much as image/device lets come at a time
	hit         = 200 * time.Microsecond // what takes less was there already, and says nothing about the line
	roundsKept  = 4
	roundLeast  = time.Millisecond
	leastKept   = 10 * time.Second // the shortest time is forgotten: routes change
)

// window is the decision; who fetches tells it what happens. It belongs to one goroutine at a time.
type window struct {
	size    int64 // bytes that may be on their way
	settled bool  // doubling has ended
	flat    int   // rounds in a row that were not much faster than the best before

	began  time.Time // of this round
	came   int64     // bytes, in this round
	due    int64     // with which it ends
	rates  [roundsKept]float64
	rounds int
	batch  int64         // bytes of the largest
	least  time.Duration // that a batch took
	since  time.Time     // of least
}

func newWindow(now time.Time) window {
	return window{size: firstWindow, due: firstWindow, began: now}
}

// done says that a batch has come, which took so long.
func (w *window) done(now time.Time, bytes int64, took time.Duration) {
	if took < hit {
		return
	}
	if w.least == 0 || took < w.least || now.Sub(w.since) > leastKept {
		w.least, w.since = took, now
	}
	w.came += bytes
	w.batch = max(w.batch, bytes)
	passed := now.Sub(w.began)
	if w.came < w.due || passed < roundLeast {
		return
	}
	rate, best := float64(w.came)/passed.Seconds(), 0.0
	for _, r := range w.rates {
		best = max(best, r)
	}
	w.rates[w.rounds%roundsKept] = rate
	w.rounds++
	if rate > 1.25*best {
		w.flat = 0
	} else {
		w.flat++ // what comes in this round may have been asked for in the one before the last
	}
	best = max(best, rate)
	holds := best * w.least.Seconds()
	if w.settled = w.settled || w.flat == 2; !w.settled {
		w.size = min(2*w.size, max(int64(2*holds), w.size), mostWindow)
	} else {
		w.size = min(max(int64(1.25*holds)+max(w.batch, batchBytes), leastWindow), mostWindow)
	}
	w.began, w.came, w.due = now, 0, w.size
}

// idle says that nothing was asked for until now, for a reason of ours: the round begins anew.
func (w *window) idle(now time.Time) { w.began, w.came = now, 0 }
