package blockio

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

// crash ends a store as kill -9 does: nothing is synced or marked, the kernel closes the files.
func crash(s *Store) {
	s.syncer.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, e := range s.entries {
		if e.blob != nil {
			e.blob.closeFiles()
		}
	}
	s.lock.Close()
}

// reboot has the store believe that the machine was started anew.
func reboot(s *Store, n byte) *Store {
	s.boot = [16]byte{0xb0, n}
	return s
}

// verify fails unless every present block is right, and returns how many there are.
func verify(t testing.TB, b *Blob, all []byte) (n int) {
	t.Helper()
	g := b.Geometry()
	p := make([]byte, blob.BlockSize)
	for i := range g.Blocks() {
		if !b.Has(run(i, 1)) {
			continue
		}
		off, size := g.Bytes(run(i, 1))
		if err := b.ReadAt(p[:size], off); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
		if !bytes.Equal(p[:size], all[off:off+size]) {
			t.Fatalf("block %d is believed and wrong", i)
		}
		n++
	}
	if want := bytesOf(b.present, g); b.Present() != want {
		t.Fatalf("Present %d, of blocks %d", b.Present(), want)
	}
	for piece := range g.Pieces() {
		if b.PieceComplete(piece) != b.Has(g.PieceBlocks(piece)) {
			t.Fatalf("piece %d: complete %v, blocks %v", piece, b.PieceComplete(piece), b.Has(g.PieceBlocks(piece)))
		}
	}
	return n
}

// flip changes one bit of a file.
func flip(t testing.TB, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// story writes a blob in all the ways there are: direct, from peers, with claims dropped.
func story(t testing.TB, b *Blob, all []byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	leaves := leavesOf(all)
	must(b.Put(run(0, 3), part(all, small, run(0, 3)), blob.Direct))
	must(b.SetRoot(1, rootOf(all, small, 1), blob.Claimed))
	must(b.SetLeaves(1, leaves[4:8]))
	must(b.Put(run(4, 2), part(all, small, run(4, 2)), blob.Claimed))
	must(b.Put(run(3, 3), part(all, small, run(3, 3)), blob.Direct)) // completes 0, confirms 4 and 5
	lie := content(small.Size, 99)
	must(b.SetRoot(2, rootOf(lie, small, 2), blob.Claimed))
	must(b.SetLeaves(2, leavesOf(lie)[8:12]))
	must(b.Put(run(8, 3), part(lie, small, run(8, 3)), blob.Claimed))
	must(b.Put(run(9, 1), part(all, small, run(9, 1)), blob.Direct)) // drops the lie
	must(b.Put(run(16, 5), part(all, small, run(16, 5)), blob.Direct))
	must(b.Put(run(8, 1), part(all, small, run(8, 1)), blob.Direct))
}

// The log of the story cut after every byte: what is left is believed only where it is right, and cutting
// later never makes less of it.
func TestReplayOfEveryPrefix(t *testing.T) {
	dir := t.TempDir()
	all := content(small.Size, 1)
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, 1, small)
	story(t, b, all)
	data, leaves, log := readFiles(t, b)
	crash(s)
	now := replay(log, testID(1), small, session{}).last
	for n := range len(log) + 1 {
		st := replay(log[:n], testID(1), small, now)
		if st.damaged || st.end > int64(n) || st.end+recordSize <= int64(n) {
			t.Fatalf("prefix %d: end %d, damaged %v", n, st.end, st.damaged)
		}
		if n%recordSize == 0 {
			continue
		}
		whole := replay(log[:n/recordSize*recordSize], testID(1), small, now)
		if members(whole.present) != members(st.present) || members(whole.leaf) != members(st.leaf) || members(whole.firm) != members(st.firm) {
			t.Fatalf("prefix %d says something else than its whole records", n)
		}
	}
	end := replay(log, testID(1), small, now)
	for i := range small.Blocks() {
		if !end.present.get(i) {
			continue
		}
		if h := blob.Leaf(part(data, small, run(i, 1))); h != blob.Hash(leaves[i*32:i*32+32]) || h != leavesOf(all)[i] {
			t.Errorf("block %d is believed and wrong", i)
		}
	}
}

func readFiles(t testing.TB, b *Blob) (data, leaves, log []byte) {
	t.Helper()
	for name, p := range map[string]*[]byte{"data": &data, "leaves": &leaves, "log": &log} {
		raw, err := os.ReadFile(b.path(name))
		if err != nil {
			t.Fatal(err)
		}
		*p = raw
	}
	return data, leaves, log
}

// Whole stores reopened after their log was cut: after a crash of the process at record borders and in the
// middle of records, and after a power loss, where old data may meet a newer log.
func TestReopenAfterCut(t *testing.T) {
	all := content(small.Size, 1)
	for _, power := range []bool{false, true} {
		last := -1
		for cut, end := int64(0), false; !end; cut += recordSize * 3 / 4 {
			dir := t.TempDir()
			s := reboot(openStore(t, dir, Options{}), 1)
			b := openBlob(t, s, 1, small)
			story(t, b, all)
			name := b.path("log")
			crash(s)
			st, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			cut = min(cut, st.Size())
			end = cut == st.Size()
			if err := os.Truncate(name, cut); err != nil {
				t.Fatal(err)
			}
			s = reboot(openStore(t, dir, Options{}), 1)
			if power {
				reboot(s, 2)
			}
			b = openBlob(t, s, 1, small)
			// Data of the end beside a log of the middle: the lie was overwritten there, so a log that still
			// tells of it must not be believed. Only the cut at the end is a state that a killed process can
			// leave; the others happen to a disk that loses power, hence the second boot.
			if power || end {
				last = verify(t, b, all)
			}
			if err := b.Put(run(12, 4), part(all, small, run(12, 4)), blob.Direct); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = reboot(openStore(t, dir, Options{}), 3)
			b = openBlob(t, s, 1, small)
			if power || end {
				if n := verify(t, b, all); n < last {
					t.Fatalf("cut %d: %d blocks after a clean close, %d before", cut, n, last)
				}
			}
			if !b.PieceComplete(3) {
				t.Fatalf("cut %d: what was put after recovery and closed is gone", cut)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if last != 13 {
			t.Errorf("power loss %v: %d blocks of the whole story believed, want 13", power, last)
		}
	}
}

// Bits that a power loss left wrong, in data or in leaves, cost exactly their blocks.
func TestPowerLoss(t *testing.T) {
	all := content(small.Size, 1)
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		lost  []uint32
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"data", func(t *testing.T, dir string) {
			flip(t, filepath.Join(dir, "data"), 7*blob.BlockSize+5)
			flip(t, filepath.Join(dir, "data"), small.Size-1)
		}, []uint32{7, 20}},
		{"leaves", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "leaves"), 3*32) }, []uint32{3}},
		{"short data", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "data"), 19*blob.BlockSize+1); err != nil {
				t.Fatal(err)
			}
		}, []uint32{19, 20}},
		{"no leaves", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "leaves"), 19*32); err != nil {
				t.Fatal(err)
			}
		}, []uint32{19, 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := reboot(openStore(t, dir, Options{}), 1)
			b := openBlob(t, s, 1, small)
			putAll(t, b, all, 16, blob.Direct)
			folder := b.entry.dir
			crash(s)
			c.spoil(t, folder)
			for n := range byte(2) { // the second time what was lost is known to be
				s = reboot(openStore(t, dir, Options{}), 2+n)
				b = openBlob(t, s, 1, small)
				verify(t, b, all)
				var lost []uint32
				for i := range small.Blocks() {
					if !b.Has(run(i, 1)) {
						lost = append(lost, i)
					}
				}
				if len(lost) != len(c.lost) || len(lost) > 0 && (lost[0] != c.lost[0] || lost[len(lost)-1] != c.lost[len(lost)-1]) {
					t.Fatalf("lost %v, want %v", lost, c.lost)
				}
				if s.used.Load() != b.Present() {
					t.Fatalf("used %d, present %d", s.used.Load(), b.Present())
				}
				crash(s)
			}
			s = openStore(t, dir, Options{})
			b = openBlob(t, s, 1, small)
			putAll(t, b, all, 16, blob.Direct)
			if verify(t, b, all) != int(small.Blocks()) || !b.Complete() {
				t.Fatal("not complete after fetching again")
			}
		})
	}
}

// After a sync nothing of it is hashed again, so a start after a power cut is quick: seen by the log.
func TestSyncedIsNotHashedAgain(t *testing.T) {
	dir := t.TempDir()
	all := content(small.Size, 1)
	s := reboot(openStore(t, dir, Options{}), 1)
	b := openBlob(t, s, 1, small)
	if err := b.Put(run(0, 8), part(all, small, run(0, 8)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	if err := b.sync(); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(run(8, 4), part(all, small, run(8, 4)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	_, _, log := readFiles(t, b)
	st := replay(log, testID(1), small, session{boot: [16]byte{2}, ino: replay(log, testID(1), small, session{}).last.ino})
	if got, want := members(st.doubt), "000000001111000000000"; got != want {
		t.Errorf("doubt %s, want %s", got, want)
	}
	crash(s)
}

// A folder that was copied is hashed before it is believed, synced or not.
func TestCopiedFolder(t *testing.T) {
	all := content(small.Size, 1)
	from, to := t.TempDir(), t.TempDir()
	s := openStore(t, from, Options{})
	b := openBlob(t, s, 1, small)
	putAll(t, b, all, 16, blob.Direct)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(to, folderOf(testID(1)), "data"), 5)
	s = openStore(t, to, Options{})
	b = openBlob(t, s, 1, small)
	if n := verify(t, b, all); n != int(small.Blocks())-1 || b.Has(run(0, 1)) {
		t.Errorf("%d blocks believed", n)
	}
}

// A damaged record in the middle may have been a drop: everything is hashed again.
func TestDamagedLog(t *testing.T) {
	all := content(small.Size, 1)
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, 1, small)
	story(t, b, all)
	data, leaves, log := readFiles(t, b)
	folder := b.entry.dir
	crash(s)
	for at := int64(0); at < int64(len(log)); at += recordSize {
		for name, raw := range map[string][]byte{"data": data, "leaves": leaves, "log": log} {
			if err := os.WriteFile(filepath.Join(folder, name), raw, 0o600); err != nil { // keeps the inode
				t.Fatal(err)
			}
		}
		flip(t, filepath.Join(folder, "log"), at+20)
		s = openStore(t, dir, Options{})
		b = openBlob(t, s, 1, small)
		verify(t, b, all)
		crash(s)
	}
}

func TestCompaction(t *testing.T) {
	g := blob.Geometry{Size: 4000 * blob.BlockSize, PieceLength: 1 << 20}
	all := content(g.Size, 1)
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	b := openBlob(t, s, 1, g)
	for i := uint32(0); i < 2200; i++ {
		r := run(i, 1)
		if err := b.Put(r, part(all, g, r), blob.Direct); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := b.log.Stat()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openBlob(t, s, 1, g)
	defer b.Close()
	after, _ := b.log.Stat()
	if after.Size() > before.Size()/10 {
		t.Errorf("the log has %d bytes after, %d before", after.Size(), before.Size())
	}
	if n := verify(t, b, all); n != 2200 {
		t.Errorf("%d blocks, want 2200", n)
	}
	if h, trust := b.Root(3); h != rootOf(all, g, 3) || trust != blob.Direct {
		t.Error("the root of piece 3 is lost")
	}
}

// fdatasync failed: the kernel forgets that the pages were dirty, so the blocks since the last sync go.
func TestFailedSync(t *testing.T) {
	all := content(small.Size, 1)
	s := openStore(t, t.TempDir(), Options{})
	b := openBlob(t, s, 1, small)
	if err := b.Put(run(0, 4), part(all, small, run(0, 4)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	if err := b.sync(); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(run(4, 8), part(all, small, run(4, 8)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	leaves := b.leaves
	pipe := make([]int, 2)
	if err := unix.Pipe(pipe); err != nil {
		t.Fatal(err)
	}
	b.leaves = os.NewFile(uintptr(pipe[0]), "failing disk") // fdatasync of a pipe is EINVAL
	unix.Close(pipe[1])
	if err := b.sync(); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	b.leaves.Close()
	b.leaves = leaves
	if !b.Has(run(0, 4)) || b.present.any(run(4, 8)) {
		t.Error("not exactly what was not synced was dropped")
	}
	if err := b.Put(run(4, 8), part(all, small, run(4, 8)), blob.Direct); err != nil {
		t.Fatal(err)
	}
	if n := verify(t, b, all); n != 12 {
		t.Error(n)
	}
}
