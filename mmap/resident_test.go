package mmap

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// rssFile is how much of mapped files counts as resident memory of this process, in bytes.
func rssFile(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^RssFile:\s+(\d+) kB$`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no RssFile in %s", status)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestResidentMemoryIsBounded: of one region, and of several together.
func TestResidentMemoryIsBounded(t *testing.T) {
	for _, regions := range []int{1, 5} {
		t.Run(strconv.Itoa(regions), func(t *testing.T) { boundedBy(t, regions) })
	}
}

func boundedBy(t *testing.T, regions int) {
	const size = 6 * forgetAfter
	all := make([]*Region, regions)
	for i := range all {
		f := file(t, nil)
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		all[i] = mapped(t, f, size)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan int64)
	go func() {
		var total int64
		buf := make([]byte, 1<<20)
		for {
			n, err := unix.Read(fds[1], buf)
			if n <= 0 || err != nil {
				drained <- total
				return
			}
			total += int64(n)
		}
	}()
	before, most := rssFile(t), int64(0)
	for off := int64(0); off < size; off += 64 << 10 {
		if _, err := all[off/(64<<10)%int64(regions)].WriteTo(fds[0], nil, off, 64<<10); err != nil {
			t.Fatal(err)
		}
		if off%(1<<20) == 0 {
			most = max(most, rssFile(t)-before)
		}
	}
	unix.Close(fds[0])
	if got := <-drained; got != size {
		t.Errorf("%d bytes arrived of %d", got, int64(size))
	}
	unix.Close(fds[1])
	if most < forgetAfter/2 || most > forgetAfter+8<<20 {
		t.Errorf("at most %d bytes of the files were resident, want about %d", most, forgetAfter)
	}
	if Forget(); rssFile(t)-before > 1<<20 {
		t.Errorf("%d bytes are left, and all should be forgotten", rssFile(t)-before)
	}
}
