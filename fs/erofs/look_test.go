package erofs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/image/tree"
)

// look is all that can be seen of a file.
type look struct {
	Mode       uint32
	UID, GID   uint32
	Links      uint64
	Size       int64 // of files and links
	Sec, Nsec  int64
	Rdev       uint64
	Target     string
	Xattrs     string
	Content    string // SHA-256
	FirstName  string // of a hard link: the first name of its group
	clockStamp bool   // its time came from the clock while the test ran
}

// looks are by path, "." for the top.
type looks map[string]look

// lookAt walks a directory.
func lookAt(t testing.TB, root string, since int64) looks {
	t.Helper()
	all, groups := looks{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %s: %w", path, err)
		}
		l := look{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Links: uint64(st.Nlink), Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}
		l.clockStamp = since > 0 && st.Mtim.Sec >= since
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			l.Size = st.Size
			if l.Content, err = hashFile(path); err != nil {
				return err
			}
		case unix.S_IFLNK:
			if l.Target, err = os.Readlink(path); err != nil {
				return err
			}
			l.Size = st.Size
		case unix.S_IFCHR, unix.S_IFBLK:
			l.Rdev = st.Rdev
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if _, ok := groups[st.Ino]; !ok {
				groups[st.Ino] = rel
			}
			l.FirstName = groups[st.Ino]
		}
		if l.Xattrs, err = xattrsOf(path); err != nil {
			return fmt.Errorf("attributes of %s: %w", path, err)
		}
		all[rel] = l
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

func xattrsOf(path string) (string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return "", err
	}
	var all []string
	value := make([]byte, 64<<10)
	for name := range bytes.SplitSeq(bytes.TrimRight(list[:n], "\x00"), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		v, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, fmt.Sprintf("%s=%q", name, value[:v]))
	}
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

// lookInto is lookAt by way of the reader, with the layers' bytes at hand.
func lookInto(t testing.TB, img *Image, layers [][]byte) looks {
	t.Helper()
	all, groups := looks{}, map[uint64]string{}
	var walk func(nid uint64, at string)
	walk = func(nid uint64, at string) {
		i, err := img.Inode(nid)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		l := look{Mode: i.Mode, UID: i.UID, GID: i.GID, Links: uint64(i.Links), Sec: i.Sec, Nsec: int64(i.Nsec)}
		xattrs, err := img.Xattrs(&i)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		l.Xattrs = textOf(xattrs)
		kind := i.Mode & tree.TypeMask
		switch kind {
		case tree.File:
			l.Size = i.Size
			l.Content = contentOf(t, img, &i, layers)
		case tree.Symlink:
			l.Size = i.Size
			if l.Target, err = img.Readlink(&i); err != nil {
				t.Fatalf("%s: %v", at, err)
			}
		case tree.CharDevice, tree.BlockDevice:
			l.Rdev = unix.Mkdev(i.Major, i.Minor)
		}
		if kind != tree.Directory && i.Links > 1 {
			if _, ok := groups[nid]; !ok {
				groups[nid] = at
			}
			l.FirstName = groups[nid]
		}
		all[at] = l
		if kind != tree.Directory {
			return
		}
		var kids []Dirent
		if err := img.Readdir(&i, 0, func(e Dirent) bool { kids = append(kids, e); return true }); err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		for _, e := range kids {
			if e.Name == "." || e.Name == ".." {
				continue
			}
			if found, err := img.Lookup(&i, e.Name); err != nil || found != e.Nid {
				t.Fatalf("%s: lookup of %q: %d, %v", at, e.Name, found, err)
			}
			walk(e.Nid, filepath.Join(at, e.Name))
		}
		if _, err := img.Lookup(&i, "surely not there"); err == nil {
			t.Fatalf("%s: found what is not there", at)
		}
	}
	walk(img.Root(), ".")
	return all
}

func textOf(xattrs []index.Xattr) string {
	var all []string
	for _, x := range xattrs {
		all = append(all, fmt.Sprintf("%s=%q", x.Name, x.Value))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func contentOf(t testing.TB, img *Image, i *Inode, layers [][]byte) string {
	t.Helper()
	h := sha256.New()
	for off := int64(0); off < i.Size; {
		x, err := img.Extent(i, off)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case x.Device == Hole:
			io.CopyN(h, zeroReader{}, x.Length)
		case x.Device > 0:
			h.Write(layers[x.Device-1][x.Offset : x.Offset+x.Length])
		default:
			t.Fatalf("content of a file in the metadata: %+v", x)
		}
		off += x.Length
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// differences are what got does not have as want has it. Times that unpacking took from the clock are not compared:
// ours are another, and always the same.
func differences(want, got looks) (all []string) {
	for _, path := range slices.Sorted(maps.Keys(want)) {
		w := want[path]
		g, ok := got[path]
		if !ok {
			all = append(all, fmt.Sprintf("%q is missing", path))
			continue
		}
		if w.clockStamp && w.Mode&unix.S_IFMT == unix.S_IFDIR {
			w.Sec, w.Nsec = g.Sec, g.Nsec
		}
		w.clockStamp, g.clockStamp = false, false
		if w != g {
			all = append(all, fmt.Sprintf("%q:\n  want %+v\n  got  %+v", path, w, g))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			all = append(all, fmt.Sprintf("%q is there", path))
		}
	}
	return all
}
