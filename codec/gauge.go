package codec

const (
	// worth is how much shorter input must get for compressing it to be worth it: what is saved on the wire must
	// pay for the work at both ends.
	worth = 0.9
	// firstRest and maxRest bound how many inputs pass as they are after one that did not shrink, before another is
	// tried. Of data that is compressed already, as most that travels is, one in 256 is tried.
	firstRest = 4
	maxRest   = 256
)

// Gauge decides whether to try to compress, by how the last tries went. Its zero value tries at once.
type Gauge struct {
	rest, left int
}

// Try reports whether the next input should be tried; it counts as passed as it is if not.
func (g *Gauge) Try() bool {
	if g.left > 0 {
		g.left--
		return false
	}
	return true
}

// Tried notes how a try went and reports whether it was worth it.
func (g *Gauge) Tried(before, after int) bool {
	if float64(after) <= worth*float64(before) {
		g.rest = 0
		return true
	}
	g.rest = min(maxRest, max(firstRest, 2*g.rest))
	g.left = g.rest
	return false
}
