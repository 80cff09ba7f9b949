package e2etest

import (
	"os"
	"os/exec"
	"testing"
)

// Need ends the test when this machine lacks something: it fails where CI=true, so that a pipeline cannot turn
// green by skipping, and elsewhere it skips and says what to do. lack is nil when nothing is lacking.
func Need(t testing.TB, what string, lack error, do string) {
	t.Helper()
	if lack == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this machine should have %s: %v: %s", what, lack, do)
	}
	t.Skipf("no %s: %v: %s", what, lack, do)
}

// NeedProgram is [Need] for an executable; it returns its path.
func NeedProgram(t testing.TB, name, do string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && name == "nginx" { // Debian keeps it out of a user's PATH
		path, err = exec.LookPath("/usr/sbin/nginx")
	}
	Need(t, name, err, do)
	return path
}

// NeedFUSE is [Need] for what mounting takes. Where /dev/fuse exists and we are root a mount that fails is a
// failure, so nothing more is asked.
func NeedFUSE(t testing.TB) {
	t.Helper()
	_, err := os.Stat("/dev/fuse")
	Need(t, "/dev/fuse", err, "load the fuse module (modprobe fuse), or give the container --device /dev/fuse")
	if os.Getuid() != 0 {
		NeedProgram(t, "fusermount3", "apt-get install fuse3")
	}
}

// NeedRoot is [Need] for uid 0.
func NeedRoot(t testing.TB) {
	t.Helper()
	var lack error
	if os.Getuid() != 0 {
		lack = os.ErrPermission
	}
	Need(t, "root", lack, "run as root")
}
