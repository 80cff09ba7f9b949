package fs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var testTime = time.Date(2020, 2, 3, 4, 5, 6, 789, time.UTC)

func TestStat(t *testing.T) {
	promise(t, "K1", "The mount is a directory that holds exactly one file")
	promise(t, "K2", "The file has its full size from the first moment")
	promise(t, "K5", "with mode `0444`; the directory has mode `0555`")
	promise(t, "K7", "or the time of the mount, and never change")
	m := serve(t, setup{hold: true, serverConfig: serverConfig{ModTime: testTime}})
	check := func(path string, mode uint32, ino uint64, nlink uint64, size int64) {
		t.Helper()
		st := stat(t, path)
		ts := unix.NsecToTimespec(testTime.UnixNano())
		want := unix.Stat_t{Dev: st.Dev, Ino: ino, Nlink: nlink, Mode: mode, Size: size, Blksize: 4096, Blocks: (size + 511) / 512, Atim: ts, Mtim: ts, Ctim: ts}
		if diff := cmp.Diff(want, st); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	check(m.path, unix.S_IFREG|0o444, 2, 1, int64(len(m.want)))
	check(m.dir, unix.S_IFDIR|0o555, 1, 2, 0)

	names, err := os.ReadDir(m.dir)
	if err != nil || len(names) != 1 || names[0].Name() != "model.bin" || !names[0].Type().IsRegular() {
		t.Errorf("directory: %v, %v", names, err)
	}
	if _, err := os.Stat(m.path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another name: %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.path, "x")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below the file: %v", err)
	}
	if a := m.first; a.Init < inHeaderSize+16 {
		t.Errorf("%d bytes of INIT were kept", a.Init)
	}

	m = serve(t, setup{hold: true, serverConfig: serverConfig{ModTime: testTime, Options: Options{AsFile: true}}})
	check(m.path, unix.S_IFREG|0o444, 1, 1, int64(len(m.want)))

	before := time.Now().Add(-time.Minute)
	m = serve(t, setup{hold: true})
	if st := stat(t, m.path); time.Unix(st.Mtim.Unix()).Before(before) {
		t.Errorf("time of the mount: %v", time.Unix(st.Mtim.Unix()))
	}
}

func TestStatFS(t *testing.T) {
	promise(t, "K8", "`statfs` describes a full file system of the size of the file")
	m := serve(t, setup{hold: true, size: 10_000})
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.FUSE_SUPER_MAGIC || st.Blocks != 3 || st.Bsize != 4096 || st.Bfree != 0 || st.Bavail != 0 || st.Files != 1 || st.Namelen != 255 {
		t.Errorf("%+v", st)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		t.Error("not read-only")
	}
}

func TestXattr(t *testing.T) {
	promise(t, "K10", "Extended attributes of the file say where it comes from")
	digest := "sha256:" + strings.Repeat("ab", 32)
	m := serve(t, setup{hold: true, serverConfig: serverConfig{Digest: digest, Source: "https://user:secret@host/a/model.bin?sig=secret#x"}})
	m.ask(command{Op: "present", N: 16 << 10})
	get := func(name string) (string, error) {
		b := make([]byte, 1000)
		n, err := unix.Getxattr(m.path, name, b)
		return string(b[:max(n, 0)]), err
	}
	for name, want := range map[string]string{
		"user.pantala.digest":  digest,
		"user.pantala.present": strconv.Itoa(16 << 10),
		"user.pantala.source":  "https://host/a/model.bin",
		"user.pantala.id":      "sha256:01" + strings.Repeat("0", 62),
	} {
		if got, err := get(name); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"user.other", "security.capability", "system.posix_acl_access"} {
		if _, err := get(name); err != unix.ENODATA && err != unix.EOPNOTSUPP {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := unix.Getxattr(m.path, attrDigest, make([]byte, 3)); err != unix.ERANGE {
		t.Errorf("short buffer: %v", err)
	}
	b := make([]byte, 1000)
	n, err := unix.Listxattr(m.path, b)
	const all = attrID + "\x00" + attrDigest + "\x00" + attrPresent + "\x00" + attrSource + "\x00"
	if err != nil || string(b[:n]) != all {
		t.Errorf("list: %q, %v", b[:max(n, 0)], err)
	}
	if n, err := unix.Listxattr(m.path, nil); err != nil || n != len(all) {
		t.Errorf("size of the list: %d, %v", n, err)
	}
	if n, err := unix.Listxattr(m.dir, b); err != nil || n != 0 {
		t.Errorf("list of the directory: %d, %v", n, err)
	}
	if strings.Contains(m.info.Source, "secret") {
		t.Errorf("the mount table shows %s", m.info.Source)
	}

	m = serve(t, setup{hold: true})
	if _, err := get(attrDigest); err != unix.ENODATA {
		t.Errorf("unknown digest: %v", err)
	}
}

func TestPublicSource(t *testing.T) {
	for source, want := range map[string]string{
		"https://u:p@h:81/a%20b?X-Amz-Signature=s": "https://h:81/a%20b",
		"file:///data/x#y":                         "file:///data/x",
		"":                                         "",
		"%zz?secret":                               "%zz",
		"plain#secret":                             "plain",
	} {
		if got := publicSource(source); got != want {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
}

func TestReadOnly(t *testing.T) {
	promise(t, "K4", "whatever would change something fails with `EROFS`")
	m := serve(t, setup{})
	other := filepath.Join(m.dir, "other")
	changes := map[string]func() error{
		"write":    func() error { _, err := os.OpenFile(m.path, os.O_WRONLY, 0); return err },
		"truncate": func() error { return os.Truncate(m.path, 0) },
		"trunc":    func() error { _, err := os.OpenFile(m.path, os.O_RDONLY|os.O_TRUNC, 0); return err },
		"create":   func() error { _, err := os.Create(other); return err },
		"tmpfile":  func() error { _, err := os.OpenFile(m.dir, unix.O_TMPFILE|os.O_RDWR, 0o600); return err },
		"mkdir":    func() error { return os.Mkdir(other, 0o755) },
		"mknod":    func() error { return unix.Mkfifo(other, 0o644) },
		"remove":   func() error { return unix.Unlink(m.path) },
		"rmdir":    func() error { return unix.Rmdir(other) },
		"rename":   func() error { return os.Rename(m.path, other) },
		"link":     func() error { return os.Link(m.path, other) },
		"symlink":  func() error { return os.Symlink("x", other) },
		"chmod":    func() error { return os.Chmod(m.path, 0o777) },
		"chown":    func() error { return os.Chown(m.path, 1, 1) },
		"times":    func() error { return os.Chtimes(m.path, testTime, testTime) },
		"setxattr": func() error { return unix.Setxattr(m.path, "user.x", []byte("y"), 0) },
		"rmxattr":  func() error { return unix.Removexattr(m.path, attrID) },
	}
	try := func() {
		t.Helper()
		for name, change := range changes {
			err := change()
			// What does not exist cannot be removed either.
			if !errors.Is(err, unix.EROFS) && !(name == "rmdir" && errors.Is(err, unix.ENOENT)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	try()
	if err := unix.Mount("", m.dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	delete(changes, "tmpfile") // the kernel answers for file systems that have none
	try()
	m.sequential(t)
}

func TestNothingElse(t *testing.T) {
	promise(t, "K11", "`SEEK_HOLE` finds no holes")
	m := serve(t, setup{hold: true})
	f := m.open(os.O_RDONLY)
	if off, err := unix.Seek(int(f.Fd()), 5, unix.SEEK_HOLE); err != nil || off != int64(len(m.want)) {
		t.Errorf("SEEK_HOLE: %d, %v", off, err)
	}
	if off, err := unix.Seek(int(f.Fd()), 5, unix.SEEK_DATA); err != nil || off != 5 {
		t.Errorf("SEEK_DATA: %d, %v", off, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		t.Errorf("flock: %v", err)
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, m.path, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil || st.Size != uint64(len(m.want)) {
		t.Errorf("statx: %v, %+v", err, st)
	}
	if _, err := unix.IoctlGetInt(int(f.Fd()), 0x80086601 /* FS_IOC_GETFLAGS */); err != unix.ENOTTY {
		t.Errorf("ioctl: %v", err)
	}
	if err := unix.Fsync(int(f.Fd())); err != nil {
		t.Errorf("fsync: %v", err)
	}
	if err := unix.Access(m.path, unix.W_OK); err != unix.EROFS {
		t.Errorf("access: %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.dir, ".go-fuse-epoll-hack")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a name of go-fuse's: %v", err)
	}
}

func TestPermissions(t *testing.T) {
	promise(t, "K6", "Mounted by root, every user may read")
	m := serve(t, setup{})
	for dir := filepath.Dir(m.dir); dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := asNobody(t, "head", "-c", "1000", m.path); err != nil || string(out) != string(m.want[:1000]) {
		t.Errorf("another user: %v, %d bytes", err, len(out))
	}
}
