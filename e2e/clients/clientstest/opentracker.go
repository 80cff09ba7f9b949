package clientstest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// NeedOpentracker is [e2etest.Need] for opentracker.
func NeedOpentracker(t testing.TB) string {
	t.Helper()
	return e2etest.NeedProgram(t, "opentracker", "apt-get install opentracker")
}

// Opentracker starts opentracker on port 6969 of a host and returns its announce URLs over HTTP and UDP. Debian's
// serves only torrents on a list: those with the given infohashes, 40 hexadecimal digits each.
func Opentracker(w *e2etest.World, h *e2etest.Host, infohashes ...string) (http, udp string) {
	w.T.Helper()
	// It makes the folder of the list its root and its working directory, and refuses to go on as root.
	list := w.Write("whitelist", []byte(strings.Join(infohashes, "\n")+"\n"))
	p := h.Start(e2etest.Command{Args: []string{NeedOpentracker(w.T), "-i", h.IP, "-p", "6969", "-P", "6969", "-u", "nobody", "-d", filepath.Dir(list), "-w", filepath.Base(list)}})
	w.Defer(func() {
		p.Signal(15)
		p.Wait(5 * time.Second)
	})
	w.Until(10*time.Second, "opentracker listens", func() bool {
		if p.Ended() {
			w.T.Fatalf("%v", p.Wait(0))
		}
		return h.Listening(6969) && h.Bound(6969)
	})
	return fmt.Sprintf("http://%s:6969/announce", h.IP), fmt.Sprintf("udp://%s:6969/announce", h.IP)
}
