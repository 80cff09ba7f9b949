package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
	"github.com/pantala/pantala/fs/erofs"
	"github.com/pantala/pantala/node"
	"github.com/pantala/pantala/tracker"
)

const doctorLong = `Look at everything that pantala needs on this machine, and say what to do about what is missing.
Nothing is changed. The exit code is 7 when something that is needed is missing.`

// check is one thing that was looked at.
type check struct {
	Name   string `json:"name"`
	Result string `json:"result"` // "ok", "warn", "fail"
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	out := "table"
	c := &cobra.Command{
		Use:     "doctor",
		Short:   "Check what pantala needs on this machine",
		Long:    doctorLong,
		Example: "  pantala doctor\n  pantala doctor --tracker http://10.0.0.1:7700/announce -o json",
		GroupID: "look",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			checks := examine(c.Context(), conf)
			if err := a.printChecks(checks, out == "json"); err != nil {
				return err
			}
			failed := 0
			for _, c := range checks {
				if c.Result == "fail" {
					failed++
				}
			}
			if failed > 0 {
				return control.Local(fmt.Errorf("%d of %d checks failed: see above for what to do", failed, len(checks)))
			}
			return nil
		},
	}
	output(c, &out)
	return c
}

func (a *app) printChecks(checks []check, asJSON bool) error {
	if asJSON {
		return a.json(map[string][]check{"checks": checks})
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, c := range checks {
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Result, c.Name, c.Detail)
		if c.Fix != "" {
			fmt.Fprintf(w, "\t\t→ %s\n", c.Fix)
		}
	}
	return w.Flush()
}

// examine runs all checks, the most basic first.
func examine(ctx context.Context, c config.Config) []check {
	checks := append(checkFuse(), checkKernel(), checkImages(ctx, c), checkState(c), checkDisk(c), checkDaemon(ctx, c), checkPort(ctx, c))
	if len(c.Trackers) == 0 {
		return append(checks, check{"tracker", "ok", "none configured: blobs are fetched from their origin and named peers only", ""})
	}
	for _, t := range c.Trackers {
		if name, ok := strings.CutPrefix(t, "srv:"); ok {
			checks = append(checks, checkNamed(ctx, name)...)
		} else {
			checks = append(checks, checkTracker(ctx, t))
		}
	}
	return append(checks, checkReachable(c)...)
}

func checkFuse() []check {
	problems := fs.Prerequisites()
	if len(problems) == 0 {
		return []check{{"fuse", "ok", "mounting is possible", ""}}
	}
	var all []check
	for _, p := range problems {
		all = append(all, check{"fuse", "fail", p.What, p.Fix})
	}
	return all
}

// checkKernel tells what this kernel can do for us: passthrough is of 6.9 (FUSE 7.40), and needs
// CAP_SYS_ADMIN.
func checkKernel() check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return check{"kernel", "warn", err.Error(), ""}
	}
	release := unix.ByteSliceToString(u.Release[:])
	switch {
	case !atLeast(release, 6, 9):
		return check{"kernel", "warn", "Linux " + release + ": no FUSE passthrough, complete blobs are read through this process", "use Linux 6.9 or later to read them at the speed of the disk"}
	case os.Geteuid() != 0:
		return check{"kernel", "warn", "Linux " + release + ": FUSE passthrough is for root only, complete blobs are read through this process", "run the daemon as root to read them at the speed of the disk"}
	}
	return check{"kernel", "ok", "Linux " + release + ": FUSE passthrough is possible", ""}
}

// atLeast compares the first two numbers of a kernel release.
func atLeast(release string, major, minor int) bool {
	parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return false
	}
	a, _ := strconv.Atoi(parts[0])
	b, _ := strconv.Atoi(parts[1])
	return a > major || a == major && b >= minor
}

// existing is the nearest directory at or above path that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" {
			return path
		}
		path = filepath.Dir(path)
	}
}

// checkImages tells how container images are mounted here, and why not in a better way.
func checkImages(ctx context.Context, c config.Config) check {
	root := os.Geteuid() == 0
	var can erofs.Support
	if root {
		can = erofs.Probe(ctx)
	}
	how, why, err := node.ChooseImageMount(c.ImageMount, root, can)
	switch {
	case err != nil:
		return check{"images", "fail", err.Error(), "leave image-mount at auto"}
	case !root:
		return check{"images", "warn", "not root: images are served name by name, and belong to you", "run the daemon as root to have the kernel mount them, and for containerd"}
	case how == config.Files:
		detail, fix := fmt.Sprintf("images are served name by name, which is slower, and do not survive the daemon (%v)", why), "use Linux 6.12 or later with EROFS, or one with EROFS and loop devices, and modprobe erofs loop"
		if c.ImageMount != config.Auto {
			fix = "set image-mount to auto"
		}
		return check{"images", "warn", detail, fix}
	}
	detail := "the kernel mounts images (EROFS over files)"
	if how == config.Loop {
		detail = fmt.Sprintf("the kernel mounts images (EROFS through a loop device), because %v", why)
	}
	if devices := fs.ProbeDevices(ctx); devices.Handover != nil {
		return check{"images", "warn", fmt.Sprintf("%s; they do not survive the daemon (%v)", detail, devices.Handover), "use Linux 6.9 or later"}
	}
	return check{"images", "ok", detail + "; they survive the daemon", ""}
}

// Magic numbers of file systems (statfs(2)) that cannot back a passthrough file: the kernel refuses files
// that are themselves stacked (FUSE_DEV_IOC_BACKING_OPEN, s_stack_depth).
const (
	magicOverlay = 0x794c7630
	magicFuse    = 0x65735546
)

func checkState(c config.Config) check {
	dir := existing(c.State)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return check{"state", "fail", fmt.Sprintf("%s is not writable (%v)", dir, err), "make it writable, or name another one with --state"}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return check{"state", "fail", fmt.Sprintf("%s: %v", dir, err), "name another one with --state"}
	}
	switch st.Type {
	case magicOverlay:
		return check{"state", "warn", c.State + " is on overlayfs: no passthrough", "put --state on ext4, xfs, btrfs or tmpfs; in a container, on a volume"}
	case magicFuse:
		return check{"state", "warn", c.State + " is on a FUSE file system: no passthrough, and slow", "put --state on ext4, xfs, btrfs or tmpfs"}
	}
	return check{"state", "ok", c.State, ""}
}

// littleSpace is how much free space a cache needs to be of any use, in bytes.
const littleSpace = 1 << 30

func checkDisk(c config.Config) check {
	var st unix.Statfs_t
	dir := existing(c.State)
	if err := unix.Statfs(dir, &st); err != nil {
		return check{"disk", "warn", fmt.Sprintf("%s: %v", dir, err), ""}
	}
	free := int64(st.Bavail) * st.Bsize
	detail := size(free) + " free in " + c.State
	switch {
	case free < littleSpace:
		return check{"disk", "warn", detail, "free some space: what does not fit is read again from elsewhere each time"}
	case c.Quota > free:
		return check{"disk", "warn", detail + ", less than the quota of " + size(c.Quota), "free some space, or set a smaller --quota"}
	}
	return check{"disk", "ok", detail, ""}
}

func checkDaemon(ctx context.Context, c config.Config) check {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	s, err := control.NewClient(c.State).Status(ctx)
	switch {
	case errors.Is(err, control.ErrNoDaemon):
		return check{"daemon", "ok", "none runs in " + c.State + ": mount and share start one", ""}
	case err != nil:
		return check{"daemon", "fail", err.Error(), "see " + filepath.Join(c.State, logName)}
	case s.Version != version():
		return check{"daemon", "warn", fmt.Sprintf("pid %d is of version %s, this is %s", s.PID, s.Version, version()), "stop it with pantala daemon --stop: the next mount starts a new one"}
	}
	return check{"daemon", "ok", fmt.Sprintf("pid %d, %s, peers connect to %s", s.PID, count(len(s.Mounts), "mount"), s.Listen), ""}
}

// checkPort tries whether the peer wire could listen, unless the daemon does.
func checkPort(ctx context.Context, c config.Config) check {
	if s, err := control.NewClient(c.State).Status(ctx); err == nil {
		return check{"port", "ok", "the daemon listens on " + s.Listen, ""}
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return check{"port", "fail", err.Error(), "name a free address of this machine with --listen"}
	}
	l.Close()
	return check{"port", "ok", c.Listen + " is free", ""}
}

// checkTracker asks one tracker whether it is alive. Another kind of tracker than ours answers something,
// which is enough.
func checkTracker(ctx context.Context, announce string) check {
	u, err := url.Parse(announce)
	if err != nil {
		return check{"tracker", "fail", err.Error(), "name it by http://HOST:PORT/announce"}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if u.Scheme == "udp" {
		start := time.Now()
		if err := tracker.PingUDP(ctx, announce); err != nil {
			return check{"tracker", "fail", err.Error(), "check the address; reads go on without it"}
		}
		return check{"tracker", "ok", fmt.Sprintf("%s answers after %v", u.Host, time.Since(start).Round(100*time.Microsecond)), ""}
	}
	u.Path, u.RawQuery = strings.TrimSuffix(u.Path, "/announce")+"/healthz", ""
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return check{"tracker", "fail", err.Error(), "name it by http://HOST:PORT/announce"}
	}
	start := time.Now()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return check{"tracker", "fail", fmt.Sprintf("%s does not answer (%v)", u.Host, err), "start one with pantala tracker --listen HOST:PORT, or check the address; reads go on without it"}
	}
	resp.Body.Close()
	return check{"tracker", "ok", fmt.Sprintf("%s answers after %v", u.Host, time.Since(start).Round(100*time.Microsecond)), ""}
}

// checkNamed looks at the trackers that DNS names.
func checkNamed(ctx context.Context, name string) (checks []check) {
	limited, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, records, err := net.DefaultResolver.LookupSRV(limited, "", "", name)
	if err == nil && len(records) == 0 {
		err = errors.New("no records")
	}
	if err != nil {
		return []check{{"tracker", "fail", fmt.Sprintf("the SRV records of %s cannot be looked up (%v)", name, err), "check the name with: dig SRV " + name + "; reads go on without it"}}
	}
	for _, r := range records {
		checks = append(checks, checkTracker(ctx, "http://"+net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))+"/announce"))
	}
	return checks
}

// checkReachable warns when trackers would hand out an address that others cannot connect to.
func checkReachable(c config.Config) []check {
	a, err := netip.ParseAddrPort(c.Listen)
	if err != nil || !a.Addr().IsLoopback() {
		return nil
	}
	return []check{{"reachable", "warn", "peers on other machines cannot connect to " + c.Listen, "pass --listen HOST:PORT to share with them"}}
}
