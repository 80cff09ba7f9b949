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

// fillAfter is how long nobody must have waited for anything of an image before the rest of it is fetched: a start is
// over by then, and its own reads have not been competed with.
const fillAfter = 10 * time.Second

// learnOrder fetches ahead what the profile of the tree says, records what is really read, and fills the rest.
func (s *images) learnOrder(t *rootfs, a *asked) {
	spans := make([]int, len(t.layers))
	ahead := make([]profile.Layer, len(t.layers))
	for i, l := range t.layers {
		spans[i] = len(l.index.Spans)
		if l.device.Complete() {
			continue
		}
		ahead[i] = profile.Layer{Device: l.device, Spans: make([]int64, spans[i])}
		for k, span := range l.index.Spans {
			ahead[i].Spans[k] = span.StoredLength
		}
	}
	r := profile.NewRecorder(spans)
	for i, l := range t.layers {
		l.record(t, r.OnTouch(i))
		// A device tells of each span once in its life, and the kernel reads complete layers itself.
		if st := l.device.Stats(); st.Reads+st.Waits > 0 || !l.served {
			r.Blind(i)
		}
	}
	t.work.Go(func() {
		r.Wait(t.ctx) // it ends when the tree does, if not before
		r.End()
		for i, l := range t.layers {
			l.record(t, nil)
			if l.device.Complete() {
				r.Blind(i)
			}
		}
		s.keepProfile(t, r.Profile())
	})
	t.work.Go(func() {
		f := profile.NewPrefetcher(ahead, profile.Options{Waiting: t.waiting})
		if p := s.profileOf(t, a); p != nil {
			err := f.Run(t.ctx, p)
			st := f.Stats()
			s.n.log.Info("fetched ahead what is read first", "image", t.image.Ref, "spans", st.Came, "bytes", st.Bytes, "starts", p.Starts, "err", err)
		}
		fill, err := s.n.fillOf(t.options)
		if err != nil || fill == fetch.FillNever || fill == fetch.FillIdle && !t.calm() {
			return
		}
		if err := f.Fill(t.ctx); err == nil {
			s.n.log.Info("all of an image is here", "image", t.image.Ref)
		}
	})
}

// profileOf is the profile of the trackers, else what was recorded here the last time; nil: there is none.
func (s *images) profileOf(t *rootfs, a *asked) *profile.Profile {
	select {
	case <-a.done:
	case <-t.ctx.Done():
		return nil
	}
	if p, err := profile.Parse(a.Profile); err == nil && len(p.Touches) > 0 {
		return p
	}
	p, _ := s.n.profiles.get(t.image.Manifest)
	return p
}

// keepProfile keeps what was recorded, and gives it to the trackers. A start that read next to nothing says nothing.
func (s *images) keepProfile(t *rootfs, p *profile.Profile) {
	const fewest = 8 // spans: less than any program with a shared library
	if len(p.Touches) < fewest || t.depth != len(t.image.Layers) {
		return
	}
	if err := s.n.profiles.add(t.image.Manifest, t.image.Ref.String(), p); err != nil {
		s.n.log.Warn("a profile is not kept", "image", t.image.Ref, "err", err)
	}
	s.reportProfile(t.image.Manifest, p)
}

// reportProfile gives a profile to the trackers.
func (s *images) reportProfile(image blob.Hash, p *profile.Profile) {
	if s.records == nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.n.ctx, s.n.cfg.Timeout)
	defer cancel()
	if err := s.records.ReportProfile(ctx, image, p.Append(nil)); err != nil {
		s.n.log.Info("no tracker took the profile of an image", "image", image, "err", err)
	}
}

// waiting is how many reads of a tree wait for bytes now, waits how many have had to so far.
func (t *rootfs) waiting() (n int) {
	for _, l := range t.layers {
		n += l.device.Stats().Waiting
	}
	return n
}

func (t *rootfs) waits() (n int64) {
	for _, l := range t.layers {
		n += l.device.Stats().Waits
	}
	return n
}

// calm waits until nobody has waited for anything for a while; false: the tree has been given back.
func (t *rootfs) calm() bool {
	waits, since := t.waits(), time.Now()
	for time.Since(since) < fillAfter {
		if !sleep(t.ctx, time.Second) {
			return false
		}
		if now := t.waits(); now != waits {
			waits, since = now, time.Now()
		}
	}
	return true
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
