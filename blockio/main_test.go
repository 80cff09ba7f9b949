package blockio

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also runs the child of [TestKill], and fails on goroutines and descriptors that are left.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		childPuts(dir)
	}
	before := descriptors()
	code := m.Run()
	if code == 0 && descriptors() > before+2 { // the runtime's epoll and eventfd may come into being
		fmt.Fprintf(os.Stderr, "%d descriptors before, %d after\n", before, descriptors())
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func descriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}
