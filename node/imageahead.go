package node

import (
	"os"

	"github.com/pantala/pantala/fs/erofs"
)

// What the kernel reads ahead in a tree costs nothing where the layers are here, and bytes that nobody wants where they
// are fetched while they are read: it is short until all of them are complete.

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
