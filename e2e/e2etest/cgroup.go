package e2etest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Cgroup is a control group with a memory limit, version 1 or 2, whichever has the memory controller here.
type Cgroup struct {
	dir string
	v2  bool
}

// Cgroup makes a group whose processes may use limit bytes of memory, page cache included. It is removed at the
// end of the test, after what was made later than it: make it before the node that goes into it.
func (w *World) Cgroup(limit int64) *Cgroup {
	w.T.Helper()
	NeedRoot(w.T)
	name := fmt.Sprintf("pantala-e2e-%d-%s", os.Getpid(), filepath.Base(w.Root))
	var c *Cgroup
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		c = &Cgroup{dir: filepath.Join("/sys/fs/cgroup/memory", name)}
	} else if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control"); err == nil && strings.Contains(string(b), "memory") {
		c = &Cgroup{dir: filepath.Join("/sys/fs/cgroup", name), v2: true}
	} else {
		Need(w.T, "a memory cgroup", os.ErrNotExist, "mount the memory controller, or add +memory to /sys/fs/cgroup/cgroup.subtree_control")
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		w.T.Fatalf("making a cgroup: %v", err)
	}
	w.Defer(func() {
		if !Poll(5*time.Second, func() bool { return os.Remove(c.dir) == nil }) {
			w.T.Errorf("cgroup %s cannot be removed: something still runs in it", c.dir)
		}
	})
	files := map[string]int64{"memory.limit_in_bytes": limit}
	if c.v2 {
		files = map[string]int64{"memory.max": limit, "memory.swap.max": 0}
	}
	for f, v := range files {
		if err := os.WriteFile(filepath.Join(c.dir, f), strconv.AppendInt(nil, v, 10), 0o644); err != nil && f != "memory.swap.max" {
			w.T.Fatalf("limiting the memory of a cgroup: %v", err)
		}
	}
	return c
}

func (c *Cgroup) procs() string { return filepath.Join(c.dir, "cgroup.procs") }

// OOMKills is how many processes of the group the kernel has killed for want of memory.
func (c *Cgroup) OOMKills() (int64, error) {
	file := "memory.oom_control"
	if c.v2 {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no line oom_kill", file)
}

// Peak is the most memory the group has used, in bytes, page cache included; 0 when the kernel does not say.
func (c *Cgroup) Peak() int64 {
	file := "memory.max_usage_in_bytes"
	if c.v2 {
		file = "memory.peak"
	}
	b, _ := os.ReadFile(filepath.Join(c.dir, file))
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}
