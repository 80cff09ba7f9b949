package e2etest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every Linux.
const clockTick = 10 * time.Millisecond

// statFields are the fields of /proc/PID/stat after the command name; [0] is field 3, the state.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// startTime tells a process from another one that later got the same id.
func startTime(pid int) string {
	if f := statFields(pid); len(f) > 19 {
		return f[19] // field 22
	}
	return "gone"
}

// Alive reports whether pid runs. A zombie does not, unless threads of it are still about to end: they hold its
// files and sockets.
func Alive(pid int) bool {
	f := statFields(pid)
	if len(f) == 0 || f[0] == "X" {
		return false
	}
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return f[0] != "Z" || len(threads) > 1
}

// CPU is the user and system time that a process has used so far, its threads included.
func CPU(pid int) time.Duration {
	f := statFields(pid)
	if len(f) < 13 {
		return 0
	}
	utime, _ := strconv.ParseInt(f[11], 10, 64) // fields 14 and 15
	stime, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(utime+stime) * clockTick
}

// RSS is the resident memory of a process in bytes: now, the part of that which is not mapped from files, and the
// peak (VmRSS, RssAnon, VmHWM of proc_pid_status(5)).
func RSS(pid int) (now, anon, peak int64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = kib << 10
		case "RssAnon:":
			anon = kib << 10
		case "VmHWM:":
			peak = kib << 10
		}
	}
	return now, anon, peak
}

// Marked lists the running processes whose environment says key=value, or key=value/… .
func Marked(key, value string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	want := []byte(key + "=" + value)
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !Alive(pid) {
			continue
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if rest, ok := bytes.CutPrefix(v, want); ok && (len(rest) == 0 || rest[0] == '/') {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// CommandLine is what a process was started with.
func CommandLine(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
}
