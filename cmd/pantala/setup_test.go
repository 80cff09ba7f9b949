package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
)

var setupWanted = wanted{socket: "/run/p.sock", root: "/var/lib/p/snapshotter"}

// TestSetupEdits: what is added, and that nothing else changes, for the ways in which people write TOML.
func TestSetupEdits(t *testing.T) {
	const proxy = `
[proxy_plugins.pantala]
  type = "snapshot"
  address = "/run/p.sock"

[proxy_plugins.pantala.exports]
  root = "/var/lib/p/snapshotter"
  enable_remote_snapshot_annotations = "true"
`
	const cri2 = `
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "pantala"
  disable_snapshot_annotations = false
`
	const overlay = `
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "overlayfs"
  differ = "walking"
`
	unpack := strings.ReplaceAll(overlay, "overlayfs", "pantala")
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "", "version = 2\n" + proxy + cri2 + overlay + unpack},
		{"comments only", "# mine\n", "# mine\nversion = 2\n" + proxy + cri2 + overlay + unpack},
		{"Debian", `version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
`, `version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
` + proxy + cri2 + overlay + unpack},
		{"in place", `version = 2 # two
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause" # keep
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs" # the old one
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      snapshotter = "" # of the runtime

[proxy_plugins]
# the end`, `version = 2 # two
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause" # keep
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "pantala" # the old one
    disable_snapshot_annotations = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      snapshotter = "" # of the runtime

[proxy_plugins]
# the end
` + proxy + overlay + unpack},
		{"version 3, single quotes", `version = 3
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
disable_snapshot_annotations = true
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
snapshotter = 'native'
platform = 'linux/arm64'
`, `version = 3
[plugins.'io.containerd.cri.v1.images']
snapshotter = "pantala"
disable_snapshot_annotations = false
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
snapshotter = 'native'
platform = 'linux/arm64'
` + proxy + unpack},
		{"dotted keys and an inline array", `version = 3
plugins."io.containerd.cri.v1.images".snapshotter = "overlayfs"
plugins."io.containerd.cri.v1.images".disable_snapshot_annotations = true
plugins."io.containerd.transfer.v1.local".unpack_config = [
  { snapshotter = "native", platform = "linux" },
]
`, `version = 3
plugins."io.containerd.cri.v1.images".snapshotter = "pantala"
plugins."io.containerd.cri.v1.images".disable_snapshot_annotations = false
plugins."io.containerd.transfer.v1.local".unpack_config = [
  { snapshotter = "native", platform = "linux" }, { platform = "linux", snapshotter = "pantala", differ = "walking" }]
` + proxy},
		{"empty inline array", "version = 3\n[plugins.'io.containerd.transfer.v1.local']\nunpack_config = []\n", "version = 3\n[plugins.'io.containerd.transfer.v1.local']\n" +
			`unpack_config = [{ platform = "linux", snapshotter = "overlayfs", differ = "walking" }, { platform = "linux", snapshotter = "pantala", differ = "walking" }]` + "\n" + proxy +
			strings.Replace(cri2, `"io.containerd.grpc.v1.cri".containerd`, `"io.containerd.cri.v1.images"`, 1)},
		{"other socket", "version = 2\n" + strings.Replace(proxy, "/run/p.sock", "/old.sock", 1) + cri2 + overlay + unpack, "version = 2\n" + proxy + cri2 + overlay + unpack},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.toml")
			if c.name != "nothing" {
				if err := os.WriteFile(path, []byte(c.in), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			edits, notes, err := setupWanted.plan(path)
			if err != nil || len(notes) > 0 || len(edits) != 1 {
				t.Fatalf("%v %v %v", edits, notes, err)
			}
			if d := cmp.Diff(c.want, edits[0].after); d != "" {
				t.Fatal(d)
			}
			if err := os.WriteFile(path, []byte(edits[0].after), 0o600); err != nil {
				t.Fatal(err)
			}
			if edits, _, err := setupWanted.plan(path); err != nil || len(edits) > 0 {
				t.Errorf("not done: %v %v", edits, err)
			}
		})
	}
}

// TestSetupDropIn: where containerd 2.x imports a folder, the main file stays as it is.
func TestSetupDropIn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("config.toml", "version = 4\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"overlayfs\"\n")
	write("conf.d/10-other.toml", "version = 4\n[debug]\nlevel = \"info\"\n")
	edits, _, err := setupWanted.plan(path)
	if err != nil || len(edits) != 1 || edits[0].path != filepath.Join(dir, "conf.d", dropIn) || edits[0].existed {
		t.Fatalf("%+v %v", edits, err)
	}
	f, err := parseTOML(edits[0].after)
	if err != nil {
		t.Fatal(err)
	}
	if f.get("version") != int64(4) || f.get("plugins", criV3, "snapshotter") != pluginName || len(f.get("plugins", transferID, "unpack_config").([]any)) != 2 {
		t.Error(edits[0].after)
	}
	for _, bad := range []string{
		"[proxy_plugins.pantala]\naddress = \"/x\"\n",
		"[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"stargz\"\n",
		"[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nsnapshotter = \"stargz\"\n",
		"no toml",
	} {
		write("conf.d/50-bad.toml", bad)
		if _, _, err := setupWanted.plan(path); !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), "50-bad.toml") {
			t.Errorf("beside %q: %v", bad, err)
		}
	}
}

// TestSetupRefuses: what is not understood stays as it is.
func TestSetupRefuses(t *testing.T) {
	for _, c := range []struct{ in, why string }{
		{"version = 2\nroot = \n", "line 2"},
		{"root = \"/x\"\n", "config migrate"},
		{"version = 1\n", "config migrate"},
		{"version = 9\n", "version 9"},
		{"version = 2\nproxy_plugins = { x = { type = \"snapshot\" } }\n", "by hand"},
		{"version = 2\nplugins = \"none\"\n", "by hand"},
		{"version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\nunpack_config = 7\n", "by hand"},
		{"version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\nunpack_config = [ # last\n]\n", "by hand"},
	} {
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, []byte(c.in), 0o600); err != nil {
			t.Fatal(err)
		}
		edits, _, err := setupWanted.plan(path)
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(err.Error(), c.why) || len(edits) > 0 {
			t.Errorf("%q: %v, %v", c.in, edits, err)
		}
		if hand, ok := errors.AsType[byHand](err); ok {
			if f, err := parseTOML(hand.shall); err != nil || f.get("proxy_plugins", pluginName, "address") != setupWanted.socket {
				t.Errorf("what to do by hand is %q", hand.shall)
			}
		}
	}
}

// FuzzSetup: whatever the file is, what comes out is readable and says what went in, and what is wanted.
func FuzzSetup(f *testing.F) {
	for _, s := range []string{"", "version = 2\n[a.'b']\nc=[1,\n2]\n", "version=3\n[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nsnapshotter='x'\n", "version = 4\r\n[plugins]\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		doc, err := parseTOML(in)
		if err != nil {
			return
		}
		before := deepCopy(doc.root)
		if err := setupWanted.apply(doc, []string{"plugins", criV3}); err != nil {
			return
		}
		again, err := parseTOML(doc.text)
		if err != nil || again.get("proxy_plugins", pluginName, "address") != setupWanted.socket {
			t.Fatalf("%q became %q: %v", in, doc.text, err)
		}
		for k, v := range before.(map[string]any) {
			if k != "plugins" && k != "proxy_plugins" && !sameTOML(v, again.root[k]) {
				t.Fatalf("%q became %q: %s changed", in, doc.text, k)
			}
		}
	})
}

// sameTOML is reflect.DeepEqual on what is no NaN.
func sameTOML(a, b any) bool {
	f, isFloat := a.(float64)
	return isFloat && f != f || reflect.DeepEqual(a, b)
}

// TestUnifiedDiff compares with diff -u, whose output patch(1) takes.
func TestUnifiedDiff(t *testing.T) {
	long := strings.Repeat("a\nb\nc\n", 10)
	for _, c := range []struct{ before, after string }{
		{"", "new\n"}, {"old\n", ""}, {"a\nb\n", "a\nc\n"}, {"same\n", "same\n"}, {"no end", "no end\n"},
		{long, strings.Replace(long, "b\n", "B\nB2\n", 1)},
		{long, "first\n" + long + "last\n"},
		{long, strings.Replace(long[:24], "c\n", "", 1) + long[24:] + "x"},
	} {
		got := unifiedDiff("f", c.before, c.after)
		if c.before == c.after {
			if got != "" {
				t.Errorf("a difference of nothing: %s", got)
			}
			continue
		}
		dir := t.TempDir()
		for name, text := range map[string]string{"f": c.before, "diff": got} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		patch, err := exec.LookPath("git")
		if err != nil {
			t.Fatal(err) // the go command needs it as well
		}
		cmd := exec.Command(patch, "apply", "--unidiff-zero", "-p0", "diff")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("git apply: %v: %s\n%s", err, out, got)
			continue
		}
		if after, err := os.ReadFile(filepath.Join(dir, "f")); (err != nil && c.after != "") || string(after) != c.after {
			t.Errorf("%q, not %q, by\n%s", after, c.after, got)
		}
	}
}
