package e2etest

import (
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Tracker is a running `pantala tracker`.
type Tracker struct {
	URL string // of announce
	w   *World
	p   *Process
}

// Tracker starts a tracker on a free port.
func (w *World) Tracker(flags ...string) *Tracker {
	w.T.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", FreePort(w.T))
	tr := &Tracker{w: w, URL: "http://" + addr + "/announce"}
	tr.p = w.Start(Command{Args: append([]string{Binary(w.T), "tracker", "--listen", addr}, flags...)})
	w.Defer(tr.Kill)
	w.Until(10*time.Second, "the tracker listens and prints its URL", func() bool {
		if tr.p.Ended() {
			w.T.Fatalf("%v", tr.p.Wait(0))
		}
		return Listening(addr) && strings.Contains(tr.p.Output(), tr.URL)
	})
	return tr
}

// Tracker starts a tracker on port 7700 of the host.
func (h *Host) Tracker(flags ...string) *Tracker {
	w := h.lan.w
	w.T.Helper()
	addr := h.IP + ":7700"
	tr := &Tracker{w: w, URL: "http://" + addr + "/announce"}
	argv := append([]string{Binary(w.T), "tracker", "--listen", addr}, flags...)
	tr.p = w.Start(Command{Args: argv, Host: h})
	w.Defer(tr.Kill)
	w.Until(10*time.Second, "the tracker listens and prints its URL", func() bool {
		if tr.p.Ended() {
			w.T.Fatalf("%v", tr.p.Wait(0))
		}
		return h.Listening(7700) && strings.Contains(tr.p.Output(), tr.URL)
	})
	return tr
}

// PID is the process of the tracker.
func (tr *Tracker) PID() int { return tr.p.PID() }

// Kill ends the tracker as a crash would.
func (tr *Tracker) Kill() {
	if !tr.p.Ended() {
		tr.p.Signal(syscall.SIGKILL)
		tr.p.Wait(5 * time.Second)
	}
}
