package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/pantala/pantala/blob"
)

// verified reports whether all bytes are here and known to have this digest.
func (l *live) verified(want blob.Hash) bool {
	d := l.digest.Load()
	return d != nil && *d == want && l.store.Complete()
}

// verify computes the digest of all bytes, for which it waits, and compares it.
func (n *Node) verify(ctx context.Context, l *live, want blob.Hash) error {
	got, err := hashBlob(ctx, l.store)
	if err != nil {
		return err
	}
	n.learn(l, got)
	if got != want {
		return mismatch(l.meta.Source, got, want)
	}
	return nil
}

func mismatch(source string, got, want blob.Hash) error {
	return fmt.Errorf("%w: the digest of %s is sha256:%v, not sha256:%v as asked for: compare it with what the publisher says", blob.ErrCorrupt, source, got, want)
}

// verifyLater checks the digest of a mount when its last byte has come. Bytes that are not what was asked for
// must not be read any longer, so the mount is taken away by force and its error stays in status. It ends
// when the blob is closed.
func (n *Node) verifyLater(ctx context.Context, m *mount, want blob.Hash) {
	err := n.verify(ctx, m.live.only(), want)
	switch {
	case err == nil:
		n.log.Info("the digest is right", "dir", m.request.Dir, "digest", "sha256:"+want.String())
		n.canonize(m.live.only())
	case errors.Is(err, blob.ErrCorrupt):
		n.log.Error("unmounting", "dir", m.request.Dir, "err", err)
		n.mu.Lock()
		if n.mounts[m.request.Dir] == m && m.state == "ready" {
			m.state, m.err = "failed", err
		}
		n.mu.Unlock()
		if _, err := n.sever(ctx, m); err != nil {
			n.log.Error("unmounting", "dir", m.request.Dir, "err", err)
		}
	case ctx.Err() == nil:
		n.log.Warn("the digest could not be checked", "dir", m.request.Dir, "err", err)
	}
}
