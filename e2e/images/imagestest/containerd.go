package imagestest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pantala/pantala/e2e/e2etest"
)

// limit bounds what containerd is asked: a hundred times what it takes.
const limit = time.Minute

// Version is a containerd that is installed.
type Version struct {
	Name string // "1" or "2"
	bin  string // folder of containerd and ctr
}

// Versions are Debian's containerd, and the 2.x of CONTAINERD2_BIN when that is set.
func Versions(t testing.TB) []Version {
	t.Helper()
	e2etest.NeedRoot(t)
	e2etest.NeedProgram(t, "runc", "apt-get install runc")
	debian := e2etest.NeedProgram(t, "containerd", "apt-get install containerd")
	all := []Version{{"1", filepath.Dir(debian)}}
	if dir := os.Getenv("CONTAINERD2_BIN"); dir != "" {
		all = append(all, Version{"2", dir})
	}
	return all
}

// Containerd is one with a configuration, sockets and data of its own, whose snapshotter is a pantala.
type Containerd struct {
	Version
	Dir, Socket, Config, Namespace string
	Node                           *e2etest.Node // the pantala
	w                              *e2etest.World
	host                           *e2etest.Host // nil: the test's own network
	snapshots                      string        // pantala's socket
	ended                          bool
	p, pantala                     *e2etest.Process
	client                         *client.Client
	boxes                          []string
	run                            int
}

// Start starts a pantala with flags and a containerd that uses it, configured by `pantala setup containerd`.
func (v Version) Start(w *e2etest.World, flags ...string) *Containerd {
	w.T.Helper()
	c := v.make(w, nil)
	c.Node = w.Node("pantala", flags...)
	return c.begin()
}

// StartOn is [Version.Start] on a host.
func (v Version) StartOn(w *e2etest.World, h *e2etest.Host, flags ...string) *Containerd {
	w.T.Helper()
	c := v.make(w, h)
	c.Node = h.Node("pantala", flags...)
	return c.begin()
}

// StartAlone starts a containerd without a pantala on a host.
func (v Version) StartAlone(w *e2etest.World, h *e2etest.Host) *Containerd {
	w.T.Helper()
	return v.make(w, h).begin()
}

// Snapshotter is one that is not pantala; it runs when it is asked for something.
type Snapshotter struct {
	Name   string
	Socket string
	Root   string // where it keeps everything
}

// StartBeside starts a containerd on a host that uses a snapshotter, configured as those who make such things say.
func (v Version) StartBeside(w *e2etest.World, h *e2etest.Host, s Snapshotter) *Containerd {
	w.T.Helper()
	c := v.make(w, h)
	conf, err := os.OpenFile(c.Config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		w.T.Fatal(err)
	}
	defer conf.Close()
	if _, err := fmt.Fprintf(conf, `[proxy_plugins.%[1]s]
  type = "snapshot"
  address = "%[2]s"
  [proxy_plugins.%[1]s.exports]
    root = "%[3]s"
    enable_remote_snapshot_annotations = "true"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "overlayfs"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "%[1]s"
`, s.Name, s.Socket, s.Root); err != nil {
		w.T.Fatal(err)
	}
	return c.begin()
}

// make writes a configuration as a distribution would.
func (v Version) make(w *e2etest.World, h *e2etest.Host) *Containerd {
	w.T.Helper()
	dir := w.Dir("containerd")
	c := &Containerd{
		Version: v, Dir: dir, Socket: filepath.Join(dir, "c.sock"), Config: filepath.Join(dir, "config.toml"),
		Namespace: fmt.Sprintf("e2e-%d-%s", os.Getpid(), filepath.Base(w.Root)), w: w, host: h, snapshots: filepath.Join(dir, "s.sock"),
	}
	version, cri, images := 2, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"
	if v.Name == "2" {
		version, cri, images = 3, "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"
	}
	conf := fmt.Sprintf(`version = %d
root = "%[2]s/root"
state = "%[2]s/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "%[3]s"
[ttrpc]
  address = "%[3]s.ttrpc"
[plugins."%[5]s"]
  stats_collect_period = 1
[plugins."%[4]s".cni]
  bin_dir = "%[2]s/cni"
  conf_dir = "%[2]s/cni"
`, version, dir, c.Socket, cri, images)
	if err := os.WriteFile(c.Config, []byte(conf), 0o644); err != nil {
		w.T.Fatal(err)
	}
	return c
}

// begin starts what make has made.
func (c *Containerd) begin() *Containerd {
	c.w.T.Helper()
	if c.Node != nil {
		c.Node.Must("setup", "containerd", "--config", c.Config, "--socket", c.snapshots)
		c.StartPantala()
		c.w.Defer(c.StopPantala)
	}
	c.start()
	c.w.Defer(c.end)
	return c
}

// StartPantala starts the daemon and waits for its socket.
func (c *Containerd) StartPantala() {
	c.w.T.Helper()
	c.pantala = c.Node.Start("daemon", "--snapshotter", c.snapshots)
	c.w.Until(limit, "pantala serves "+c.snapshots, func() bool { return c.pantala.Ended() || answers(c.snapshots) })
	if c.pantala.Ended() {
		c.w.T.Fatalf("pantala ends: %v", c.pantala.Wait(time.Second))
	}
}

// StopPantala ends the daemon as a service manager does.
func (c *Containerd) StopPantala() {
	c.w.T.Helper()
	if c.pantala.Ended() {
		return
	}
	c.pantala.Signal(syscall.SIGTERM)
	if r := c.pantala.Wait(limit); r.TimedOut || r.Code != 0 && r.Code != 130 {
		c.w.T.Errorf("pantala does not end well: %v", r)
	}
}

// KillPantala ends the daemon by SIGKILL.
func (c *Containerd) KillPantala() {
	c.w.T.Helper()
	c.pantala.Signal(syscall.SIGKILL)
	c.pantala.Wait(limit)
}

// Pantala is the running daemon.
func (c *Containerd) Pantala() *e2etest.Process { return c.pantala }

func answers(socket string) bool {
	_, err := os.Stat(socket)
	if err != nil {
		return false
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn.Connect()
	for s := conn.GetState(); s.String() != "READY"; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			return false
		}
	}
	return true
}

func (c *Containerd) start() {
	c.w.T.Helper()
	// The shims live on when containerd ends, as they should; they are marked as of this World.
	c.p = c.w.Start(e2etest.Command{
		Args: []string{filepath.Join(c.bin, "containerd"), "-c", c.Config, "--log-level", "debug"},
		Env:  []string{"PATH=" + c.bin + ":" + os.Getenv("PATH"), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1"},
		Host: c.host,
	})
	c.w.Until(limit, "containerd answers", func() bool {
		return c.p.Ended() || answers(c.Socket) && c.w.Run(limit, c.ctr("version")...).Code == 0
	})
	if c.p.Ended() {
		c.w.T.Fatalf("containerd ends: %v", c.p.Wait(time.Second))
	}
	var err error
	if c.client, err = client.New(c.Socket); err != nil {
		c.w.T.Fatal(err)
	}
}

// stop ends containerd alone; containers run on.
func (c *Containerd) stop() {
	c.w.T.Helper()
	c.client.Close()
	c.p.Signal(syscall.SIGTERM)
	if r := c.p.Wait(limit); r.TimedOut {
		c.w.T.Errorf("containerd does not end: %v", r)
	}
}

// Restart ends containerd and starts it again.
func (c *Containerd) Restart() {
	c.w.T.Helper()
	c.stop()
	c.start()
}

// End ends containerd, and its pantala, before the test does, and removes what they have kept.
func (c *Containerd) End() {
	c.w.T.Helper()
	c.end()
	gone := []string{c.Dir}
	if c.Node != nil {
		c.StopPantala()
		c.Node.Stop()
		gone = append(gone, c.Node.State)
	}
	for _, dir := range gone {
		if left := e2etest.MountsBelow(dir); len(left) > 0 {
			c.w.T.Fatalf("left mounted: %v", left)
		}
		if err := os.RemoveAll(dir); err != nil {
			c.w.T.Fatal(err)
		}
	}
}

// PID is the process of containerd.
func (c *Containerd) PID() int { return c.p.PID() }

// end takes away the containers that are left, and containerd.
func (c *Containerd) end() {
	if c.ended {
		return
	}
	c.ended = true
	for _, id := range c.boxes {
		c.Kill(id)
	}
	c.stop()
	if c.w.T.Failed() {
		out := c.p.Output()
		c.w.T.Logf("end of containerd's log:\n%s", out[max(0, len(out)-6000):])
		if c.pantala != nil {
			c.w.T.Logf("pantala:\n%s", c.pantala.Output())
		}
	}
}

func (c *Containerd) ctr(args ...string) []string {
	return append([]string{filepath.Join(c.bin, "ctr"), "-a", c.Socket, "-n", c.Namespace}, args...)
}

// Ctr runs ctr.
func (c *Containerd) Ctr(args ...string) e2etest.Result {
	c.w.T.Helper()
	return c.startCtr(e2etest.Command{}, args...).Wait(limit)
}

// startCtr starts ctr, in the network of the host.
func (c *Containerd) startCtr(with e2etest.Command, args ...string) *e2etest.Process {
	c.w.T.Helper()
	with.Args, with.Host, with.Env = c.ctr(args...), c.host, append(with.Env, "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1")
	return c.w.Start(with)
}

// MustCtr is Ctr that has to succeed.
func (c *Containerd) MustCtr(args ...string) string {
	c.w.T.Helper()
	r := c.Ctr(args...)
	if r.Code != 0 {
		c.w.T.Fatalf("%v", r)
	}
	return r.Stdout
}

// Context is one for containerd's client.
func (c *Containerd) Context() context.Context {
	return namespaces.WithNamespace(c.w.T.Context(), c.Namespace)
}

// Client is containerd's own client.
func (c *Containerd) Client() *client.Client { return c.client }

// Pull pulls as nerdctl does: containerd's client, which tells the snapshotter by labels what is pulled.
func (c *Containerd) Pull(ref string) error {
	ctx, cancel := context.WithTimeout(c.Context(), limit)
	defer cancel()
	return c.pull(ctx, ref)
}

// StartPull begins a pull as ctr does, or, where ctr does not tell the snapshotter what is pulled, as nerdctl does. kill
// ends whoever pulls, at once; then ended is closed, as it is when the pull has ended by itself.
func (c *Containerd) StartPull(ref string) (kill func(), ended <-chan struct{}) {
	c.w.T.Helper()
	if c.Name != "1" {
		p := c.startCtr(e2etest.Command{}, "image", "pull", "--plain-http", "--snapshotter", "pantala", ref)
		return func() { p.Signal(syscall.SIGKILL) }, p.Done()
	}
	ctx, cancel := context.WithTimeout(c.Context(), limit)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.pull(ctx, ref)
	}()
	return cancel, done
}

func (c *Containerd) pull(ctx context.Context, ref string) error {
	speak := http.DefaultClient
	if c.host != nil {
		speak = c.host.HTTP()
	}
	plain := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithPlainHTTP(docker.MatchAllHosts), docker.WithClient(speak),
		docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) { return User, Password, nil }))),
	)})
	_, err := c.client.Pull(ctx, ref, client.WithPullUnpack, client.WithPullSnapshotter("pantala"), client.WithResolver(plain),
		client.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(ref)))
	return err
}

// MustPull is Pull that has to succeed.
func (c *Containerd) MustPull(ref string) {
	c.w.T.Helper()
	if err := c.Pull(ref); err != nil {
		c.w.T.Fatalf("pull of %s: %v", ref, err)
	}
}

// Run runs a command of an image to its end.
func (c *Containerd) Run(ref string, args ...string) e2etest.Result {
	c.w.T.Helper()
	c.run++
	return c.Ctr(append([]string{"run", "--rm", "--snapshotter", "pantala", ref, fmt.Sprint("once-", c.run)}, args...)...)
}

// MustRun is Run that has to succeed; it returns stdout.
func (c *Containerd) MustRun(ref string, args ...string) string {
	c.w.T.Helper()
	r := c.Run(ref, args...)
	if r.Code != 0 {
		c.w.T.Fatalf("%v", r)
	}
	return r.Stdout
}

// Box starts a container that waits for [Containerd.Exec].
func (c *Containerd) Box(ref, id string) {
	c.w.T.Helper()
	c.MustCtr("run", "--detach", "--snapshotter", "pantala", "--null-io", ref, id, "/bin/sleep", "100000")
	c.boxes = append(c.boxes, id)
}

// Exec runs a command in a container.
func (c *Containerd) Exec(id string, args ...string) e2etest.Result {
	c.w.T.Helper()
	c.run++
	return c.Ctr(append([]string{"task", "exec", "--exec-id", fmt.Sprint("x", c.run), id}, args...)...)
}

// Kill ends a container and removes it.
func (c *Containerd) Kill(id string) {
	c.Ctr("task", "kill", "-s", "SIGKILL", id)
	e2etest.Poll(limit, func() bool {
		return c.Ctr("task", "rm", "-f", id).Code == 0 || !strings.Contains(c.Ctr("task", "ls", "-q").Stdout, id)
	})
	c.Ctr("container", "rm", id)
}

// RemoveImage removes an image and waits for the garbage collection.
func (c *Containerd) RemoveImage(ref string) {
	c.w.T.Helper()
	c.MustCtr("image", "rm", "--sync", ref)
}

// Snapshots are the snapshots that pantala has for containerd, by name.
func (c *Containerd) Snapshots() map[string]snapshots.Info {
	c.w.T.Helper()
	all := map[string]snapshots.Info{}
	err := c.client.SnapshotService("pantala").Walk(c.Context(), func(_ context.Context, i snapshots.Info) error {
		all[i.Name] = i
		return nil
	})
	if err != nil {
		c.w.T.Fatal(err)
	}
	return all
}

// CRI is what the kubelet speaks to. close ends it.
func (c *Containerd) CRI() (images cri.ImageServiceClient, close func()) {
	c.w.T.Helper()
	conn, err := grpc.NewClient("unix://"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.w.T.Fatal(err)
	}
	return cri.NewImageServiceClient(conn), func() { conn.Close() }
}
