package blockio

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// compactAbove is the number of log records from which a rewrite is considered when a blob is opened: 1024 of
// them are 48 KiB, which replay in a tenth of a millisecond.
const compactAbove = 1024

// recover reads the log, finds out which blocks can be believed, rewrites or mends the log accordingly and
// opens it for appending.
func (b *Blob) recover() (*state, error) {
	st, err := b.data.Stat()
	if err != nil {
		return nil, err
	}
	var ino unix.Stat_t
	if err := unix.Fstat(int(b.data.Fd()), &ino); err != nil {
		return nil, err
	}
	now := session{boot: b.store.boot, ino: ino.Ino}
	raw, err := os.ReadFile(b.path("log"))
	if err != nil {
		return nil, err
	}
	s := replay(raw, b.id, b.geo, now)
	if st.Size() != b.geo.Size {
		s.doubt.set(b.geo.Blob())
		if b.imported != nil {
			return nil, fmt.Errorf("%w: %s has %d bytes", blob.ErrChanged, b.imported.Path, st.Size())
		}
		if err := b.data.Truncate(b.geo.Size); err != nil {
			return nil, err
		}
	}
	if st, err := b.leaves.Stat(); err != nil {
		return nil, err
	} else if want := int64(b.geo.Blocks()) * 32; st.Size() != want {
		s.doubt.set(b.geo.Blob())
		if err := b.leaves.Truncate(want); err != nil {
			return nil, err
		}
	}
	hashed := s.present.overlaps(s.doubt)
	lost := b.examine(s)
	if hashed && len(raw) > 0 {
		b.store.log.Info("cache: checked after an unclean stop", "blob", b.id, "lost_runs", len(lost))
	}
	if err := b.wipe(lost); err != nil {
		return nil, err
	}
	return s, b.mendLog(raw, s, lost, now, hashed)
}

// overlaps reports whether two bitmaps of the same length have a member in common.
func (s bitmap) overlaps(o bitmap) bool {
	for i := range s {
		if s[i].Load()&o[i].Load() != 0 {
			return true
		}
	}
	return false
}

// examine hashes doubtful blocks, forgets what cannot be believed and returns that.
func (b *Blob) examine(s *state) []blob.Run {
	bad := newBitmap(b.geo.Blocks())
	s.present.runs(b.geo.Blob(), true, func(r blob.Run) bool {
		s.doubt.runs(r, true, func(r blob.Run) bool {
			b.rehash(r, bad)
			return true
		})
		return true
	})
	// A leaf without data can only be judged together with all leaves of its piece.
	for p := range b.geo.Pieces() {
		run := b.geo.PieceBlocks(p)
		r, rooted := s.roots[p]
		s.leaf.runs(run, true, func(known blob.Run) bool {
			s.firm.runs(known, false, func(soft blob.Run) bool {
				if !rooted {
					bad.set(soft) // nobody vouches for it
				}
				return true
			})
			return true
		})
		if s.leaf.any(run) && !s.present.has(run) && !b.leavesFold(s, run, r) {
			s.leaf.runs(run, true, func(known blob.Run) bool {
				s.present.runs(known, false, func(only blob.Run) bool {
					bad.set(only)
					return true
				})
				return true
			})
		}
	}
	var lost []blob.Run
	bad.runs(b.geo.Blob(), true, func(r blob.Run) bool {
		s.present.clear(r)
		s.leaf.clear(r)
		s.firm.clear(r)
		lost = append(lost, r)
		return true
	})
	return lost
}

// leavesFold reports whether all leaves of a piece are known and lead to its root.
func (b *Blob) leavesFold(s *state, run blob.Run, r root) bool {
	if r.trust == blob.Unknown || !s.leaf.has(run) {
		return false
	}
	leaves, err := b.leavesOf(run)
	return err == nil && b.geo.PieceRoot(leaves) == r.hash
}

// rehash compares the data of a run with its leaves and adds the blocks that differ to bad.
func (b *Blob) rehash(r blob.Run, bad bitmap) {
	forRuns(b.geo, r, func(part blob.Run, data []byte) {
		leaves, err := b.leavesOf(part)
		off, _ := b.geo.Bytes(part)
		if err == nil {
			_, err = b.data.ReadAt(data, off)
		}
		if err != nil {
			bad.set(part)
			return
		}
		var sums [blob.MaxBuffer]blob.Hash
		blob.Leaves(sums[:], data)
		for i := range leaves {
			if sums[i] != leaves[i] {
				bad.set(blob.Run{First: part.First + uint32(i), Count: 1})
			}
		}
	})
}

// forRuns calls f for parts of r of at most blob.MaxBuffer blocks with a buffer of their length, on all
// processors, and waits.
func forRuns(g blob.Geometry, r blob.Run, f func(part blob.Run, buf []byte)) {
	var next atomic.Uint64
	var wg sync.WaitGroup
	parts := (uint64(r.Count) + blob.MaxBuffer - 1) / blob.MaxBuffer
	for range min(uint64(runtime.GOMAXPROCS(0)), parts) {
		wg.Go(func() {
			buf := make([]byte, blob.MaxBuffer*blob.BlockSize)
			for i := next.Add(1) - 1; i < parts; i = next.Add(1) - 1 {
				part := blob.Run{First: r.First + uint32(i)*blob.MaxBuffer, Count: blob.MaxBuffer}
				part = part.Intersect(r)
				_, n := g.Bytes(part)
				f(part, buf[:n])
			}
		})
	}
	wg.Wait()
}

// wipe frees the disk space of lost blocks and zeroes their leaves.
func (b *Blob) wipe(lost []blob.Run) error {
	for _, r := range lost {
		if _, err := b.leaves.WriteAt(make([]byte, int(r.Count)*32), int64(r.First)*32); err != nil {
			return err
		}
		if b.imported != nil {
			continue
		}
		off, n := b.geo.Bytes(r)
		err := unix.Fallocate(int(b.data.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("punch a hole: %w", err)
		}
	}
	return nil
}

// mendLog brings the log in line with the recovered state s: rewritten when it is long or damaged, else cut
// after its last whole record and continued.
func (b *Blob) mendLog(raw []byte, s *state, lost []blob.Run, now session, hashed bool) error {
	rewrite := s.damaged
	var short []byte
	if rewrite || s.records > compactAbove {
		short = s.compact(b.id, b.geo, now)
		rewrite = rewrite || len(raw) > 2*len(short)
	}
	if rewrite || hashed || len(lost) > 0 {
		// What has just been read back, or is to be called durable, must be on the disk first.
		if err := b.flush(); err != nil {
			return err
		}
	}
	if rewrite {
		if err := replaceFile(b.path("log"), short); err != nil {
			return err
		}
		s.synced = int64(len(short))
	} else if int64(len(raw)) != s.end {
		if err := os.Truncate(b.path("log"), s.end); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(b.path("log"), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	b.log = f
	if rewrite {
		return nil
	}
	var recs []byte
	if s.last != now || now.boot == [16]byte{} {
		recs = appendRecord(recs, b.seed, now.record())
	}
	for _, r := range lost {
		recs = appendRecord(recs, b.seed, record{kind: kindDrop, a: r.First, b: r.Count})
	}
	if hashed || len(lost) > 0 {
		s.synced = s.end + int64(len(recs))
		recs = appendRecord(recs, b.seed, numbered(kindSynced, s.synced))
	}
	if len(recs) == 0 {
		return nil
	}
	if _, err := f.Write(recs); err != nil {
		return err
	}
	if hashed || len(lost) > 0 {
		return unix.Fdatasync(int(f.Fd()))
	}
	return nil
}
