package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
)

const (
	pluginName = "pantala"
	// dropIn is our file where containerd 2.x imports a folder: late in the order of names, because a later file wins.
	dropIn     = "90-pantala.toml"
	dropInHead = "# Written by `pantala setup containerd`; `pantala setup containerd --undo` removes it.\nversion = %d\n"

	criV2       = "io.containerd.grpc.v1.cri"   // configuration version 2: containerd 1.x, and 2.x that was upgraded
	criV3       = "io.containerd.cri.v1.images" // 3 and 4: containerd 2.x
	transferID  = "io.containerd.transfer.v1.local"
	newestKnown = 4 // of containerd 2.4
)

// wanted is what containerd shall know.
type wanted struct {
	socket, root string
}

// byHand is an error that a person can go on from, with what shall be in the configuration.
type byHand struct {
	error
	shall string
}

func (b byHand) Unwrap() error { return b.error }

// edit is one file before and after.
type edit struct {
	path          string
	existed       bool
	mode          os.FileMode
	before, after string
}

// plan says how the configuration at path becomes one in which pantala is a snapshotter and the one of CRI. Nothing is
// written. ErrInvalid when the file is not understood, or cannot be changed safely.
func (w wanted) plan(path string) (edits []edit, notes []string, err error) {
	main, err := readEdit(path)
	if err != nil {
		return nil, nil, err
	}
	f, err := parseTOML(main.before)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	version, _ := f.get("version").(int64)
	switch {
	case len(f.root) == 0: // what any containerd since 1.3 reads
		version = 2
		if err := f.insert(len(f.text), "version = 2\n", map[string]any{"version": int64(2)}); err != nil {
			return nil, nil, fmt.Errorf("%s: %w: %w", path, blob.ErrInvalid, err)
		}
	case version < 2:
		return nil, nil, fmt.Errorf("%w: %s is of configuration version 1: run `containerd config migrate` first, which prints it as a newer one", blob.ErrInvalid, path)
	case version > newestKnown:
		return nil, nil, fmt.Errorf("%w: %s is of configuration version %d, but this pantala knows 2 to %d: a newer pantala may know it", blob.ErrInvalid, path, version, newestKnown)
	}
	cri := []string{"plugins", criV3}
	if version == 2 {
		cri = []string{"plugins", criV2, "containerd"}
	}
	imported, folder, err := imports(f, path)
	if err != nil {
		return nil, nil, err
	}
	if err := w.conflicts(imported, version, cri, folder); err != nil {
		return nil, nil, err
	}
	if disabled, _ := f.get("disabled_plugins").([]any); slices.ContainsFunc(disabled, func(v any) bool { return v == "cri" || v == criV2 || v == criV3 }) {
		notes = append(notes, "CRI is disabled in "+path+": Kubernetes cannot use this containerd, ctr and nerdctl can")
	}

	// A folder of drop-ins serves, if containerd merges tables (2.x; 1.x replaces those of a whole plugin) and if the
	// main file has no unpack_config (2.x replaces arrays).
	target := f
	where := &main
	if version > 2 && folder != "" && f.get("plugins", transferID, "unpack_config") == nil && f.get("proxy_plugins", pluginName) == nil {
		drop, err := readEdit(filepath.Join(folder, dropIn))
		if err != nil {
			return nil, nil, err
		}
		if target, err = parseTOML(fmt.Sprintf(dropInHead, version)); err != nil {
			return nil, nil, err
		}
		where = &drop
	}
	if err := w.apply(target, cri); err != nil {
		return nil, nil, byHand{fmt.Errorf("%w: %s: %w: change it by hand to what is shown above", blob.ErrInvalid, where.path, err), w.example(version, cri)}
	}
	if where.after = target.text; where.after == where.before {
		return nil, notes, nil
	}
	return []edit{*where}, notes, nil
}

// apply makes the changes.
func (w wanted) apply(f *tomlFile, cri []string) error {
	set := func(value any, path ...string) (err error) { return f.set(value, path...) }
	unpack := []string{"plugins", transferID, "unpack_config"}
	known, _ := f.get(unpack...).([]any)
	err := errors.Join(
		set("snapshot", "proxy_plugins", pluginName, "type"),
		set(w.socket, "proxy_plugins", pluginName, "address"),
		set(w.root, "proxy_plugins", pluginName, "exports", "root"), // where kubelet looks how full the disk is
		set("true", "proxy_plugins", pluginName, "exports", "enable_remote_snapshot_annotations"),
		set(pluginName, append(slices.Clone(cri), "snapshotter")...),
		set(false, append(slices.Clone(cri), "disable_snapshot_annotations")...),
	)
	if err != nil {
		return err
	}
	has := func(snapshotter string) bool {
		return slices.ContainsFunc(known, func(v any) bool {
			m, ok := v.(map[string]any)
			return ok && m["snapshotter"] == snapshotter
		})
	}
	if len(known) == 0 { // any list replaces containerd's own, which is this
		if err := f.add(unpackInto("overlayfs"), unpack...); err != nil {
			return err
		}
	}
	if !has(pluginName) {
		return f.add(unpackInto(pluginName), unpack...)
	}
	return nil
}

// unpackInto is an entry of unpack_config: which snapshotters the transfer service of containerd 2.x, and so `ctr image
// pull`, may unpack into.
func unpackInto(snapshotter string) element {
	return element{{"platform", "linux"}, {"snapshotter", snapshotter}, {"differ", "walking"}}
}

// example is all of it as a file of its own.
func (w wanted) example(version int64, cri []string) string {
	f, err := parseTOML(fmt.Sprintf("version = %d\n", version))
	if err == nil {
		err = w.apply(f, cri)
	}
	if err != nil {
		return err.Error()
	}
	return f.text
}

// readEdit reads a file that may be missing. A symbolic link is followed, so that it stays one.
func readEdit(path string) (e edit, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	e = edit{path: path, mode: 0o644}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, control.Local(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return e, control.Local(err)
	}
	e.existed, e.mode, e.before = true, st.Mode().Perm(), string(raw)
	return e, nil
}

// imports reads the files that the main one imports, by path, and finds a folder whose *.toml are imported.
func imports(f *tomlFile, path string) (files map[string]*tomlFile, folder string, err error) {
	files = map[string]*tomlFile{}
	patterns, _ := f.get("imports").([]any)
	for _, v := range patterns {
		pattern, ok := v.(string)
		if !ok {
			continue
		}
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(path), pattern)
		}
		if matched, _ := filepath.Match(pattern, filepath.Join(filepath.Dir(pattern), dropIn)); matched && folder == "" && !strings.Contains(filepath.Dir(pattern), "*") {
			folder = filepath.Dir(pattern)
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %s imports %q: %w", blob.ErrInvalid, path, pattern, err)
		}
		for _, p := range found {
			raw, err := os.ReadFile(p)
			if err != nil {
				return nil, "", control.Local(err)
			}
			if files[p], err = parseTOML(string(raw)); err != nil {
				return nil, "", fmt.Errorf("%s: %w", p, err)
			}
		}
	}
	return files, folder, nil
}

// conflicts says which imported file would overrule what is written.
func (w wanted) conflicts(files map[string]*tomlFile, version int64, cri []string, folder string) error {
	for path, f := range files {
		if path == filepath.Join(folder, dropIn) {
			continue
		}
		clash := ""
		switch {
		case f.get("proxy_plugins", pluginName) != nil:
			clash = tomlKey([]string{"proxy_plugins", pluginName})
		case version == 2 && f.get("plugins", criV2) != nil: // 1.x replaces the whole plugin
			clash = tomlKey([]string{"plugins", criV2})
		case version > 2 && (f.get(append(slices.Clone(cri), "snapshotter")...) != nil || f.get(append(slices.Clone(cri), "disable_snapshot_annotations")...) != nil):
			clash = tomlKey(cri)
		case f.get("plugins", transferID, "unpack_config") != nil:
			clash = tomlKey([]string{"plugins", transferID, "unpack_config"})
		}
		if clash != "" {
			return byHand{fmt.Errorf("%w: %s has %s, which overrules the main file: change it there by hand to what is shown above", blob.ErrInvalid, path, clash), w.example(version, cri)}
		}
	}
	return nil
}
