package fs

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
)

func TestParseMountInfo(t *testing.T) {
	const table = `22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /root /mnt/a\040b\134c rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue
44 27 0:41 / /m\011n ro,nosuid - fuse.pantala https://h/x\043y ro,user_id=0
`
	got, err := parseMountInfo([]byte(table))
	want := []MountInfo{
		{22, "0:21", "/proc", "proc", "proc"},
		{36, "98:0", `/mnt/a b\c`, "ext3", "/dev/root"},
		{44, "0:41", "/m\tn", fsType, "https://h/x#y"},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"x\n", "1 2 3 4 5 6\n", "1 2 3 4 5 - a b\n", "a 2 0:1 / /x rw - t s o\n"} {
		if _, err := parseMountInfo([]byte(bad)); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
	if top, ok := topAt(append(want, MountInfo{ID: 50, Dir: "/proc"}), "/proc"); !ok || top.ID != 50 {
		t.Errorf("top: %+v", top)
	}
}

func FuzzMountInfo(f *testing.F) {
	if b, err := os.ReadFile(mountInfoPath); err == nil {
		f.Add(b)
	}
	f.Add([]byte(`36 35 98:0 /r /m\04 rw - ext3 s\ rw` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		infos, err := parseMountInfo(b)
		if err == nil && len(infos) > strings.Count(string(b), "\n")+1 {
			t.Errorf("%d mounts in %q", len(infos), b)
		}
	})
}

const statusFormat = "Name:\tx\nPid:\t1\nSigPnd:\tPPPP\nShdPnd:\tSSSS\nSigBlk:\tBBBB\nSigIgn:\tIIII\nSigCgt:\tCCCC\n"

func TestFatalPending(t *testing.T) {
	hex := func(s signalSet) string { return strings.ToUpper(string(appendHex(nil, uint64(s)))) }
	for name, c := range map[string]struct {
		own, shared, blocked, ignored, caught signalSet
		want                                  bool
	}{
		"nothing":           {},
		"killed":            {own: setOf(syscall.SIGKILL), want: true},
		"group killed":      {shared: setOf(syscall.SIGKILL), want: true},
		"kill cannot wait":  {own: setOf(syscall.SIGKILL), blocked: ^signalSet(0), caught: ^signalSet(0), want: true},
		"term":              {shared: setOf(syscall.SIGTERM), want: true},
		"term caught":       {shared: setOf(syscall.SIGTERM), caught: setOf(syscall.SIGTERM)},
		"term blocked":      {shared: setOf(syscall.SIGTERM), blocked: setOf(syscall.SIGTERM)},
		"term ignored":      {shared: setOf(syscall.SIGTERM), ignored: setOf(syscall.SIGTERM)},
		"core":              {own: setOf(syscall.SIGQUIT), want: true},
		"child":             {shared: setOf(syscall.SIGCHLD)},
		"urgent":            {own: setOf(syscall.SIGURG)},
		"stop":              {shared: setOf(syscall.SIGSTOP, syscall.SIGTSTP)},
		"alarm caught":      {own: setOf(syscall.SIGALRM), caught: setOf(syscall.SIGALRM)},
		"real time, caught": {own: 1 << 40, caught: 1 << 40},
		"real time":         {own: 1 << 40, want: true},
	} {
		text := strings.NewReplacer("PPPP", hex(c.own), "SSSS", hex(c.shared), "BBBB", hex(c.blocked), "IIII", hex(c.ignored), "CCCC", hex(c.caught)).Replace(statusFormat)
		if got, err := fatalPending([]byte(text)); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "SigPnd:\t0\n", strings.ReplaceAll(statusFormat, "PPPP", "xyz")} {
		if _, err := fatalPending([]byte(bad)); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
	m := &Mounted{}
	if m.hopeless(uint32(os.Getpid())) {
		t.Error("this test is being killed")
	}
	if !m.hopeless(0) || !m.hopeless(1<<31-1) {
		t.Error("a thread that cannot be seen may not keep a read waiting")
	}
}

func appendHex(b []byte, v uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[v>>shift&15])
	}
	return b
}

func FuzzStatus(f *testing.F) {
	if b, err := os.ReadFile("/proc/self/status"); err == nil {
		f.Add(b)
	}
	f.Add([]byte(statusFormat))
	f.Fuzz(func(t *testing.T, b []byte) {
		if fatal, err := fatalPending(b); fatal && (err != nil || !strings.Contains(string(b), "Pnd:")) {
			t.Errorf("%v, %v for %q", fatal, err, b)
		}
	})
}

func TestHelperError(t *testing.T) {
	for text, want := range map[string]string{
		"fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n": "leave out --allow-other",
		"fusermount3: user has no write access to mountpoint /x":                                        "directory of your own",
		"fusermount3: mount failed: Operation not permitted":                                            "chmod u+s",
		"fusermount3: too many FUSE filesystems mounted; mount_max=N can be set in /etc/fuse.conf":      "unmount some",
		"":                           "pantala doctor",
		"fusermount3: something new": "something new",
	} {
		if err := helperError("/x", text, errors.New("exit status 1")); !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPrerequisites(t *testing.T) {
	needFUSE(t)
	if p := Prerequisites(); len(p) != 0 {
		t.Errorf("%v", p)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := fusermount(); err != nil && !errors.Is(err, ErrPrerequisite) {
		t.Errorf("%v", err)
	}
}

// localBlob is a fakeBlob in this process, for tests that need no kernel.
func localBlob(t testing.TB, size int64) *fakeBlob {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, content(size), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := newFakeBlob(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

// localLoop is a loop that answers into a file instead of /dev/fuse.
func localLoop(t testing.TB, b *fakeBlob, device string) *loop {
	t.Helper()
	fd, err := unix.Open(device, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	m := &Mounted{leaves: []*leaf{{blob: b, size: b.size}}, fd: fd, log: slog.New(slog.DiscardHandler), lot: lot{reads: map[uint64]*parked{}}, nudge: make(chan struct{}, 1)}
	return newLoop(m)
}

// readRequest is a READ as the kernel sends it.
func readRequest(unique, off uint64, n uint32) []byte {
	b := make([]byte, inHeaderSize+readInSize)
	host.PutUint32(b, uint32(len(b)))
	host.PutUint32(b[4:], opRead)
	host.PutUint64(b[8:], unique)
	host.PutUint64(b[16:], nodeFirst)
	host.PutUint64(b[inHeaderSize+8:], off)
	host.PutUint32(b[inHeaderSize+16:], n)
	return b
}

// TestReadAllocates: answering a READ of present bytes must not allocate.
func TestReadAllocates(t *testing.T) {
	b := localBlob(t, 1<<20)
	b.finish()
	l := localLoop(t, b, "/dev/null")
	request := readRequest(2, 64<<10, 128<<10)
	if n := testing.AllocsPerRun(1000, func() { l.serve(request) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := l.hot.bytes.Load(); got != 1001*128<<10 {
		t.Errorf("%d bytes", got)
	}
}

// TestReadIsClipped: the kernel may ask beyond the end, and nothing it says may make us read outside.
func TestReadIsClipped(t *testing.T) {
	b := localBlob(t, 100_000)
	b.finish()
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		off  uint64
		n    uint32
		want int
	}{
		{0, 10, 10}, {99_999, 4096, 1}, {100_000, 4096, 0}, {1 << 63, 4096, 0}, {1<<64 - 1, 1<<32 - 1, 0}, {0, 1<<32 - 1, 100_000}, {50, 0, 0},
	} {
		if err := os.WriteFile(out, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		localLoop(t, b, out).serve(readRequest(77, c.off, c.n))
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != outHeaderSize+c.want {
			t.Errorf("%d at %d: %d bytes of answer, want %d", c.n, c.off, len(got), outHeaderSize+c.want)
			continue
		}
		if host.Uint32(got) != uint32(len(got)) || host.Uint32(got[4:]) != 0 || host.Uint64(got[8:]) != 77 {
			t.Errorf("%d at %d: header %x", c.n, c.off, got[:outHeaderSize])
		}
	}
}

func TestRequestsThatAreTooShort(t *testing.T) {
	log.SetOutput(io.Discard) // go-fuse complains there
	defer log.SetOutput(os.Stderr)
	l := localLoop(t, localBlob(t, 1000), "/dev/null")
	l.m.proto = newProtocol(newTree(l.m, []TreeFile{{File: File{Name: "f", Blob: l.m.leaves[0].blob}, Path: []string{"f"}, Length: l.m.leaves[0].size}}, File{}, 0, 0), false, l.m.panicked, l.m.log)
	for opcode := range uint32(120) {
		for n := inHeaderSize; n < inHeaderSize+24; n++ {
			b := make([]byte, n)
			host.PutUint32(b, uint32(n))
			host.PutUint32(b[4:], opcode)
			l.serve(b)
		}
	}
	if n := l.m.rare.panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

func TestMountWithoutBlob(t *testing.T) {
	if _, err := Mount(context.Background(), t.TempDir(), File{Name: "x"}, Defaults()); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

// TestMountIsGivenUp: the mount point is clean again when the mount fails after the kernel has been attached.
func TestMountIsGivenUp(t *testing.T) {
	needFUSE(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	o := Defaults()
	o.FSName = testSource() + t.Name()
	if _, err := Mount(ctx, dir, File{Name: "x", Blob: localBlob(t, 1000)}, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if i, err := find(dir); err == nil {
		t.Errorf("still mounted: %+v", i)
	}
}

func TestReserve(t *testing.T) {
	release, err := reserve("/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reserve("/a"); !errors.Is(err, ErrBusy) {
		t.Errorf("second: %v", err)
	}
	release()
	if release, err = reserve("/a"); err != nil {
		t.Errorf("after release: %v", err)
	}
	release()
}

// BenchmarkRead is our part of a READ of present bytes: without the kernel's.
func BenchmarkRead(b *testing.B) {
	for name, size := range map[string]uint32{"4K": 4 << 10, "128K": 128 << 10} {
		b.Run(name, func(b *testing.B) {
			f := localBlob(b, 8<<20)
			f.finish()
			l := localLoop(b, f, "/dev/null")
			request := readRequest(2, 1<<20, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				l.serve(request)
			}
		})
	}
}

// elusive is a Blob that says that bytes have come and then does not have them.
type elusive struct {
	*fakeBlob
	wants int
	w     blob.Waiter
}

func (e *elusive) Want(_ int64, _ int, w blob.Waiter) bool { e.wants++; e.w = w; return false }

func (e *elusive) WriteTo(int, []byte, int64, int) (int, error) { return 0, blob.ErrAbsent }

// TestBytesThatNeverStay: a read does not go round for ever, each time with a new deadline.
func TestBytesThatNeverStay(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b := &elusive{fakeBlob: localBlob(t, 100_000)}
	l := localLoop(t, b.fakeBlob, out)
	l.m.leaves[0].blob = b
	l.serve(readRequest(77, 0, 4096))
	for i := 0; l.m.lot.len() > 0; i++ {
		if i > 2*maxWants {
			t.Fatalf("wanted %d times", b.wants)
		}
		b.w.Ready(nil)
	}
	got, err := os.ReadFile(out)
	if err != nil || len(got) != outHeaderSize || -int32(host.Uint32(got[4:])) != int32(syscall.EIO) || host.Uint64(got[8:]) != 77 {
		t.Errorf("answer %x, %v", got, err)
	}
}

// TestHopelessWithoutDescriptors: that we cannot look at a thread because we have too many files open says nothing
// about the thread.
func TestHopelessWithoutDescriptors(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	hopeless := (&Mounted{}).hopeless(uint32(os.Getpid()))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if hopeless {
		t.Error("a living reader is given up")
	}
}
