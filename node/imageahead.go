package node

import (
	"os"
	"slices"
	"time"

	"github.com/pantala/pantala/fs/erofs"
)

// What the kernel reads ahead in a tree costs nothing where the layers are here, and bytes that nobody wants where they
// are fetched while they are read: it is short until all of them are complete. Unless the registry is far away: then
// fewer round trips count for more than fewer bytes. The first line of node takes 2.56 s over 20 ms and 1 Gbit/s with much
// readahead, 2.87 s with little; over 100 Mbit/s it is 2.88 and 2.74 s.

// farAway is the distance of a registry from which on its round trips count for more. It is well above what the answer of
// a registry nearby takes, and well below a way between regions.
const farAway = 12 * time.Millisecond

// aheadOf is the readahead of a tree, in KiB: all of its layers are here or not, and the registry is that far away.
func aheadOf(here bool, distance time.Duration) int {
	if here || distance >= farAway {
		return erofs.ReadAheadWhole
	}
	return erofs.ReadAheadLazy
}

// backingSuffix follows the path of a tree's metadata in that of the note which says what its mount is backed by: the
// next process of the node, which takes the mount over, cannot find out.
const backingSuffix = ".backing"

// noteBacking keeps what a tree has been mounted on.
func (s *images) noteBacking(t *rootfs) {
	note := t.meta + backingSuffix
	if err := os.WriteFile(note, []byte(t.backing), 0o600); err != nil {
		os.Remove(note) // rather than that of another mount
		s.n.log.Warn("after a restart the readahead of an image stays as it is now", "image", t.image.Ref, "err", err)
	}
}

// notedBacking is what an earlier process has kept; "": it has not.
func notedBacking(t *rootfs) erofs.Backing {
	raw, err := os.ReadFile(t.meta + backingSuffix)
	if err != nil {
		return "" // a mount that an older version has made
	}
	return erofs.Backing(raw)
}

// readAhead sets the readahead of a mounted tree, and sets it again when all of its layers are complete.
func (s *images) readAhead(t *rootfs) {
	if t.backing == "" {
		return
	}
	here := !slices.ContainsFunc(t.layers, func(l *layer) bool { return !l.device.Complete() })
	now := aheadOf(here, s.registry.Distance(t.image.Ref))
	t.backing.ReadAhead(now)
	if now == aheadOf(true, 0) {
		return
	}
	t.work.Go(func() {
		for _, l := range t.layers {
			select {
			case <-l.device.Completed():
			case <-t.ctx.Done():
				return
			}
		}
		t.backing.ReadAhead(aheadOf(true, 0))
	})
}
