package main

import (
	"os"
	"path/filepath"

	"github.com/pantala/pantala/control"
)

// resolveDir makes the name of a mount point absolute and resolves symbolic links, so that it is the one the
// mount table has. It does not ask what is mounted there, which may be dead. What does not exist stays as it
// is; the node says so.
func resolveDir(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", control.Local(err)
	}
	const links = 40 // the kernel's bound (path_resolution(7))
	for range links {
		parent, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return path, nil
		}
		path = filepath.Join(parent, filepath.Base(path))
		target, err := os.Readlink(path)
		if err != nil {
			return path, nil
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		path = target
	}
	return path, nil
}
