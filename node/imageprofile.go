package node

import (
	"context"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fetch"
	"github.com/pantala/pantala/image/profile"
)

// What a program reads first of an image it reads first every time. The order is recorded while a tree is young, kept
// here and given to the trackers, which merge what several nodes saw, and fetched ahead the next time, below everything
// that somebody waits for.

// fillAfter is how long nobody must have waited for anything of an image before the rest of it is fetched.
const fillAfter = 10 * time.Second

// learnOrder fetches ahead what the profile of the tree says, records what is really read, and fills the rest.
func (s *images) learnOrder(t *rootfs) {
	spans := make([]int, len(t.layers))
	for i, l := range t.layers {
		spans[i] = len(l.index.Spans)
	}
	r := profile.NewRecorder(spans)
	for i, l := range t.layers {
		l.record(t, r.OnTouch(i))
	}
	t.work.Go(func() {
		r.Wait(t.ctx)
		r.End()
		for _, l := range t.layers {
			l.record(t, nil)
		}
		s.keepProfile(t, r.Profile())
	})
	t.work.Go(func() {
		if s.n.cfg.Fill != fetch.FillNever.String() {
			s.fillTree(t)
		}
	})
}

// profilePath is where the profile of an image is kept.
func (s *images) profilePath(t *rootfs) (string, error) {
	return s.path("profiles", t.image.Manifest.String())
}

// keepProfile keeps what was recorded, and gives it to the trackers. A start that read next to nothing says nothing.
func (s *images) keepProfile(t *rootfs, p *profile.Profile) {
	const fewest = 8 // spans: less than any program with a shared library
	if len(p.Touches) < fewest || t.depth != len(t.image.Layers) {
		return
	}
	raw := p.Append(nil)
	path, err := s.profilePath(t)
	if err == nil {
		err = replace(path, raw)
	}
	if err != nil {
		s.n.log.Warn("a profile is not kept", "image", t.image.Ref, "err", err)
	}
	if s.records == nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.n.ctx, s.n.cfg.Timeout)
	defer cancel()
	if err := s.records.ReportProfile(ctx, t.image.Manifest, raw); err != nil {
		s.n.log.Info("no tracker took the profile of an image", "image", t.image.Ref, "err", err)
	}
}

// fillTree completes the layers of a tree, the bottom one first, while nobody waits for anything.
func (s *images) fillTree(t *rootfs) {
	const few = 4 // spans at a time, so that whoever wants to read is not behind more than those
	var waits int64
	var since time.Time
	for _, l := range t.layers {
		for at := 0; at < len(l.index.Spans) && !l.device.Complete(); {
			if s.n.cfg.Fill == fetch.FillIdle.String() {
				if now := t.waits(); now != waits || since.IsZero() {
					waits, since = now, time.Now()
				}
				if busy := fillAfter - time.Since(since); busy > 0 {
					if !sleep(t.ctx, min(busy, time.Second)) {
						return
					}
					continue
				}
			}
			var next []uint32
			for ; at < len(l.index.Spans) && len(next) < few; at++ {
				next = append(next, uint32(at))
			}
			if err := l.device.Prefetch(t.ctx, next, blob.Background); err != nil {
				at -= len(next)
				if !sleep(t.ctx, fillAfter) {
					return
				}
			}
		}
	}
}

// waits counts the reads of a tree that have had to wait so far.
func (t *rootfs) waits() (n int64) {
	for _, l := range t.layers {
		n += l.device.Stats().Waits
	}
	return n
}

// sleep waits, and reports whether ctx lasted as long.
func sleep(ctx context.Context, long time.Duration) bool {
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
