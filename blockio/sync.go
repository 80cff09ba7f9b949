package blockio

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// syncEvery is how long something written may stay in memory only, as long as the kernel itself lets dirty pages
// lie (vm.dirty_expire_centisecs). Death of the process alone loses nothing, and after a power loss what was not
// synced is hashed again, at more than 1 GB/s. Every 4 s was too often: while fdatasync pushes gigabytes to a slow
// disk, writes to the same file wait, and with them readers who only want bytes from the network (1 GiB cold: 11 s
// instead of 2 s).
const syncEvery = 30 * time.Second

// syncer is the goroutine that makes written blobs durable. The store owns it.
type syncer struct {
	mu    sync.Mutex
	dirty map[*Blob]bool

	wake chan struct{} // cap 1: something became dirty
	quit chan struct{}
	done chan struct{}
}

func (y *syncer) start() {
	y.dirty = map[*Blob]bool{}
	y.wake, y.quit, y.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go y.loop()
}

// stop ends the goroutine and waits for it.
func (y *syncer) stop() {
	close(y.quit)
	<-y.done
}

// want has b synced within syncEvery.
func (y *syncer) want(b *Blob) {
	y.mu.Lock()
	y.dirty[b] = true
	y.mu.Unlock()
	select {
	case y.wake <- struct{}{}:
	default:
	}
}

func (y *syncer) forget(b *Blob) {
	y.mu.Lock()
	delete(y.dirty, b)
	y.mu.Unlock()
}

func (y *syncer) loop() {
	defer close(y.done)
	for {
		select {
		case <-y.quit:
			return
		case <-y.wake:
		}
		select {
		case <-y.quit:
			return
		case <-time.After(syncEvery):
		}
		y.mu.Lock()
		var list []*Blob
		for b := range y.dirty {
			list = append(list, b)
		}
		clear(y.dirty)
		y.mu.Unlock()
		for _, b := range list {
			if b.enter() != nil {
				continue // closed meanwhile, and synced by that
			}
			if err := b.sync(); err != nil {
				b.store.log.Error("cache: what was downloaded last is not safe on disk", "blob", b.id, "err", err)
			}
			b.life.RUnlock()
		}
	}
}

// sync makes everything that has been published durable and says so in the log. Puts go on meanwhile.
func (b *Blob) sync() error {
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	if !b.dirty.Swap(false) {
		return nil
	}
	// Whatever is in the log now had its data and leaves written before.
	st, err := b.log.Stat()
	if err != nil {
		return fmt.Errorf("sync %s: %w", b.id, err)
	}
	covers := st.Size() - st.Size()%recordSize
	if err := b.flush(); err != nil {
		b.distrust(covers)
		b.synced = covers // handled: not to be dropped twice
		return fmt.Errorf("sync %s: %w: check the disk of %s", b.id, err, b.store.dir)
	}
	b.appends.RLock()
	_, err = b.log.Write(appendRecord(nil, b.seed, numbered(kindSynced, covers)))
	b.appends.RUnlock()
	if err == nil {
		err = unix.Fdatasync(int(b.log.Fd()))
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", b.id, err)
	}
	b.synced = covers
	return nil
}

// flush brings data, leaves and, the first time, metadata and names to stable storage.
func (b *Blob) flush() error {
	if b.imported == nil {
		if err := unix.Fdatasync(int(b.data.Fd())); err != nil {
			return err
		}
	}
	if err := unix.Fdatasync(int(b.leaves.Fd())); err != nil {
		return err
	}
	if b.durable {
		return nil
	}
	for _, name := range []string{b.path("meta.json"), b.path("."), filepath.Dir(b.entry.dir)} {
		if err := syncDir(name); err != nil {
			return err
		}
	}
	b.durable = true
	return nil
}

// distrust drops the blocks that were logged since the last sync: after a failed fdatasync the kernel counts
// their pages as clean, though the disk may not have them, so no later sync would notice.
func (b *Blob) distrust(until int64) {
	raw := make([]byte, until-b.synced)
	if _, err := b.log.ReadAt(raw, b.synced); err != nil {
		b.store.log.Error("cache: reading the log back", "blob", b.id, "err", err)
		raw = nil
	}
	scan(raw, b.seed, b.geo, func(_ int64, r record) {
		if r.kind != kindPresent && r.kind != kindLeaves {
			return
		}
		run := r.run()
		b.claims.claim(run)
		if err := b.dropBlocks([]blob.Run{run}); err != nil {
			b.store.log.Error("cache: dropping blocks that could not be synced", "blob", b.id, "blocks", run, "err", err)
		}
		b.claims.release(run)
	})
}
