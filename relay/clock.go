package relay

import "time"

// steady is a clock that is told the time and never goes back, nor far forward at once: who sets the clock of a
// machine must not make everybody look late.
type steady struct {
	told time.Time
	now  time.Time
}

// maxLeap is the longest time that can pass between two events: both machines are asked several times a second while
// anything depends on it. What is longer is no time that has passed, but a clock that was set.
const maxLeap = 5 * time.Second

// tell takes over what time it is said to be.
func (c *steady) tell(at time.Time) {
	if c.now.IsZero() {
		c.told, c.now = at, at
		return
	}
	if d := at.Sub(c.told); d > 0 && d <= maxLeap {
		c.now = c.now.Add(d)
	}
	c.told = at
}
