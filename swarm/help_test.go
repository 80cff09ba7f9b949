package swarm

import (
	"testing"
	"time"
)

// TestLeftover: what an uplink lends is what it could send and does not.
func TestLeftover(t *testing.T) {
	const rate = 4_000_000
	tor := &Torrent{}
	o := &tor.leftover
	at := time.Unix(1000, 0)
	pass := func(d time.Duration, down, up float64) { // bytes per second
		for end := at.Add(d); at.Before(end); {
			const step = 25 * time.Millisecond
			at = at.Add(step)
			tor.down.Add(int64(down * step.Seconds()))
			tor.up.Add(int64(up * step.Seconds()))
			o.measure(tor, at)
		}
	}
	o.measure(tor, at)
	if o.bytes > 0 {
		t.Errorf("lends %.0f bytes before it knows anything", o.bytes)
	}
	pass(time.Second, rate, rate/2)
	if want := rate * spareTime.Seconds(); o.bytes < want-1 || o.bytes > want+1 {
		t.Errorf("receives twice what it sends, and lends %.0f bytes, not %.0f", o.bytes, want)
	}
	pass(time.Second, rate, rate)
	if o.bytes > 0 {
		t.Errorf("sends what it receives, and lends %.0f bytes", o.bytes)
	}
	// An uplink that was measured counts, whatever comes in.
	tor.uplink.Store(2 * rate)
	pass(time.Second, 0, rate)
	if o.bytes <= 0 {
		t.Error("half of the uplink is free, and nothing is lent")
	}
	// What was lent is not what it needs itself.
	tor.lent.Add(rate)
	tor.up.Add(rate)
	pass(time.Second, 0, 0)
	if o.sends > rate/100 {
		t.Errorf("sends %.0f bytes per second of its own, not 0", o.sends)
	}
}
