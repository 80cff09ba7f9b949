package snapshotter

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// chain is what lies below a snapshot.
type chain struct {
	ordinary []string // ids of ordinary ancestors above the first lazy one, the nearest first
	name, id string   // of the first lazy ancestor; empty when there is none
	lazy     lazy
}

// chainOf follows parents down to the first lazy snapshot, inside a transaction.
func chainOf(ctx context.Context, parent string) (c chain, err error) {
	for parent != "" {
		id, info, _, err := storage.GetInfo(ctx, parent)
		if err != nil {
			return c, err
		}
		if l, ok := lazyOf(info.Labels); ok {
			c.name, c.id, c.lazy = parent, id, l
			return c, nil
		}
		c.ordinary = append(c.ordinary, id)
		parent = info.Parent
	}
	return c, nil
}

// dirs are the lower directories, the topmost first.
func (s *Snapshotter) dirs(c chain) (dirs []string) {
	for _, id := range c.ordinary {
		dirs = append(dirs, s.upper(id))
	}
	if c.id != "" {
		dirs = append(dirs, c.lazy.lower)
	}
	return dirs
}

// mounts says how to mount a snapshot that lies on c. There is one mount, of a type that every containerd knows.
func (s *Snapshotter) mounts(kind snapshots.Kind, id string, c chain) []mount.Mount {
	lower := s.dirs(c)
	switch {
	case len(lower) == 0 && kind == snapshots.KindActive:
		return bind(s.upper(id), "rw")
	case len(lower) == 0:
		return bind(s.upper(id), "ro")
	case len(lower) == 1 && kind != snapshots.KindActive:
		return bind(lower[0], "ro")
	}
	var options []string
	if kind == snapshots.KindActive {
		options = append(options, "workdir="+s.work(id), "upperdir="+s.upper(id))
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, s.options...)}}
}

func bind(dir, mode string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{mode, "rbind"}}}
}
