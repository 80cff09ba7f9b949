package clientstest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Libtorrent is a libtorrent 2 client that runs with its default settings, discovery switched off.
type Libtorrent struct {
	*e2etest.Process
	w  *e2etest.World
	in *os.File
}

// StartLibtorrent starts a client on a host (nil: on loopback) and waits until it listens. It joins the swarm at [Libtorrent.Go].
func StartLibtorrent(w *e2etest.World, h *e2etest.Host, torrent, dir string, port int) *Libtorrent {
	w.T.Helper()
	NeedLibtorrent(w.T)
	in, out, err := os.Pipe()
	if err != nil {
		w.T.Fatal(err)
	}
	ip, args := "127.0.0.1", []string{"tcp"} // its uTP stops at 12 MB/s on loopback
	if h != nil {
		ip, args = h.IP, nil
	}
	l := &Libtorrent{w: w, in: out}
	l.Process = w.Start(e2etest.Command{Args: append([]string{python, script(w, "libtorrent_peer.py"), torrent, dir, fmt.Sprintf("%s:%d", ip, port)}, args...), Stdin: in, Host: h})
	in.Close()
	w.Defer(l.Stop)
	w.Until(30*time.Second, "libtorrent listens", func() bool {
		if l.Ended() {
			w.T.Fatalf("%v", l.Wait(0))
		}
		return strings.Contains(l.Output(), "READY\n")
	})
	return l
}

// Go has it join the swarm.
func (l *Libtorrent) Go() { l.say("go") }

func (l *Libtorrent) say(word string) {
	l.w.T.Helper()
	if _, err := l.in.WriteString(word + "\n"); err != nil {
		l.w.T.Fatalf("libtorrent has ended: %v: %v", err, l.Wait(0))
	}
}

// said are the words after the last line that begins with word.
func (l *Libtorrent) said(word string) []string {
	var found []string
	for line := range strings.Lines(l.Output()) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == word {
			found = f[1:]
		}
	}
	return found
}

// Finished is when it had everything, by its own clock.
func (l *Libtorrent) Finished() (at time.Time, ok bool) {
	if f := l.said("DONE"); f != nil {
		s, err := strconv.ParseFloat(f[0], 64)
		return time.UnixMicro(int64(s * 1e6)), err == nil
	}
	return at, false
}

// Uploaded is how many bytes of payload it has sent.
func (l *Libtorrent) Uploaded() int64 {
	l.w.T.Helper()
	l.say("stat")
	var n int64
	l.w.Until(10*time.Second, "libtorrent says what it has sent", func() bool {
		f := l.said("STAT")
		if f == nil {
			return false
		}
		n, _ = strconv.ParseInt(f[0], 10, 64)
		return true
	})
	return n
}

// Stop ends it.
func (l *Libtorrent) Stop() {
	l.in.Close()
	if r := l.Wait(15 * time.Second); r.TimedOut {
		l.w.T.Errorf("libtorrent had to be killed")
	}
}
