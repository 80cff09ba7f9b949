package registry

import (
	"sync"
	"time"
)

// distances are how far away registries are.
type distances struct {
	mu       sync.Mutex // innermost
	shortest map[string]time.Duration
}

// maxDistances bounds them; a machine speaks to a handful.
const maxDistances = 256

// note takes in how long a small document of a registry took.
func (d *distances) note(host string, took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shortest == nil || len(d.shortest) >= maxDistances {
		d.shortest = map[string]time.Duration{}
	}
	if old, ok := d.shortest[host]; !ok || took < old {
		d.shortest[host] = took
	}
}

// Distance is the shortest time in which the registry of an image, or a mirror in its place, has answered a question for
// a small document: one round trip and what the server needs, more while only the first one has been asked. 0: none was,
// by this process.
func (c *Client) Distance(ref Ref) time.Duration {
	c.far.mu.Lock()
	defer c.far.mu.Unlock()
	return c.far.shortest[ref.Host]
}
