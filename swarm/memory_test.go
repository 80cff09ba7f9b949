package swarm_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// scarce is a sink that has two buffers and says when somebody waits for a third.
type scarce struct {
	*swarmtest.Sink
	left   chan struct{}
	waited chan struct{}
}

func (s *scarce) Buffer(ctx context.Context, r blob.Run) ([]byte, error) {
	select {
	case s.left <- struct{}{}:
		return s.Sink.Buffer(ctx, r)
	default:
	}
	s.waited <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestFailsWhileItWaitsForMemory: the only peer goes away while a call waits for memory that the call itself
// holds. It ends and gives it back.
func TestFailsWhileItWaitsForMemory(t *testing.T) {
	g := blob.GeometryFor(1 << 20)
	data := swarmtest.Random(g.Size, 8)
	l := liar(t, g, data, swarmtest.Lies{StallAfter: 1})
	tor, s := leecher(t, g, data)
	tor.AddPeers(l.Addr())
	await(t, tor, g.Blob())
	sink := &scarce{swarmtest.NewSink(s, g.Blob()), make(chan struct{}, 2), make(chan struct{}, 1)}
	ctx := deadline(t)
	ended := make(chan error, 1)
	go func() { ended <- tor.Fetch(ctx, g.Blob(), sink) }()
	<-sink.waited
	l.Close()
	if err := <-ended; !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	sink.Finish()
}
