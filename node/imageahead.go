package node

import (
	"os"
	"time"

	"github.com/pantala/pantala/fs/erofs"
)

// What the kernel reads ahead in a tree costs nothing where the layers are here, and bytes that nobody wants where they
// are fetched while they are read: it is short until all of them are complete. Unless the registry is far away: then
// fewer round trips count for more than fewer bytes. The first line of node takes 2.49 s over 20 ms and 1 Gbit/s with much
// readahead, 2.86 s with little; over 100 Mbit/s it is 2.88 and 2.74 s.

// farAway is the distance of a registry from which on its round trips count for more. It is well above what the answer of
// a registry nearby takes, and well below a way between regions.
const farAway = 12 * time.Millisecond

// backingSuffix follows the path of a tree's metadata in that of the note which says what its mount is backed by: the
// next process of the node, which takes the mount over, cannot find out.
const backingSuffix = ".backing"

// noteBacking keeps what a tree has been mounted on.
func (s *images) noteBacking(t *rootfs, b erofs.Backing) {
	if err := os.WriteFile(t.meta+backingSuffix, []byte(b), 0o600); err != nil {
		s.n.log.Warn("after a restart the kernel will go on reading little ahead in an image", "image", t.image.Ref, "err", err)
	}
}

// readAhead sets the readahead of a tree, and sets it again when all of its layers are complete.
func (s *images) readAhead(t *rootfs) {
	raw, err := os.ReadFile(t.meta + backingSuffix)
	if err != nil {
		return // a mount that an older version has made
	}
	b := erofs.Backing(raw)
	if s.registry.Distance(t.image.Ref) >= farAway {
		b.ReadAhead(erofs.ReadAheadWhole)
		return
	}
	for _, l := range t.layers {
		if !l.device.Complete() {
			b.ReadAhead(erofs.ReadAheadLazy)
			break
		}
	}
	t.work.Go(func() {
		for _, l := range t.layers {
			select {
			case <-l.device.Completed():
			case <-t.ctx.Done():
				return
			}
		}
		b.ReadAhead(erofs.ReadAheadWhole)
	})
}
