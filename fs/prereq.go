package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// Problem is something this machine lacks.
type Problem struct {
	What string // what is missing or wrong
	Fix  string // what to install or do
}

func (p Problem) String() string { return p.What + "; " + p.Fix }

// Prerequisites lists why this process could not mount anything; nil when it can. It changes nothing.
func Prerequisites() []Problem {
	var problems []Problem
	if _, err := os.Stat(deviceFuse); errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, Problem{deviceFuse + " does not exist",
			"run modprobe fuse as root; in a container, start it with --device " + deviceFuse + " --cap-add SYS_ADMIN"})
	}
	if _, err := os.Stat(mountInfoPath); err != nil {
		problems = append(problems, Problem{"the mount table " + mountInfoPath + " cannot be read", "mount proc on /proc"})
	}
	if !canMount() {
		if err := unix.Access(deviceFuse, unix.R_OK|unix.W_OK); errors.Is(err, unix.EACCES) {
			problems = append(problems, Problem{deviceFuse + " may be opened by root only", "run as root: chmod 666 " + deviceFuse})
		}
		helper, err := fusermount()
		if err != nil {
			problems = append(problems, Problem{"not root and no fusermount3 in PATH",
				"install it (Debian, Ubuntu, Fedora: the package fuse3) or run as root"})
		} else if st, err := os.Stat(helper); err == nil && st.Mode()&fs.ModeSetuid == 0 && os.Geteuid() != 0 {
			problems = append(problems, Problem{helper + " is not setuid root", "run chmod u+s " + helper + " as root"})
		} else if os.Geteuid() == 0 {
			problems = append(problems, Problem{"root without CAP_SYS_ADMIN may not mount", "start the container with --cap-add SYS_ADMIN"})
		}
	} else if f, err := os.OpenFile(deviceFuse, os.O_RDWR, 0); err == nil {
		f.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, Problem{fmt.Sprintf("%s cannot be opened (%v)", deviceFuse, err),
			"in a container, start it with --device " + deviceFuse})
	}
	return problems
}

// prerequisites explains why doing failed with err: by what Prerequisites finds, if anything.
func prerequisites(doing string, err error) error {
	if p := Prerequisites(); len(p) > 0 {
		return fmt.Errorf("%w: %s", ErrPrerequisite, p[0])
	}
	return fmt.Errorf("%w: %s: %w; check that this kernel has FUSE (modprobe fuse)", ErrPrerequisite, doing, err)
}

// canMount reports whether this process may call mount(2): root in a container often may not.
func canMount() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return os.Geteuid() == 0
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("CapEff:")); ok {
			v, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
			return err == nil && v&(1<<unix.CAP_SYS_ADMIN) != 0
		}
	}
	return false
}

// fusermount is the path of the setuid helper.
func fusermount() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount", "/usr/bin/fusermount3", "/bin/fusermount3"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: not root and no fusermount3 in PATH; install it (Debian, Ubuntu, Fedora: the package fuse3) or run as root", ErrPrerequisite)
}
