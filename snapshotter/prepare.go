package snapshotter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// Prepare implements snapshots.Snapshotter. Asked for a layer of an image that can be lazy it commits at once, without
// a byte of the layer, and answers ErrAlreadyExists, which is how a remote snapshotter says that nothing is to be
// fetched. For the last layer it first waits until the image can be read, so that a broken image fails its pull.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := asked(opts)
	if err != nil {
		return nil, err
	}
	if target := info.Labels[snapshots.LabelSnapshotRef]; target != "" {
		there, err := s.layer(ctx, key, parent, target, info)
		if err != nil {
			return nil, err
		}
		if there {
			return nil, fmt.Errorf("layer %s is there: %w", target, errdefs.ErrAlreadyExists)
		}
	} else if strings.Contains(key, "/"+snapshots.UnpackKeyPrefix+"-") {
		s.decided.unnamed() // a layer is unpacked without a word about remote snapshots
	}
	return s.create(ctx, snapshots.KindActive, key, parent, info)
}

// View implements snapshots.Snapshotter.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := asked(opts)
	if err != nil {
		return nil, err
	}
	return s.create(ctx, snapshots.KindView, key, parent, info)
}

// layer makes the layer whose chain ID is target a lazy snapshot on parent, or finds it. It says false when the layer
// has to be unpacked.
func (s *Snapshotter) layer(ctx context.Context, key, parent, target string, info snapshots.Info) (there bool, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		there, err = find(ctx, target, parent)
		return err
	})
	if there || err != nil {
		return there, err
	}
	image, named := imageOf(info.Labels)
	if !named {
		s.decided.unnamed()
		return false, nil
	}
	depth := 0
	end := s.lowers.begin(image)
	defer func() { end(there || depth == 0 && err == nil) }()
	var last bool
	depth, last, err = s.decided.ask(ctx, image, target, parent == "")
	if depth == 0 || err != nil {
		return false, err
	}
	l := lazy{image: image, depth: depth}
	if last {
		release, err := s.lowers.mount(ctx, &l)
		if err != nil {
			s.decided.failed(ctx, image, err)
			return false, err
		}
		defer release()
	}
	return true, s.commitLazy(ctx, key, parent, target, info, l)
}

// find looks for a committed snapshot of a layer on a parent, inside a transaction.
func find(ctx context.Context, target, parent string) (there bool, err error) {
	err = storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
		there = there || info.Kind == snapshots.KindCommitted && info.Parent == parent && info.Labels[snapshots.LabelSnapshotRef] == target
		return nil
	}, fmt.Sprintf(`labels.%q==%s,parent==%q`, snapshots.LabelSnapshotRef, target, parent))
	if errdefs.IsNotFound(err) {
		return false, nil // nothing was ever stored
	}
	return there, err
}

// commitLazy stores a lazy snapshot. Its name is the chain ID, or one made of it when the same layer is also there on
// another parent. In one transaction, because the same layer may be asked for by several pulls at once.
func (s *Snapshotter) commitLazy(ctx context.Context, key, parent, target string, info snapshots.Info, l lazy) error {
	var id string
	err := s.write(ctx, func(ctx context.Context) error {
		if there, err := find(ctx, target, parent); there || err != nil {
			return err
		}
		snap, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent)
		if err != nil {
			return err
		}
		name := target
		if _, _, _, err := storage.GetInfo(ctx, name); err == nil {
			name += "/" + snap.ID
		}
		info.Parent = ""
		_, err = storage.CommitActive(ctx, key, name, snapshots.Usage{}, append(again(info), snapshots.WithLabels(l.labels()))...)
		id = snap.ID
		return err
	})
	if err == nil && id != "" {
		s.lowers.add(id, l)
	}
	return err
}

// create makes an active snapshot or a view. What it lies on is mounted first, for that can fail.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, info snapshots.Info) ([]mount.Mount, error) {
	var c chain
	if parent != "" {
		err := s.read(ctx, func(ctx context.Context) (err error) {
			c, err = chainOf(ctx, parent)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("parent of snapshot %s: %w", key, err)
		}
		if err := s.raise(ctx, &c); err != nil {
			return nil, err
		}
	}
	var snap storage.Snapshot
	err := s.write(ctx, func(ctx context.Context) (err error) {
		info.Parent = ""
		if snap, err = storage.CreateSnapshot(ctx, kind, key, parent, again(info)...); err != nil {
			return err
		}
		return s.makeDirs(kind, snap.ID, c)
	})
	if err != nil {
		return nil, err
	}
	return s.mounts(kind, snap.ID, c), nil
}

// makeDirs makes the directories of a snapshot, inside the transaction that gives it its id. What is there already is
// from a transaction that failed. The root of a snapshot belongs to whom the root of its parent belongs to.
func (s *Snapshotter) makeDirs(kind snapshots.Kind, id string, c chain) (err error) {
	if err := os.RemoveAll(s.dir(id)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("snapshotter: %w", err), os.RemoveAll(s.dir(id)))
		}
	}()
	if err := os.Mkdir(s.dir(id), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(s.upper(id), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(s.upper(id), 0o755); err != nil { // whatever the umask
		return err
	}
	if kind == snapshots.KindActive {
		if err := os.Mkdir(s.work(id), 0o711); err != nil {
			return err
		}
	}
	if below := s.dirs(c); len(below) > 0 && (len(c.ordinary) > 0 || isEROFS(below[0])) {
		st, err := os.Stat(below[0])
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		return os.Lchown(s.upper(id), int(sys.Uid), int(sys.Gid))
	}
	return nil
}

// isEROFS reports whether EROFS is mounted on dir: its root is in the kernel's memory, whereas a FUSE mount might be of
// this process, which must not wait for itself.
func isEROFS(dir string) (yes bool) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		fields := strings.Fields(in.Text())
		if len(fields) < 7 || fields[4] != dir {
			continue
		}
		for i, f := range fields[6:] { // optional fields end with "-" (proc_pid_mountinfo(5))
			if f == "-" && len(fields) > 7+i {
				yes = fields[7+i] == "erofs" // the last mount on dir is the one that is seen
				break
			}
		}
	}
	return yes
}
