package discovery

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// python is the interpreter that has libtorrent 2 (Debian: python3-libtorrent).
const python = "/usr/bin/python3"

// needLibtorrent fails where the node should be there (CI), and skips where it need not be.
func needLibtorrent(t *testing.T) {
	t.Helper()
	out, err := exec.Command(python, "-c", "import libtorrent; print(libtorrent.__version__)").CombinedOutput()
	switch {
	case err == nil && strings.HasPrefix(string(out), "2."):
	case os.Getenv("CI") == "true":
		t.Fatalf("CI must have libtorrent 2 (apt install python3-libtorrent): %v %s", err, out)
	default:
		t.Skipf("no libtorrent 2 (apt install python3-libtorrent): %v %s", err, out)
	}
}

// TestLibtorrentDHT: libtorrent joins by one node of ours. What one side announces the other one finds.
func TestLibtorrentDHT(t *testing.T) {
	needLibtorrent(t)
	key := [20]byte{0xab, 1}
	found := make(chan netip.AddrPort, 1000)
	first := newDHT(t, DHTOptions{})
	second := newDHT(t, DHTOptions{Bootstrap: []string{first.Addr().String()}, OnPeers: func(_ [20]byte, _ netip.Addr, peers []netip.AddrPort) {
		for _, p := range peers {
			found <- p
		}
	}})
	cmd := exec.Command(python, "testdata/libtorrent_dht.py", "127.0.0.1", fmt.Sprint(first.Addr().Port()), fmt.Sprintf("%x", key))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	watchdog := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer func() {
		in.Close()
		<-read
		cmd.Wait()
		watchdog.Stop()
	}()
	until(t, "libtorrent is in our table", func() bool { return len(first.Nodes()) >= 2 && len(second.Nodes()) >= 1 })

	var listens int
	for l := range lines {
		if _, err := fmt.Sscanf(l, "listen %d", &listens); err == nil {
			break
		}
	}
	// Theirs is found by us.
	fmt.Fprintln(in, "announce")
	stop := second.Announce(key, 4343)
	defer func() { stop() }()
	again := time.NewTicker(2 * time.Second)
	defer again.Stop()
	for deadline, ok := time.After(30*time.Second), false; !ok; {
		select {
		case p := <-found:
			ok = int(p.Port()) == listens
		case <-again.C:
			fmt.Fprintln(in, "announce") // it may have announced before it knew anybody
			stop()
			stop = second.Announce(key, 4343)
		case <-deadline:
			t.Fatal("we have not found what libtorrent announces")
		}
	}
	// Ours is found by them.
	for deadline := time.After(30 * time.Second); ; {
		select {
		case l := <-lines:
			if l == "peer 127.0.0.1:4343" {
				return
			}
		case <-again.C:
			fmt.Fprintln(in, "get")
		case <-deadline:
			t.Fatal("libtorrent has not found what we announce")
		}
	}
}
