package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/pantala/pantala/control"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// progress tells a person how far a long piece of work is: by a bar on a terminal, by a line every few
// seconds elsewhere, not at all when quiet. Its methods are called from one goroutine at a time; the bar is
// drawn by another one, which only reads now.
type progress struct {
	w     io.Writer
	name  string
	quiet bool

	start time.Time        // of what is being done now
	first control.Progress // how far that was when it started
	now   atomic.Pointer[control.Progress]

	bars *mpb.Progress // on a terminal
	bar  *mpb.Bar
	last time.Time // when the bar was moved
	said time.Time // when a line was written
}

// lineEvery is how often a line is written where there is no terminal.
const lineEvery = 3 * time.Second

func (a *app) progress(name string, quiet bool) *progress {
	p := &progress{w: a.stderr, name: name, quiet: quiet, start: time.Now(), said: time.Now()}
	if f, ok := a.stderr.(*os.File); ok && !quiet && isTerminal(f) && os.Getenv("TERM") != "dumb" {
		p.bars = mpb.New(mpb.WithOutput(f), mpb.WithRefreshRate(200*time.Millisecond))
	}
	return p
}

// update says how far it is now.
func (p *progress) update(now control.Progress) {
	if old := p.now.Swap(&now); old == nil || old.What != now.What || old.Total != now.Total {
		p.start, p.first = time.Now(), now
		p.drop()
	}
	switch {
	case p.quiet:
	case p.bars != nil:
		p.draw(now)
	case time.Since(p.said) >= lineEvery:
		p.said = time.Now()
		fmt.Fprintln(p.w, p.line(now))
	}
}

// draw moves the bar.
func (p *progress) draw(now control.Progress) {
	if p.bar != nil {
		t := time.Now()
		p.bar.EwmaSetCurrent(now.Done, t.Sub(p.last))
		p.last = t
		return
	}
	first := p.first.Done
	style := mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]")
	p.bar = p.bars.New(max(now.Total, 0), style,
		mpb.PrependDecorators(decor.Name(p.name+" "), decor.Any(func(decor.Statistics) string { return counts(*p.now.Load()) })),
		mpb.AppendDecorators(
			decor.MovingAverageSpeed(decor.SizeB1024(0), "% .1f, ETA ", decor.NewThreadSafeMovingAverage(new(smooth))),
			decor.MovingAverageETA(decor.ET_STYLE_GO, decor.NewThreadSafeMovingAverage(new(smooth)), nil),
			decor.Any(func(decor.Statistics) string { return ", " + share(*p.now.Load(), first) }),
		),
		mpb.BarRemoveOnComplete(),
	)
	p.bar.SetCurrent(first)
	p.bar.SetRefill(first)
	p.last = time.Now()
}

// smooth is an exponentially weighted moving average that has a value from its first sample on; the one of mpb
// says 0 for ten. At five samples a second a quarter forgets what was a second ago to a third.
type smooth struct{ value float64 }

// Add takes one sample.
func (s *smooth) Add(x float64) {
	if s.value == 0 {
		s.value = x
	}
	s.value += (x - s.value) / 4
}

// Value is the average.
func (s *smooth) Value() float64 { return s.value }

// Set starts anew.
func (s *smooth) Set(x float64) { s.value = x }

// drop takes the bar away.
func (p *progress) drop() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bar.Wait()
		p.bar = nil
	}
}

// stop takes the bar away for good; what is written afterwards does not mix with it.
func (p *progress) stop() {
	p.drop()
	if p.bars != nil {
		p.bars.Wait()
	}
}

// line is the plain form of the bar.
func (p *progress) line(now control.Progress) string {
	s := fmt.Sprintf("%s: %s %s", p.name, now.What, counts(now))
	elapsed := time.Since(p.start).Seconds()
	if rate := float64(now.Done-p.first.Done) / elapsed; rate > 0 {
		s += fmt.Sprintf(", %s/s", size(int64(rate)))
		if now.Total > now.Done {
			s += fmt.Sprintf(", ETA %v", (time.Duration(float64(now.Total-now.Done)/rate) * time.Second).Round(time.Second))
		}
	}
	return s + ", " + share(now, p.first.Done)
}

// summary is the last line: what was done, how fast, and who helped.
func (p *progress) summary(t control.Transfer, since time.Time) string {
	took := time.Since(since)
	come := t.FromPeers + t.FromOrigin
	s := fmt.Sprintf("%s: %s in %v", p.name, size(t.Size), took.Round(time.Millisecond))
	if come > 0 && took > 0 {
		s += fmt.Sprintf(" (%s/s)", size(int64(float64(come)/took.Seconds())))
	}
	s += fmt.Sprintf(", %s from peers", percent(t.FromPeers, max(come, 1)))
	if kept := t.Size - come; come < t.Size && kept > 0 {
		s += fmt.Sprintf(", %s were here already", size(kept))
	}
	return s
}

func counts(p control.Progress) string {
	if p.Total < 0 {
		return size(p.Done)
	}
	return fmt.Sprintf("%s of %s (%s)", size(p.Done), size(p.Total), percent(p.Done, p.Total))
}

// share is the part that came from peers of what came since first bytes were there.
func share(p control.Progress, first int64) string {
	if p.What != downloading {
		return p.What
	}
	return percent(p.FromPeers, max(p.Done-first, p.FromPeers, 1)) + " from peers"
}

// downloading is the word of control.Progress for bytes that come from elsewhere.
const downloading = "downloading"
