package swarm

import (
	"github.com/pantala/pantala/relay"
)

// SetAssignment replaces what the tracker wants this node to take from whom. It never blocks for long.
func (t *Torrent) SetAssignment(a relay.Assignment) { t.post(assigned{a}) }

// Uplink is how many bytes per second this torrent could send while more was asked of it than it could send; 0:
// that has not happened for long enough to be measured.
func (t *Torrent) Uplink() int64 { return t.uplink.Load() }

// assigned is a new assignment of the tracker.
type assigned struct{ a relay.Assignment }

func (e assigned) apply(l *loop) { l.assignment = e.a }
