package fetch

import (
	"context"

	"golang.org/x/time/rate"
)

// RateLimit bounds what is fetched, in bytes per second.
type RateLimit struct{ l *rate.Limiter }

// NewRateLimit returns a limit of bytesPerSecond with a burst of one transfer buffer.
func NewRateLimit(bytesPerSecond int64) *RateLimit {
	return &RateLimit{rate.NewLimiter(rate.Limit(bytesPerSecond), bufferSize)}
}

// wait blocks until n ≤ bufferSize bytes may be fetched; a nil limit never blocks.
func (r *RateLimit) wait(ctx context.Context, n int) error {
	if r == nil {
		return nil
	}
	return r.l.WaitN(ctx, n)
}
