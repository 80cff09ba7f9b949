package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
)

const (
	// politely bounds how long a node that stops waits for those who have files of its mounts open.
	politely = 2 * time.Second
	// detachWait bounds taking a mount out of the file tree: one system call, or one run of fusermount3.
	detachWait = 5 * time.Second
	// letGo is how long a mount that was taken out of the file tree may take to end before somebody is taken to
	// have a file of it open. One that nobody uses ends within milliseconds; on a busy machine, some ten.
	letGo = 300 * time.Millisecond
	// abortWait bounds the end of a mount whose connection was cut, which takes microseconds.
	abortWait = 5 * time.Second
)

// Unmount implements control.Node. By force it takes the mount out of the file tree and the table at once; who
// has a file of it open reads on what is present, and the blob is released when they have closed it.
func (n *Node) Unmount(ctx context.Context, dir string, force bool) error {
	dir = filepath.Clean(dir)
	if mine, err := n.unmountImage(ctx, dir, force); mine {
		return err
	}
	n.mu.Lock()
	m := n.mounts[dir]
	var state string
	if m != nil {
		state = m.state
	}
	n.mu.Unlock()
	switch {
	case m == nil:
		return fmt.Errorf("%w: nothing is mounted at %s by this daemon: pantala status lists what is", blob.ErrNotFound, dir)
	case state == "mounting":
		return control.Local(fmt.Errorf("%s is only being mounted: try again in a moment", dir))
	}
	var err error
	if force {
		err = n.detach(ctx, m)
	} else {
		err = m.fs.Unmount(ctx)
	}
	if err != nil {
		return control.Local(err)
	}
	n.settle(ctx, m)
	return nil
}

// detach takes a mount out of the file tree, in use or not, also when ctx has ended.
func (n *Node) detach(ctx context.Context, m *mount) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachWait)
	defer cancel()
	return m.fs.Detach(ctx)
}

// settle takes a mount that has left the file tree out of the table. When nobody has a file of it open it waits
// until the blob has been released, too.
func (n *Node) settle(ctx context.Context, m *mount) {
	if within(m.fs.Done(), letGo) {
		select {
		case <-m.gone:
		case <-ctx.Done():
		}
	}
	n.depart(m)
}

// within waits for c to be closed, but not for long.
func within(c <-chan struct{}, long time.Duration) bool {
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// depart takes a mount that has left the file tree out of the table: its directory can be mounted on again. As
// long as it is served nevertheless, it is among the detached ones.
func (n *Node) depart(m *mount) {
	n.mu.Lock()
	if n.mounts[m.request.Dir] == m {
		delete(n.mounts, m.request.Dir)
	}
	held, kept := !m.over, m.kept
	if held {
		n.detached[m] = struct{}{}
	}
	m.kept = false
	n.mu.Unlock()
	if held {
		n.log.Info("taken out of the file tree; somebody still has a file of it open", "dir", m.request.Dir)
	}
	if kept {
		n.release(m.live)
	}
	n.rest()
}

// ended takes a mount that nothing is served of any more out of the tables and releases its blob. One that
// failed its digest stays in status until it is unmounted by name.
func (n *Node) ended(m *mount) {
	n.mu.Lock()
	m.over = true
	listed := n.mounts[m.request.Dir] == m
	m.kept = listed && m.state == "failed"
	kept := m.kept
	if listed && !kept {
		delete(n.mounts, m.request.Dir)
	}
	n.mu.Unlock()
	n.log.Info("unmounted", "dir", m.request.Dir)
	if !kept {
		n.release(m.live)
	}
	n.mu.Lock()
	delete(n.detached, m) // only now: until then the node is not idle
	n.mu.Unlock()
	close(m.gone)
	n.rest()
}

// noticeLazy makes room for a new mount on dir where somebody has detached ours (umount -l) while a file of it is
// open: nothing tells us of that before the file is closed.
func (n *Node) noticeLazy(dir string) error {
	n.mu.Lock()
	m := n.mounts[dir]
	ready := m != nil && m.state == "ready"
	n.mu.Unlock()
	if !ready {
		return nil
	}
	mounts, err := fs.Mounts()
	if err != nil {
		return control.Local(err)
	}
	dev := m.fs.Info().Dev
	if !slices.ContainsFunc(mounts, func(i fs.MountInfo) bool { return i.Dev == dev }) {
		n.depart(m)
	}
	return nil
}

// sever ends a mount at once: who has a file of it open gets errors. The connection is cut first, because that needs
// the mount to be in the file tree where fusectl is not mounted, as in most containers.
func (n *Node) sever(ctx context.Context, m *mount) (cut bool, err error) {
	if err := m.fs.Abort(); err != nil {
		n.log.Warn("who has a file open can read on until they close it or this process ends", "dir", m.request.Dir, "err", err)
		return false, n.detach(ctx, m)
	}
	mounts, err := fs.Mounts()
	if err != nil {
		return true, err
	}
	info := m.fs.Info()
	if slices.ContainsFunc(mounts, func(i fs.MountInfo) bool { return i.Dev == info.Dev && i.Dir == info.Dir }) {
		err = fs.UnmountDir(info.Dir, true)
	}
	return true, err
}

// shut ends a mount because the node stops: politely at first, then by force. stuck: it goes on being served,
// because nothing but the end of the process can cut it off, or for a bug.
func (n *Node) shut(ctx context.Context, m *mount) (stuck bool, err error) {
	n.mu.Lock()
	_, departed := n.detached[m]
	n.mu.Unlock()
	cut := true
	if departed {
		if !within(m.fs.Done(), letGo) {
			n.log.Warn("cutting off who still has a file of an unmounted blob open", "dir", m.request.Dir)
			if err := m.fs.Abort(); err != nil {
				n.log.Warn("they are cut off when this process ends", "dir", m.request.Dir, "err", err)
				cut = false
			}
		}
	} else {
		polite, cancel := context.WithTimeout(ctx, politely)
		err = m.fs.Unmount(polite)
		cancel()
		if err != nil {
			n.log.Warn("cutting off who still uses a mount", "dir", m.request.Dir, "why", err)
			cut, err = n.sever(ctx, m)
		}
	}
	switch {
	case !cut:
		stuck = !within(m.fs.Done(), letGo)
	case !within(m.fs.Done(), abortWait):
		stuck = true
		err = errors.Join(err, fmt.Errorf("%s is still in use %v after it was cut off", m.request.Dir, abortWait))
	}
	n.depart(m)
	return stuck, err
}
