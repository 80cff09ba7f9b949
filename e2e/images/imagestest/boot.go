package imagestest

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// Booted is how an image came up.
type Booted struct {
	Pull  time.Duration // until the pull had returned
	First time.Duration // until the first line of output, counted from the beginning of the pull
	Line  string        // that line
}

// bootLimit bounds a boot: a hundred times what a good one takes, and more than a gigabyte takes at 100 Mbit/s.
const bootLimit = 4 * time.Minute

// Boot pulls an image and runs a program of it: as ctr does, or, where ctr does not tell the snapshotter what is pulled,
// as nerdctl does.
func (c *Containerd) Boot(snapshotter, ref string, args ...string) Booted {
	c.w.T.Helper()
	began := time.Now()
	if c.Name == "1" && snapshotter == "pantala" {
		c.MustPull(ref)
	} else if r := c.startCtr(e2etest.Command{}, "image", "pull", "--plain-http", "--snapshotter", snapshotter, ref).Wait(bootLimit); r.Code != 0 {
		c.w.T.Fatalf("%v", r)
	}
	b := Booted{Pull: time.Since(began)}
	c.run++
	in, out, err := os.Pipe()
	if err != nil {
		c.w.T.Fatal(err)
	}
	defer in.Close()
	p := c.startCtr(e2etest.Command{Stdout: out}, append([]string{"run", "--rm", "--snapshotter", snapshotter, ref, fmt.Sprint("boot-", c.run)}, args...)...)
	out.Close()
	in.SetReadDeadline(time.Now().Add(bootLimit))
	line, err := bufio.NewReader(in).ReadString('\n')
	b.First, b.Line = time.Since(began), strings.TrimSpace(line)
	if r := p.Wait(bootLimit); err != nil || r.Code != 0 {
		c.w.T.Fatalf("no line of output: %v: %v", err, r)
	}
	return b
}
