package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
)

// The ways to mount and to unmount that the manual knows.

func TestAsFile(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	path := filepath.Join(w.Dir("d"), "here.bin")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n.Must("mount", "--as-file", url, path)
	mustSum(t, sum(w, path), file)
	// Complete now: the next open reads the cache file through the kernel.
	mustSum(t, sum(w, path), file)
	if r := n.Umount(path); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != 0 {
		t.Errorf("the file below the mount has changed: %v %v", fi, err)
	}
}

// What a mount shows of itself: a read-only file under its own name, with its provenance.
func TestWhatIsMounted(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	path := n.Mount(url, "--fill", "never")
	dir := filepath.Dir(path)
	for _, c := range []struct{ name, script, want string }{
		{"list", `ls "$0"`, "model.bin\n"},
		{"stat", `stat -c '%s %A' "$0/model.bin"`, fmt.Sprintf("%d -r--r--r--\n", file.Size)},
		{"statfs", `stat -f -c %a "$0"`, "0\n"},
		{"write", `(echo x >"$0/model.bin") 2>&1 | grep -c 'Read-only file system'`, "1\n"},
		{"create", `touch "$0/new" 2>&1 | grep -c 'Read-only file system'`, "1\n"},
		{"remove", `rm -f "$0/model.bin" 2>&1 | grep -c 'Read-only file system'`, "1\n"},
		{"chmod", `chmod 600 "$0/model.bin" 2>&1 | grep -c 'Read-only file system'`, "1\n"},
		{"missing", `cat "$0/other" 2>&1 | grep -c 'No such file'`, "1\n"},
		{"tail", `tail -c 5 "$0/model.bin" | cmp - "$1" && echo same`, "same\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := filepath.Join(w.Dir("last"), "bytes")
			b := file.Bytes(t)
			if err := os.WriteFile(last, b[len(b)-5:], 0o644); err != nil {
				t.Fatal(err)
			}
			r := w.Start(e2etest.Command{Args: []string{"sh", "-c", c.script, dir, last}}).Wait(20 * time.Second)
			if r.Stdout != c.want {
				t.Errorf("want %q\n%v", c.want, r)
			}
		})
	}
	for name, want := range map[string]string{"user.pantala.source": url, "user.pantala.id": "url:", "user.pantala.present": ""} {
		buf := w.Start(e2etest.Command{Args: []string{"python3", "-c", "import os,sys; sys.stdout.buffer.write(os.getxattr(sys.argv[1], sys.argv[2]))", path, name}})
		if r := buf.Wait(20 * time.Second); r.Code != 0 || !strings.HasPrefix(r.Stdout, want) {
			t.Errorf("xattr %s: want %q…\n%v", name, want, r)
		}
	}
}

// mount(8) runs /sbin/mount.TYPE SPEC DIR [-sfnv] [-o OPTIONS] and understands its exit codes.
func TestMountHelper(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")
	helper := filepath.Join(w.Dir("sbin"), "mount.pantala")
	if err := os.Symlink(e2etest.Binary(t), helper); err != nil {
		t.Fatal(err)
	}
	n, dir := w.Node("n"), w.Dir("mnt")
	run := func(args ...string) e2etest.Result {
		c := e2etest.Command{Args: append([]string{helper}, args...), Env: n.Env()}
		return w.Start(c).Wait(30 * time.Second)
	}
	options := "ro,nosuid,nodev,_netdev,nofail,state=" + n.State + ",listen=127.0.0.1:0,fill=never,timeout=20s"
	if r := run(url, dir, "-o", options); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	mustSum(t, sum(w, filepath.Join(dir, "model.bin")), file)
	if m := n.MountStatus(dir); m.Dir != dir {
		t.Errorf("status: %+v", m)
	}
	if r := n.Umount(dir); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"usage", []string{url}, 1},
		{"unknown option", []string{url, dir, "-o", "state=" + n.State + ",no-such-option"}, 1},
		{"not found", []string{ng.URL + "/missing", dir, "-o", "state=" + n.State}, 32},
		{"no directory", []string{url, dir + "-missing", "-o", "state=" + n.State}, 32},
	} {
		r := run(c.args...)
		t.Logf("%s: exit %d: %s", c.name, r.Code, strings.TrimSpace(r.Stderr))
		if r.Code != c.code {
			t.Errorf("%s: exit code %d, mount(8) expects %d", c.name, r.Code, c.code)
		}
		if len(e2etest.Lines(r.Stderr)) != 1 {
			t.Errorf("%s: stderr is not one line: %q", c.name, r.Stderr)
		}
	}
	if got := e2etest.MountsBelow(dir); len(got) != 0 {
		t.Errorf("left mounted: %v", got)
	}
}

// A complete file is read through the kernel from the next open on: its reads do not reach us.
func TestCompleteFileLeavesOurPath(t *testing.T) {
	e2etest.NeedRoot(t) // passthrough takes CAP_SYS_ADMIN
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	path := n.Mount(url)
	mustSum(t, sum(w, path), file)
	w.Until(readLimit, "complete", func() bool { return n.MountStatus(path).Present == file.Size })
	before := n.MountStatus(path).Requests
	for range 3 {
		w.MustRead(readLimit, e2etest.Read{Path: path, Want: file.Path, Drop: true})
	}
	asked := n.MountStatus(path).Requests - before
	t.Logf("%d requests for three readings of %s", asked, e2etest.MiB(file.Size))
	// An open, a getattr and a close or two each; reads of 1 MiB would be 64 a time.
	if asked > 30 {
		t.Errorf("%d requests for three readings of a complete file: the kernel does not read it by itself", asked)
	}
}

// Several mounts of one node: --all takes all of them, one source is downloaded once.
func TestUmountAll(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	url, other := ng.Serve(file, "model.bin"), ng.Serve(e2etest.Content(t, 1<<20, 9), "other.bin")
	n := w.Node("n")
	a, b, c := n.Mount(url), n.Mount(url), n.Mount(other)
	mustSum(t, sum(w, a), file)
	mustSum(t, sum(w, b), file)
	mustSum(t, sum(w, c), e2etest.Content(t, 1<<20, 9))
	if s := n.Status(); len(s.Mounts) != 3 {
		t.Errorf("status shows %d mounts of 3", len(s.Mounts))
	}
	if r := n.Run("umount", "--all"); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	if left := e2etest.MountsBelow(w.Root); len(left) != 0 {
		t.Errorf("left mounted: %v", left)
	}
	n.Stop()
	ng.Stop()
	atMost(t, "sent by nginx for one file mounted twice", ng.Sent(), (file.Size+1<<20)*105/100)
}

// A mount that is in use is not taken away, unless by force; umount(8) works as well as our own.
func TestUmountBusy(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	path := n.Mount(url)
	dir := filepath.Dir(path)
	mustSum(t, sum(w, path), file)

	ready := filepath.Join(w.Dir("ready"), "yes")
	holder := w.Start(e2etest.Command{Args: []string{"sh", "-c", `exec 3<"$0"; : >"$1"; exec sleep 600`, path, ready}})
	w.Until(10*time.Second, "the file is open", func() bool { _, err := os.Stat(ready); return err == nil })
	r := n.Umount(dir)
	t.Logf("busy: exit %d: %s", r.Code, strings.TrimSpace(r.Stderr))
	if r.Code != exitLocal || len(e2etest.Lines(r.Stderr)) != 1 {
		t.Errorf("umount of a busy mount: want exit code %d and one line: %v", exitLocal, r)
	}
	if len(e2etest.MountsBelow(dir)) != 1 {
		t.Errorf("umount says busy, but the mount is gone")
	}
	begun := time.Now()
	if r := n.Umount("--force", dir); r.Code != 0 || time.Since(begun) > 5*time.Second {
		t.Errorf("umount --force of a busy mount took %v: %v", time.Since(begun), r)
	}
	if left := e2etest.MountsBelow(dir); len(left) != 0 {
		t.Errorf("left mounted after --force: %v", left)
	}
	// The file is still open, and the directory is free.
	path = n.MountAt(dir, url)
	mustSum(t, sum(w, path), file)
	if holder.Ended() {
		t.Errorf("who has the file open is gone: %v", holder.Wait(0))
	}
	if s := n.Status(); len(s.Mounts) != 1 {
		t.Errorf("status shows %d mounts, not one: %+v", len(s.Mounts), s.Mounts)
	}
	holder.Signal(syscall.SIGKILL)
	holder.Wait(10 * time.Second)
	if r := n.Umount(dir); r.Code != 0 {
		t.Errorf("%v", r)
	}

	path = n.MountAt(dir, url)
	if r := w.Run(10*time.Second, "umount", dir); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	w.Until(10*time.Second, "the node notices umount(8)", func() bool { return len(n.PIDs()) == 0 || len(n.Status().Mounts) == 0 })
	n.MountAt(dir, url)
	mustSum(t, sum(w, path), file)
}

// A node that is told to stop ends, also when somebody has files of it open: of a mount, and of one that was taken
// away by force.
func TestStopWhileBusy(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	dir := w.Dir("mnt")
	hold := func() *e2etest.Process {
		path, ready := n.MountAt(dir, url), filepath.Join(w.Dir("ready"), "yes")
		p := w.Start(e2etest.Command{Args: []string{"sh", "-c", `exec 3<"$0"; : >"$1"; exec sleep 600`, path, ready}})
		w.Until(10*time.Second, "the file is open", func() bool { _, err := os.Stat(ready); return err == nil })
		return p
	}
	first := hold()
	if r := n.Umount("--force", dir); r.Code != 0 {
		t.Fatalf("%v", r)
	}
	second := hold()
	pid := n.PID()
	syscall.Kill(pid, syscall.SIGTERM)
	if !e2etest.Poll(20*time.Second, func() bool { return !e2etest.Alive(pid) }) {
		t.Error("the daemon survives SIGTERM for 20 s")
	}
	if left := e2etest.MountsBelow(dir); len(left) != 0 {
		t.Errorf("left mounted: %v", left)
	}
	for _, p := range []*e2etest.Process{first, second} {
		p.Signal(syscall.SIGKILL)
		p.Wait(10 * time.Second)
	}
}

// -f stays in the foreground and unmounts on Ctrl-C and on SIGTERM.
func TestForeground(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			n, dir := w.Node("n"), w.Dir("mnt")
			p := n.Start("mount", "-f", url, dir)
			w.Until(20*time.Second, "mounted", func() bool {
				if p.Ended() {
					t.Fatalf("%v", p.Wait(0))
				}
				return len(e2etest.MountsBelow(dir)) == 1
			})
			mustSum(t, sum(w, filepath.Join(dir, "model.bin")), file)
			p.Signal(sig)
			r := p.Wait(20 * time.Second)
			t.Logf("exit %d", r.Code)
			if r.TimedOut {
				t.Errorf("%v", r)
			}
			if left := e2etest.MountsBelow(dir); len(left) != 0 {
				t.Errorf("left mounted: %v", left)
			}
		})
	}
}

// A node that is ended by SIGTERM leaves no mount; what it had is there again when the next one starts, without
// the origin having to send it.
func TestRestartKeepsTheCache(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	ng := w.Nginx("100m")
	url := ng.Serve(file, "model.bin")
	n := w.Node("n")
	dir := w.Dir("mnt")
	mustSum(t, sum(w, n.MountAt(dir, url)), file)
	syscall.Kill(n.PID(), syscall.SIGTERM)
	w.Until(15*time.Second, "the node has ended", func() bool { return len(n.PIDs()) == 0 })
	if left := e2etest.MountsBelow(dir); len(left) != 0 {
		t.Fatalf("SIGTERM left %v", left)
	}
	path := n.MountAt(dir, url)
	if m := n.MountStatus(path); m.Present != file.Size {
		t.Errorf("%d of %d bytes are present after a restart", m.Present, file.Size)
	}
	mustSum(t, sum(w, path), file)
	n.Stop()
	ng.Stop()
	atMost(t, "sent by nginx for one file and two nodes in turn", ng.Sent(), file.Size*105/100)
}

// A share is found and read by others under what it printed; status, cache and doctor answer.
func TestOtherCommands(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n := w.Node("n")
	mustSum(t, sum(w, n.Mount(url)), file)
	for _, args := range [][]string{
		{"status", "-o", "json"}, {"cache", "ls", "-o", "json"}, {"doctor", "-o", "json"}, {"version", "-o", "json"},
	} {
		r := w.Start(e2etest.Command{
			Args: append([]string{e2etest.Binary(t)}, append(args, "--state", n.State)...),
			Env:  n.Env(),
		}).Wait(30 * time.Second)
		if r.Code != 0 || !json.Valid([]byte(r.Stdout)) {
			t.Errorf("want exit 0 and JSON: %v", r)
		}
	}
	if r := n.Run("status"); r.Code != 0 || !strings.Contains(r.Stdout, "model.bin") {
		t.Errorf("the table does not show the mount: %v", r)
	}
	if r := w.Run(10*time.Second, e2etest.Binary(t), "completion", "bash"); r.Code != 0 || !strings.Contains(r.Stdout, "pantala") {
		t.Errorf("%v", r)
	}
}

// A file that is shared is found by what was printed, and by nothing else than the tracker: mounted and downloaded
// on other machines, without an origin.
func TestShare(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	tr := w.Tracker()
	a := w.Node("a", "--tracker", tr.URL)
	path := w.Write("shared.bin", file.Bytes(t))
	r := a.Must("share", "-o", "json", path)
	var shared struct {
		Name, Digest, Magnet, Source string
		Size                         int64
	}
	if err := json.Unmarshal([]byte(r.Stdout), &shared); err != nil {
		t.Fatalf("%v\n%v", err, r)
	}
	if shared.Digest != "sha256:"+file.SHA256 || shared.Size != file.Size || shared.Name != "shared.bin" {
		t.Errorf("share says %+v", shared)
	}
	t.Logf("%s", shared.Source)

	b, dir := w.Node("b", "--tracker", tr.URL), w.Dir("b-mnt")
	b.Must("mount", shared.Source, dir)
	mustSum(t, sum(w, filepath.Join(dir, "shared.bin")), file)
	if m := b.MountStatus(dir); !allFromPeers(m, file) || m.FromOrigin != 0 || m.Errors != 0 {
		t.Errorf("status: %+v", m)
	}
	c, out := w.Node("c", "--tracker", tr.URL), filepath.Join(w.Dir("out"), "x.bin")
	c.Must("get", "-O", out, "--digest", shared.Digest, shared.Source)
	if got := fileSum(t, out); got != file.SHA256 {
		t.Errorf("wrong bytes: %s", got)
	}
	a.Must("share", "--stop", path)
	if got := fileSum(t, path); got != file.SHA256 {
		t.Error("sharing has changed the file")
	}
}

// What does not have the digest that was asked for is not readable any longer once that is known.
func TestMountWithDigest(t *testing.T) {
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n, dir := w.Node("n"), w.Dir("mnt")
	path := n.MountAt(dir, url, "--digest", "sha256:12"+file.SHA256[2:])
	sum(w, path).Wait(readLimit) // ends somehow: with the bytes, which nobody could know to be wrong yet, or an error
	w.Until(20*time.Second, "the wrong blob is unmounted", func() bool { return len(e2etest.MountsBelow(dir)) == 0 })
	if r := n.Umount(dir); r.Code != 0 && r.Code != exitNotFound {
		t.Errorf("%v", r)
	}
	path = n.MountAt(dir, url, "--digest", "sha256:"+file.SHA256)
	mustSum(t, sum(w, path), file)
	w.MustRead(readLimit, e2etest.Read{Path: path, Want: file.Path, Drop: true})
}

// unprivileged is what a user without any rights does, in a mount namespace of its own in which /dev/fuse is open
// to all, as udev makes it on an ordinary machine. $0 is a folder, then: pantala, state, url, dir, sum.
const unprivileged = `
set -e
mknod "$0/fuse" c 10 229
chmod 666 "$0/fuse"
mount --bind "$0/fuse" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME="$0" sh -e -c '
	"$1" mount --state "$2" --listen 127.0.0.1:0 --fill never "$3" "$4" >&2
	got=$(sha256sum <"$4"/model.bin)
	[ "${got%% *}" = "$5" ] || { echo "wrong bytes: $got" >&2; exit 90; }
	got=$(sha256sum <"$4"/model.bin)
	[ "${got%% *}" = "$5" ] || { echo "wrong bytes when complete: $got" >&2; exit 91; }
	"$1" status --state "$2" -o json
	"$1" umount --state "$2" "$4"
	! grep -q " $4 " /proc/self/mountinfo || { echo "still mounted" >&2; exit 92; }
' sh "$@"
`

// Nobody in particular mounts through fusermount3.
func TestUnprivileged(t *testing.T) {
	e2etest.NeedRoot(t)
	e2etest.NeedProgram(t, "fusermount3", "apt-get install fuse3")
	w := e2etest.New(t)
	file := small(t)
	url := w.Nginx("100m").Serve(file, "model.bin")
	n, dir := w.Node("n"), w.Dir("mnt")
	for _, d := range []string{n.State, dir} {
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	r := w.Start(e2etest.Command{
		Args: []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", unprivileged,
			w.Dir("dev"), e2etest.Binary(t), n.State, url, dir, file.SHA256},
		Env: n.Env(),
	}).Wait(readLimit)
	if r.Code != 0 {
		t.Fatalf("%v", r)
	}
	var s e2etest.Status
	n.UID = nobody // whom its commands obey
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil || len(s.Mounts) != 1 || s.Mounts[0].Errors != 0 || s.Mounts[0].Present != file.Size {
		t.Errorf("status of an unprivileged mount: %v %v", err, r.Stdout)
	}
}
