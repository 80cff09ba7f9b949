package fs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// served are the device numbers of the mounts that this process serves, which it must never touch, and the paths
// that it is mounting on right now.
var served = struct {
	mu    sync.Mutex
	devs  map[string]bool // guarded by mu
	paths map[string]bool // guarded by mu
}{devs: map[string]bool{}, paths: map[string]bool{}}

// reserve keeps two mounts of this process from being made on one path at the same time.
func reserve(path string) (release func(), err error) {
	served.mu.Lock()
	defer served.mu.Unlock()
	if served.paths[path] {
		return nil, fmt.Errorf("%w: %s is being mounted on by another request; wait for it", ErrBusy, path)
	}
	served.paths[path] = true
	return func() {
		served.mu.Lock()
		defer served.mu.Unlock()
		delete(served.paths, path)
	}, nil
}

func setServed(dev string, on bool) {
	served.mu.Lock()
	defer served.mu.Unlock()
	if on {
		served.devs[dev] = true
	} else {
		delete(served.devs, dev)
	}
}

func isServed(dev string) bool {
	served.mu.Lock()
	defer served.mu.Unlock()
	return served.devs[dev]
}

// CheckDir says whether a blob can be mounted on dir: nil, or one line that says what to do. forbidden are
// directories, such as the state directory, below which nothing may be mounted. A mount of ours on dir is
// [ErrBusy] when it is alive and [ErrStale] when nobody serves it any more.
func CheckDir(dir string, asFile bool, forbidden ...string) error {
	_, err := checkDir(dir, asFile, forbidden)
	return err
}

// checkDir is CheckDir, and the resolved path.
func checkDir(dir string, asFile bool, forbidden []string) (string, error) {
	if dir == "" {
		return "", fmt.Errorf("%w: no directory given; say where to mount", ErrMountPoint)
	}
	ours, err := Mounts()
	if err != nil {
		return "", err
	}
	path, err := resolve(dir, ours)
	if errors.Is(err, fs.ErrNotExist) {
		if asFile {
			return "", fmt.Errorf("%w: %s does not exist; create it first: touch %s", ErrMountPoint, dir, dir)
		}
		return "", fmt.Errorf("%w: %s does not exist; create it first: mkdir -p %s", ErrMountPoint, dir, dir)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w; choose another directory", ErrMountPoint, err)
	}
	if m, ok := topAt(ours, path); ok {
		return "", occupied(m)
	}
	if m, ok := above(ours, path); ok {
		return "", fmt.Errorf("%w: %s lies inside the pantala mount %s; choose a directory outside it", ErrMountPoint, dir, m.Dir)
	}
	for _, f := range forbidden {
		if f == "" {
			continue
		}
		below, err := resolve(f, ours)
		if err == nil && within(path, below) {
			return "", fmt.Errorf("%w: %s lies under %s, which pantala itself needs; choose a directory outside it", ErrMountPoint, dir, f)
		}
	}
	if asFile {
		return path, checkFile(dir, path)
	}
	return path, checkEmpty(dir, path)
}

func checkFile(dir, path string) error {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w; choose another file", ErrMountPoint, err)
	case st.IsDir():
		return fmt.Errorf("%w: %s is a directory; leave out --as-file, or name a file", ErrMountPoint, dir)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a regular file; name one", ErrMountPoint, dir)
	}
	return checkWritable(dir, path)
}

func checkEmpty(dir, path string) error {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w; choose another directory", ErrMountPoint, err)
	case st.Mode().IsRegular():
		return fmt.Errorf("%w: %s is a file; name a directory, or mount onto the file itself with --as-file", ErrMountPoint, dir)
	case !st.IsDir():
		return fmt.Errorf("%w: %s is not a directory; name one", ErrMountPoint, dir)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w; choose a directory of your own", ErrMountPoint, err)
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); err == nil {
		return fmt.Errorf("%w: %s is not empty; choose an empty directory", ErrMountPoint, dir)
	} else if err != io.EOF {
		return fmt.Errorf("%w: %w; choose another directory", ErrMountPoint, err)
	}
	return checkWritable(dir, path)
}

// checkWritable asks what fusermount3 will ask: who may not write to a place may not cover it either.
func checkWritable(dir, path string) error {
	if canMount() || unix.Access(path, unix.W_OK) == nil {
		return nil
	}
	return fmt.Errorf("%w: no permission to mount on %s; choose a directory of your own, or run as root", ErrMountPoint, dir)
}

// probeWait is how long a mount of ours may take to answer one request for attributes.
const probeWait = 2 * time.Second

// occupied says what to do about a mount of ours that is already there.
func occupied(m MountInfo) error {
	busy := fmt.Errorf("%w: %s is already mounted from %s; unmount it first: pantala umount %s", ErrBusy, m.Dir, m.Source, m.Dir)
	if isServed(m.Dev) {
		return busy
	}
	// Another process serves it, or none does. That process may be stuck, so its answer is not waited for in
	// this goroutine; the channel is buffered so that the prober ends whenever the kernel lets it.
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(m.Dir, &st)
	}()
	timer := time.NewTimer(probeWait)
	defer timer.Stop()
	select {
	case err := <-answer:
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
			return fmt.Errorf("%w: nobody serves the mount on %s any more; clean it up: pantala umount %s", ErrStale, m.Dir, m.Dir)
		}
		return busy
	case <-timer.C:
		return fmt.Errorf("%w: %s is already mounted from %s and does not answer; clean it up: pantala umount --force %s", ErrBusy, m.Dir, m.Source, m.Dir)
	}
}

// within reports whether path is dir or lies below it; both are resolved.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// above is the mount of ours that path lies in.
func above(ours []MountInfo, path string) (MountInfo, bool) {
	for _, m := range ours {
		if within(path, m.Dir) {
			return m, true
		}
	}
	return MountInfo{}, false
}

// maxLinks is the kernel's bound on symbolic links in one path (path_resolution(7)).
const maxLinks = 40

// resolve is the absolute path of dir without symbolic links. It walks the path itself, because
// filepath.EvalSymlinks would touch our own mounts: as soon as it comes to one it stops and returns it, with
// the rest of the path appended.
func resolve(dir string, ours []MountInfo) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	done, rest := "/", strings.Split(strings.Trim(abs, "/"), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		next := filepath.Join(done, name)
		if _, ok := topAt(ours, next); ok {
			return filepath.Join(append([]string{next}, rest...)...), nil
		}
		target, err := os.Readlink(next)
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return "", &fs.PathError{Op: "resolve", Path: dir, Err: unix.ELOOP}
			}
			if filepath.IsAbs(target) {
				done = "/"
			}
			rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
		case errors.Is(err, unix.EINVAL): // not a link
			done = next
		default:
			return "", err
		}
	}
	return done, nil
}
