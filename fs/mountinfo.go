package fs

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fsSubtype and fsType are how our mounts are called in the mount table and by df -T.
const (
	fsSubtype = "pantala"
	fsType    = "fuse." + fsSubtype
)

const mountInfoPath = "/proc/self/mountinfo"

// MountInfo is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type MountInfo struct {
	ID     int    // of the mount; reused by the kernel after an unmount
	Dev    string // "major:minor" of st_dev
	Dir    string // mount point, as seen from this process's root
	Type   string // file system type, "fuse.pantala" for ours
	Source string // what df shows as device
}

// Mounts are the mounts of pantala that this process sees, oldest first, whoever serves them.
func Mounts() ([]MountInfo, error) {
	all, err := mountTable()
	if err != nil {
		return nil, err
	}
	var ours []MountInfo
	for _, i := range all {
		if i.Type == fsType {
			ours = append(ours, i)
		}
	}
	return ours, nil
}

// Below are all mounts, of whatever type, at or below the directory dir, oldest first. Nothing below it is touched.
func Below(dir string) ([]MountInfo, error) {
	all, err := mountTable()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(i MountInfo) bool {
		return i.Dir != dir && !strings.HasPrefix(i.Dir, strings.TrimSuffix(dir, "/")+"/")
	}), nil
}

func mountTable() ([]MountInfo, error) {
	b, err := os.ReadFile(mountInfoPath)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot read the mount table: %w; mount proc on /proc", ErrPrerequisite, err)
	}
	return parseMountInfo(b)
}

// parseMountInfo reads lines of the form
//
//	36 35 98:0 /root /dir options [tag:value …] - type source superoptions
func parseMountInfo(b []byte) ([]MountInfo, error) {
	var infos []MountInfo
	for line := range bytes.Lines(b) {
		left, right, ok := strings.Cut(strings.TrimRight(string(line), "\n"), " - ")
		l, r := strings.Split(left, " "), strings.Split(right, " ")
		if !ok || len(l) < 6 || len(r) < 2 {
			return nil, fmt.Errorf("cannot understand the mount table line %q", line)
		}
		id, err := strconv.Atoi(l[0])
		if err != nil {
			return nil, fmt.Errorf("cannot understand the mount table line %q: %w", line, err)
		}
		infos = append(infos, MountInfo{ID: id, Dev: l[2], Dir: unescape(l[4]), Type: r[0], Source: unescape(r[1])})
	}
	return infos, nil
}

// unescape undoes the octal escapes of space, tab, newline, backslash and hash in the mount table.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// topAt is what is mounted on dir, the uppermost one if there are several.
func topAt(table []MountInfo, dir string) (MountInfo, bool) {
	for i := len(table) - 1; i >= 0; i-- {
		if table[i].Dir == dir {
			return table[i], true
		}
	}
	return MountInfo{}, false
}

// presence watches whether one mount is still in the mount table. It is used by one goroutine at a time.
type presence struct {
	dev   string
	fd    int  // of the mount table: the kernel remembers per open file which changes it has told of
	stale bool // a change was told, and the table could not be read since
	left  bool
}

// watch opens the mount table for a mount whose device number is dev. The descriptor is not an os.File, because
// Go's poller would take the news that are meant for us.
func watch(dev string) (*presence, error) {
	fd, err := unix.Open(mountInfoPath, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot watch the mount table: %w; mount proc on /proc", ErrPrerequisite, err)
	}
	return &presence{dev: dev, fd: fd}, nil
}

// gone reports that the mount is not in the table any more. While nothing changes it costs one poll(2).
func (p *presence) gone() bool {
	if p.left {
		return true
	}
	// proc_pid_mounts(5): a change of the table is a priority event, told once.
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLPRI}}
	if n, err := unix.Poll(fds, 0); (err != nil || n == 0) && !p.stale {
		return false
	}
	table, err := mountTable()
	p.stale = err != nil
	p.left = err == nil && !slices.ContainsFunc(table, func(i MountInfo) bool { return i.Dev == p.dev })
	return p.left
}

func (p *presence) close() { unix.Close(p.fd) }
