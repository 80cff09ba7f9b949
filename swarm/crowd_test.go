package swarm_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm"
)

// crowdEnv makes the test binary a crowd around the node that listens there: crowd connections that say nothing, as
// many that say one byte a second, and as many peers.
const (
	crowdEnv = "PANTALA_SWARM_CROWD"
	crowd    = 1000
)

// crowdMain keeps the crowd up until its standard input ends: who is thrown out comes back. It prints a line when
// all peers have been let in.
func crowdMain(at string) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var in atomic.Int64
	again := func(f func(c net.Conn)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				var d net.Dialer
				if c, err := d.DialContext(ctx, "tcp", at); err == nil {
					stop := context.AfterFunc(ctx, func() { c.Close() })
					f(c)
					stop()
					c.Close()
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
	hello := func() []byte {
		h := peerwire.Handshake{Reserved: peerwire.Abilities, InfoHash: key}
		rand.Read(h.PeerID[:])
		return peerwire.AppendBare(peerwire.AppendHandshake(nil, h), peerwire.HaveNone)
	}
	for i := range crowd {
		again(func(c net.Conn) { io.Copy(io.Discard, c) })
		again(func(c net.Conn) {
			for _, b := range hello() {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		again(func(c net.Conn) {
			if _, err := c.Write(hello()); err != nil {
				return
			}
			if _, err := io.ReadFull(c, make([]byte, peerwire.HandshakeLen)); err != nil {
				return
			}
			in.Add(1)
			defer in.Add(-1)
			if i%10 == 0 { // some ask for a block now and then
				wg.Go(func() {
					ask := peerwire.AppendBare(nil, peerwire.Interested)
					for ctx.Err() == nil {
						if _, err := c.Write(peerwire.AppendRequest(ask, 0, 0, blob.BlockSize)); err != nil {
							return
						}
						ask = nil
						time.Sleep(time.Second)
					}
				})
			}
			io.Copy(io.Discard, c)
		})
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	for ctx.Err() == nil && in.Load() < crowd*95/100 {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("in", in.Load())
	wg.Wait()
}

// TestCrowd: a thousand peers, a thousand connections that say nothing and a thousand that say a byte a second cost
// the node bounded memory, and a client that transfers meanwhile is let in and served.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 s")
	}
	g := blob.GeometryFor(64 << 20)
	data := benchData()[:g.Size]
	from := seed(t, g, data)
	n := newNode(t, swarm.Options{MaxPeers: crowd + 100})
	tor := add(t, n, from, blob.Hash{})
	transfer := func() time.Duration {
		began := time.Now()
		to := empty(t, g)
		to.TakeRoots(from, blob.Claimed)
		m := newNode(t, swarm.Options{})
		defer m.Close()
		l := add(t, m, to, blob.Hash{})
		l.AddPeers(n.Addr())
		await(t, l, g.Blob())
		if err := fetch(blob.WithClass(deadline(t), blob.Background), l, to, g.Blob()); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	memory := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	transfer() // what is made once
	alone, before := transfer(), memory()

	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), crowdEnv+"="+n.Addr().String()), os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer func() {
		stdin.Close()
		cmd.Wait()
		watchdog.Stop()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	used := memory() - before
	peers := len(tor.Peers())
	among := transfer()
	t.Logf("crowd: %s%d peers, %d KiB each; 64 MiB alone in %v, among them in %v: %.2f times", line, peers, used>>10/int64(max(1, peers)), alone, among, among.Seconds()/alone.Seconds())
	if peers < crowd*9/10 {
		t.Errorf("%d peers were let in", peers)
	}
	if used > 64<<20 {
		t.Errorf("%d MiB for the crowd", used>>20)
	}
	// On an idle machine it is less than twice as long; a busy one gets the benefit of the doubt.
	if among > 5*alone+5*time.Second {
		t.Errorf("%v among the crowd, %v alone", among, alone)
	}
}

// TestUselessPeersMakeRoom: all places are taken by peers that do nothing; somebody new is let in once they have
// done nothing for a while, and not before.
func TestUselessPeersMakeRoom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	const places = 5
	g := blob.GeometryFor(1 << 20)
	from := seed(t, g, benchData()[:g.Size])
	n := newNode(t, swarm.Options{MaxPeers: places})
	tor := add(t, n, from, blob.Hash{})
	for i := range places {
		c, err := net.Dial("tcp", n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		h := peerwire.Handshake{Reserved: peerwire.Abilities, InfoHash: key, PeerID: [20]byte{byte(i + 1)}}
		if _, err := c.Write(peerwire.AppendHandshake(nil, h)); err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, c)
	}
	until(t, "all places are taken", func() bool { return len(tor.Peers()) == places })
	to := empty(t, g)
	to.TakeRoots(from, blob.Claimed)
	l := add(t, newNode(t, swarm.Options{}), to, blob.Hash{})
	began := time.Now()
	l.AddPeers(n.Addr())
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for !l.Has(g.Blob()) {
		if ctx.Err() != nil {
			t.Fatal("nobody has made room")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if took := time.Since(began); took < 10*time.Second {
		t.Errorf("somebody had to go after %v", took)
	}
	if err := fetch(ctx, l, to, g.Blob()); err != nil {
		t.Error(err)
	}
}
