package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/node"
)

const setupLong = `Write into the configuration of another program that it shall use pantala.`

const setupContainerdLong = `Make pantala a snapshotter of containerd (1.6 to 2.4), and the one that Kubernetes (CRI) uses.

The configuration is changed in place, or by a file of its own where containerd 2.x imports a folder;
comments and everything else stay as they are. What cannot be read, or not be changed without changing
more, is left alone, with an explanation. The file as it was is kept beside it, and --undo brings it
back, byte for byte. Nothing is restarted: the command says what to restart.`

// Names beside the configuration.
const (
	backupSuffix = ".before-pantala"
	recordSuffix = ".pantala-setup.json"
)

// defaultSocket is where containerd finds the daemon.
const defaultSocket = "/run/pantala/snapshotter.sock"

// setupRecord marks a configuration as changed by us.
type setupRecord struct {
	Path    string `json:"path"`    // what was changed
	Existed bool   `json:"existed"` // false: undo removes it
	Backup  string `json:"backup,omitempty"`
	SHA256  string `json:"sha256"` // of what was written
}

func (a *app) setupCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "setup",
		Short:   "Make other programs use pantala",
		Long:    setupLong,
		GroupID: "run",
		Args:    cobra.ArbitraryArgs,
		RunE:    group,
	}
	c.AddCommand(a.setupContainerdCommand())
	return c
}

func (a *app) setupContainerdCommand() *cobra.Command {
	var file, socket, root string
	var dry, undo bool
	c := &cobra.Command{
		Use:     "containerd",
		Short:   "Make containerd boot images through pantala",
		Long:    setupContainerdLong,
		Example: "  pantala setup containerd --dry-run\n  pantala setup containerd\n  pantala setup containerd --undo",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			given := map[string]string{}
			if f := c.Flags().Lookup("state"); f.Changed {
				given["state"] = f.Value.String()
			}
			conf, err := config.Load(config.Input{Env: a.env, Flags: given, UID: a.uid})
			if err != nil {
				return err
			}
			socket = cmp.Or(socket, conf.Snapshotter, defaultSocket)
			root = cmp.Or(root, node.SnapshotsDir(conf.State))
			for _, p := range []*string{&file, &socket, &root} {
				abs, err := filepath.Abs(*p)
				if err != nil {
					return control.Local(err)
				}
				*p = abs
			}
			if undo {
				return a.undoSetup(file, dry)
			}
			return a.setupContainerd(file, wanted{socket: socket, root: root}, dry)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&file, "config", "/etc/containerd/config.toml", "containerd's configuration (not pantala's)")
	f.StringVar(&socket, "socket", "", "path of the socket of pantala daemon --snapshotter (default: the snapshotter of pantala's configuration, else "+defaultSocket+")")
	f.StringVar(&root, "root", "", "where the daemon keeps snapshots (default: images/snapshots in --state)")
	f.BoolVar(&dry, "dry-run", false, "show the changes, and write nothing")
	f.BoolVar(&undo, "undo", false, "bring back the configuration as it was")
	return c
}

// setupContainerd changes the configuration, or only shows how.
func (a *app) setupContainerd(path string, w wanted, dry bool) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	edits, notes, err := w.plan(path)
	if hand, ok := errors.AsType[byHand](err); ok {
		fmt.Fprint(a.stdout, hand.shall)
	}
	if err != nil {
		return err
	}
	a.warn(notes...)
	if len(edits) == 0 {
		fmt.Fprintf(a.stdout, "%s is set up already\n", path)
		return nil
	}
	e := edits[0]
	if dry {
		fmt.Fprint(a.stdout, unifiedDiff(e.path, e.before, e.after))
		return nil
	}
	record := setupRecord{Path: e.path, Existed: e.existed}
	switch old, err := readRecord(path); {
	case errors.Is(err, os.ErrNotExist):
		if e.existed {
			record.Backup = e.path + backupSuffix
			if err := writeWhole(record.Backup, e.before, e.mode); err != nil {
				return err
			}
		}
	case err != nil:
		return err
	case old.Path != e.path || old.SHA256 != hash(e.before):
		return fmt.Errorf("%w: %s was changed since pantala set it up, so --undo could no longer bring back what was before (%s): run --undo with the file as pantala left it, or remove %s to begin anew", blob.ErrInvalid, old.Path, old.Backup, path+recordSuffix)
	default:
		record = old // the backup is of what was before pantala
	}
	record.SHA256 = hash(e.after)
	if err := os.MkdirAll(filepath.Dir(e.path), 0o755); err != nil {
		return control.Local(err)
	}
	// The record first: after a crash between the two, undo finds the file as it was and says so.
	if err := writeRecord(path, record); err != nil {
		return err
	}
	if err := writeWhole(e.path, e.after, e.mode); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "wrote %s\n", e.path)
	if record.Backup != "" {
		fmt.Fprintf(a.stdout, "kept %s\n", record.Backup)
	}
	fmt.Fprintf(a.stdout, `now:
  pantala daemon --snapshotter %s    # and keep it running, best as a service before containerd
  systemctl restart containerd       # running containers stay
then:
  ctr image pull --snapshotter pantala IMAGE   (containerd 2.x), nerdctl --snapshotter pantala run IMAGE, or any pod
Images that Kubernetes has pulled before are pulled again, because CRI has another snapshotter now.
`, w.socket)
	return nil
}

// undoSetup brings back what was before.
func (a *app) undoSetup(path string, dry bool) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	record, err := readRecord(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: pantala has not set up %s: there is no %s", blob.ErrNotFound, path, path+recordSuffix)
	}
	if err != nil {
		return err
	}
	now, err := readEdit(record.Path)
	if err != nil {
		return err
	}
	before := ""
	mode := now.mode
	if record.Existed {
		b, err := readEdit(record.Backup)
		if err != nil {
			return err
		}
		if !b.existed {
			return fmt.Errorf("%w: the backup %s is gone: remove what pantala added to %s by hand, and %s", blob.ErrNotFound, record.Backup, record.Path, path+recordSuffix)
		}
		before, mode = b.before, b.mode
	}
	untouched := now.existed == record.Existed && now.before == before // a crash, or somebody was faster
	if !untouched && (!now.existed || hash(now.before) != record.SHA256) {
		return fmt.Errorf("%w: %s was changed since pantala set it up: bringing back what was before would lose that. Remove what pantala added by hand (compare with %s), then remove %s", blob.ErrInvalid, record.Path, record.Backup, path+recordSuffix)
	}
	if dry {
		fmt.Fprint(a.stdout, unifiedDiff(record.Path, now.before, before))
		return nil
	}
	switch {
	case untouched:
	case record.Existed:
		err = writeWhole(record.Path, before, mode)
	default:
		err = os.Remove(record.Path)
	}
	if err != nil {
		return control.Local(err)
	}
	if record.Backup != "" {
		if err := os.Remove(record.Backup); err != nil {
			return control.Local(err)
		}
	}
	if err := os.Remove(path + recordSuffix); err != nil {
		return control.Local(err)
	}
	verb := "restored"
	if !record.Existed {
		verb = "removed"
	}
	fmt.Fprintf(a.stdout, "%s %s\nnow: systemctl restart containerd\n", verb, record.Path)
	return nil
}

func readRecord(path string) (r setupRecord, err error) {
	raw, err := os.ReadFile(path + recordSuffix)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			err = control.Local(err)
		}
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil || r.Path == "" {
		return r, fmt.Errorf("%w: %s is not what pantala wrote: %v", blob.ErrInvalid, path+recordSuffix, err)
	}
	return r, nil
}

func writeRecord(path string, r setupRecord) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return control.Local(err)
	}
	return writeWhole(path+recordSuffix, string(raw)+"\n", 0o644)
}

// writeWhole replaces a file such that after a crash it is the old or the new one. Owner and mode stay.
func writeWhole(path, text string, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".pantala-*")
	if err != nil {
		return control.Local(err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(mode), keepOwner(f, path), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return control.Local(err)
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// keepOwner gives f to whom path belongs, if it is there.
func keepOwner(f *os.File, path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return nil
	}
	owner := st.Sys().(*syscall.Stat_t)
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
