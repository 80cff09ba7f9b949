package fs

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is also the server of every mount that is tested, and some of the readers: a process must
// never touch a mount that it serves.
const roleEnv = "PANTALA_FS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "server":
		os.Exit(serverMain())
	case "holder":
		if err := Hold(context.Background(), os.NewFile(3, "server"), os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "holder:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case "devices":
		os.Exit(devicesMain())
	case "image":
		os.Exit(imageMain())
	case "reader":
		os.Exit(readerMain(os.Args[1:]))
	}
	flag.Parse()
	code := m.Run()
	if publicDir != "" {
		os.RemoveAll(publicDir)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if left := testMounts(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "tests left mounts behind: %v\n", left)
		code = 1
	}
	os.Exit(code)
}

// testMounts are mounts that this run of the tests made: their source carries our pid.
func testMounts() (left []MountInfo) {
	all, err := Mounts()
	if err != nil {
		return nil
	}
	for _, i := range all {
		if strings.HasPrefix(i.Source, testSource()) {
			left = append(left, i)
		}
	}
	return left
}

func testSource() string { return fmt.Sprintf("pantala-test-%d-", os.Getpid()) }

// needFUSE skips a test on a machine that cannot mount, and fails it where the machine should be able to.
func needFUSE(t testing.TB) {
	t.Helper()
	problems := Prerequisites()
	if os.Geteuid() != 0 {
		problems = append(problems, Problem{"not root", "run the tests as root"})
	}
	if len(problems) == 0 {
		return
	}
	_, err := os.Stat(deviceFuse)
	if os.Getenv("CI") == "true" || os.Geteuid() == 0 && err == nil {
		t.Fatalf("this machine must be able to mount: %v", problems)
	}
	t.Skipf("cannot mount: %v", problems)
}
