package e2etest

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MountPoint is one line of /proc/self/mountinfo.
type MountPoint struct {
	Dir, Type, Source string
}

// MountsBelow lists what is mounted at or below dir, the newest first, so that unmounting in this order
// succeeds. It reads mountinfo only and touches no mount.
func MountsBelow(dir string) []MountPoint {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []MountPoint
	for line := range strings.Lines(string(table)) {
		// 36 35 98:0 /root /mount/point options … - fstype source superoptions (proc_pid_mountinfo(5))
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			continue
		}
		at := unescape(l[4])
		if at == dir || strings.HasPrefix(at, strings.TrimSuffix(dir, "/")+"/") {
			found = append([]MountPoint{{Dir: at, Type: r[0], Source: unescape(r[1])}}, found...)
		}
	}
	return found
}

// unescape undoes the octal escapes of mountinfo (\040 for a space).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ForceUnmount takes a mount away whatever state its server is in: in a child and under a time limit, first
// politely, then by MNT_FORCE, which aborts that FUSE connection (and no other), and MNT_DETACH.
func ForceUnmount(dir string) error {
	var err error
	for range 5 {
		child := exec.Command("/proc/self/exe", dir)
		child.Env = append(os.Environ(), roleEnv+"=unmount")
		var out []byte
		done := make(chan struct{})
		go func() { defer close(done); out, err = child.CombinedOutput() }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			// The child hangs in umount2: it has aborted nothing. Do so from here; the call is on the
			// mount, not on anything below it.
			syscall.Unmount(dir, syscall.MNT_FORCE)
			child.Process.Kill()
			<-done
		}
		if len(MountsBelow(dir)) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("still mounted: %s", out)
		}
	}
	return fmt.Errorf("unmounting %s: %w", dir, err)
}

func playUnmount() int {
	dir := os.Args[1]
	for _, flags := range []int{0, syscall.MNT_FORCE, syscall.MNT_FORCE | syscall.MNT_DETACH} {
		err := syscall.Unmount(dir, flags)
		if err == nil && len(MountsBelow(dir)) == 0 {
			return 0
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	return 1
}
