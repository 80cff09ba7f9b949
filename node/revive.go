package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/origin"
)

// An origin that was away when a cached version was mounted is asked again after reviveFirst, then at twice
// the distance each time, up to reviveMost: a machine that boots without its network has its bytes a moment
// after the network is there, and an origin that is gone for good costs a request a minute.
const (
	reviveFirst = time.Second
	reviveMost  = time.Minute
)

// lateOrigin is the origin of a blob that was opened without one. It has nothing until set is called.
type lateOrigin struct{ object atomic.Pointer[origin.Object] }

var _ fetch.Origin = (*lateOrigin)(nil)

// Has implements blob.Source.
func (l *lateOrigin) Has(r blob.Run) bool {
	o := l.object.Load()
	return o != nil && o.Has(r)
}

// Fetch implements blob.Source.
func (l *lateOrigin) Fetch(ctx context.Context, r blob.Run, into blob.Sink) error {
	if o := l.object.Load(); o != nil {
		return o.Fetch(ctx, r, into)
	}
	return errAway
}

// Ranges implements fetch.Origin.
func (l *lateOrigin) Ranges() bool {
	o := l.object.Load()
	return o == nil || o.Ranges()
}

// Stream implements fetch.Origin.
func (l *lateOrigin) Stream(ctx context.Context, w func([]byte) error) error {
	if o := l.object.Load(); o != nil {
		return o.Stream(ctx, w)
	}
	return errAway
}

var errAway = fmt.Errorf("%w: the origin has not answered since the blob was mounted", blob.ErrUnavailable)

// revive asks the origin of source until it answers with the same object, then gives it to l and calls wake.
// When it answers with another one, the cached version stays without an origin: never a mix of two.
func (n *Node) revive(ctx context.Context, l *lateOrigin, id blob.ID, source string, o control.Options, wake func()) {
	for wait := reviveFirst; ; wait = min(2*wait, reviveMost) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		open, cancel := context.WithTimeout(ctx, openTimeout(o, n.cfg.Timeout))
		object, err := n.origin.Open(open, source, n.originOptions(o))
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			continue
		case object.Size() < 0 || object.ID() != id:
			n.log.Warn("the object has changed at the origin: the cached version is mounted without one; mount again to get the new version", "source", redact(source))
			return
		}
		n.log.Info("the origin answers again", "source", redact(source))
		l.object.Store(object)
		wake()
		return
	}
}
