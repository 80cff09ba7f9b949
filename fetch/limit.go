package fetch

import (
	"context"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/pace"
)

// Limits bound what is fetched, by class: what somebody is blocked on may pass for a moment while what nobody waits
// for may not.
type Limits struct {
	Download pace.Path // everything; nil: no limit
	Origin   pace.Path // what comes from the origin besides, of the same group; nil: no limit
}

// wait blocks until n bytes of a class may be fetched from a source.
func (l Limits) wait(ctx context.Context, n int, class blob.Class, from sourceKind) error {
	if from == fromOrigin && len(l.Origin) > 0 {
		path := make(pace.Path, 0, len(l.Download)+len(l.Origin))
		return append(append(path, l.Download...), l.Origin...).Wait(ctx, n, class)
	}
	return l.Download.Wait(ctx, n, class)
}
