package e2etest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stateEnv marks the processes of one node with its state directory.
const stateEnv = "E2E_STATE"

// startLimit bounds every command that should only talk to a daemon or start one: ten times what a loaded
// machine with two cores needs.
const startLimit = 30 * time.Second

// Node is a state directory and what is started on it.
type Node struct {
	State string
	Flags []string // --listen and --tracker, for the commands that take them
	UID   int
	Group *Cgroup // what the node is started in
	Host  *Host   // whose network it uses
	w     *World
	name  string
}

// Node makes a node; flags are added to its mount, daemon, get and share commands.
func (w *World) Node(name string, flags ...string) *Node {
	w.T.Helper()
	Binary(w.T)
	n := &Node{State: w.Dir(name + "-state"), w: w, name: name, Flags: append([]string{"--listen", "127.0.0.1:0"}, flags...)}
	w.ShowLog(filepath.Join(n.State, "daemon.log"))
	w.Defer(n.Stop)
	return n
}

// Node makes a node on the host, see [World.Node]. It listens on port 6881 of the host.
func (h *Host) Node(name string, flags ...string) *Node {
	h.lan.w.T.Helper()
	n := h.lan.w.Node(name, append([]string{"--listen", h.IP + ":6881"}, flags...)...)
	n.Host = h
	return n
}

// Start starts one pantala command on this node.
func (n *Node) Start(command string, args ...string) *Process {
	n.w.T.Helper()
	return n.w.Start(n.command(Binary(n.w.T), command, args...))
}

func (n *Node) command(argv0, command string, args ...string) Command {
	argv := []string{argv0, command, "--state", n.State}
	switch command {
	case "mount", "daemon", "get", "share":
		argv = append(argv, n.Flags...)
	}
	env := n.Env()
	if n.UID != 0 {
		env = append(env, "HOME=/nonexistent")
	}
	return Command{Args: append(argv, args...), Env: env, UID: n.UID, Cgroup: n.Group, Host: n.Host}
}

// Env marks a command that is not started by [Node.Start] as one of this node.
func (n *Node) Env() []string { return []string{stateEnv + "=" + n.State} }

// Run runs one pantala command on this node to its end.
func (n *Node) Run(command string, args ...string) Result {
	n.w.T.Helper()
	return n.Start(command, args...).Wait(startLimit)
}

// Must is [Node.Run] for a command that has to succeed.
func (n *Node) Must(command string, args ...string) Result {
	n.w.T.Helper()
	r := n.Run(command, args...)
	if r.Code != 0 {
		n.w.T.Fatalf("%v\n%s", r, tail(filepath.Join(n.State, "daemon.log"), 4000))
	}
	return r
}

// Mount mounts url on a new folder and returns the path of the file in it.
func (n *Node) Mount(url string, flags ...string) string {
	n.w.T.Helper()
	dir := n.w.Dir(n.name + "-mnt")
	if n.UID != 0 {
		if err := os.Chown(dir, n.UID, n.UID); err != nil {
			n.w.T.Fatal(err)
		}
	}
	return n.MountAt(dir, url, flags...)
}

// MountAt is [Node.Mount] on a given folder.
func (n *Node) MountAt(dir, url string, flags ...string) string {
	n.w.T.Helper()
	n.Must("mount", append(flags, url, dir)...)
	return filepath.Join(dir, filepath.Base(url))
}

// Status is what `pantala status -o json` promises.
type Status struct {
	PID    int           `json:"pid"`
	Listen string        `json:"listen"`
	Mounts []MountStatus `json:"mounts"`
	Peers  []PeerStatus  `json:"peers"`
}

// MountStatus is one mount in Status; sizes are bytes.
type MountStatus struct {
	Source     string `json:"source"`
	Dir        string `json:"dir"`
	Size       int64  `json:"size"`
	Present    int64  `json:"present"`
	FromPeers  int64  `json:"from_peers"`
	FromOrigin int64  `json:"from_origin"`
	Waiting    int64  `json:"waiting"`
	Errors     int64  `json:"errors"`
	Requests   int64  `json:"requests"` // that the kernel sent
}

// PeerStatus is one peer in Status.
type PeerStatus struct {
	Addr   string `json:"addr"`
	Banned bool   `json:"banned"`
}

// Status asks the node; it fails the test when that has no answer.
func (n *Node) Status() Status {
	n.w.T.Helper()
	r := n.Must("status", "-o", "json")
	var s Status
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		n.w.T.Fatalf("status is not the promised JSON: %v\n%v", err, r)
	}
	return s
}

// MountStatus is the status of the mount that holds file, or of the first one for "".
func (n *Node) MountStatus(file string) MountStatus {
	n.w.T.Helper()
	s := n.Status()
	for _, m := range s.Mounts {
		if file == "" || m.Dir == file || m.Dir == filepath.Dir(file) {
			return m
		}
	}
	n.w.T.Fatalf("status of node %s shows no mount of %q: %+v", n.name, file, s)
	return MountStatus{}
}

// PIDs are the processes of this node: its daemon, and commands in the foreground.
func (n *Node) PIDs() []int { return Marked(stateEnv, n.State) }

// PID is the one process that serves this node.
func (n *Node) PID() int {
	n.w.T.Helper()
	pids := n.PIDs()
	if len(pids) != 1 {
		var said []string
		for _, pid := range pids {
			said = append(said, fmt.Sprint(pid, " ", CommandLine(pid)))
		}
		n.w.T.Fatalf("node %s has %d processes, not one: %s", n.name, len(pids), strings.Join(said, "; "))
	}
	return pids[0]
}

// Kill ends everything of this node by SIGKILL and waits until it is gone. Mounts stay, dead.
func (n *Node) Kill() {
	n.w.T.Helper()
	if !n.end(syscall.SIGKILL, 10*time.Second) {
		n.w.T.Fatalf("node %s survives SIGKILL", n.name)
	}
}

// end sends a signal to everything of this node and waits until all of it is gone with all that it held: the
// environment, by which [Node.PIDs] finds it, goes before its files and locks do.
func (n *Node) end(sig syscall.Signal, limit time.Duration) bool {
	pids := n.PIDs()
	for _, pid := range pids {
		syscall.Kill(pid, sig)
	}
	return Poll(limit, func() bool { return !slices.ContainsFunc(pids, Alive) && len(n.PIDs()) == 0 })
}

// Umount unmounts like a user.
func (n *Node) Umount(dirs ...string) Result {
	n.w.T.Helper()
	return n.Run("umount", dirs...)
}

// Stop unmounts everything of this node and ends its daemon by SIGTERM, which has to suffice.
func (n *Node) Stop() {
	n.w.T.Helper()
	if len(n.PIDs()) == 0 {
		return
	}
	if r := n.Run("umount", "--all"); r.Code != 0 {
		n.w.T.Errorf("%v", r)
	}
	if !n.end(syscall.SIGTERM, 15*time.Second) {
		n.w.T.Errorf("node %s survives SIGTERM for 15 s", n.name)
		n.end(syscall.SIGKILL, 10*time.Second)
	}
}
