package e2e

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pantala/pantala/e2e/e2etest"
	"github.com/pantala/pantala/origin/origintest"
)

// What an origin may do once it has been mounted. A reader gets right bytes, or an error within the deadline; never
// wrong bytes, never a hang.
func TestOriginFaults(t *testing.T) {
	const (
		right  = 1 // the reader may get all bytes
		failed = 2 // the reader may get an error
	)
	const timeout = 6 * time.Second
	content := origintest.Bytes(1, 12<<20+345)
	second := origintest.New(t, origintest.Of(content))
	for _, c := range []struct {
		name   string
		faults origintest.Faults
		may    int
	}{
		{"good", origintest.Faults{}, right},
		{"three times 500", origintest.Faults{Status: 500, Times: 3}, right},
		{"503 with Retry-After, twice", origintest.Faults{Status: 503, RetryAfter: "1", Times: 2}, right},
		{"429 with Retry-After, twice", origintest.Faults{Status: 429, RetryAfter: "1", Times: 2}, right},
		{"three connections reset", origintest.Faults{Reset: 70000, Times: 3}, right},
		{"every body short", origintest.Faults{ShortBody: 300000}, right | failed},
		{"every connection reset", origintest.Faults{Reset: 300000}, right | failed},
		{"short ranges", origintest.Faults{Shorten: 300000}, right | failed},
		{"slow", origintest.Faults{Rate: 4 << 20}, right},
		{"redirected", origintest.Faults{RedirectTo: second.At("/object.bin")}, right | failed},
		{"one body stalls", origintest.Faults{Stall: 70000, Times: 1}, right | failed},
		{"every body stalls", origintest.Faults{Stall: 70000}, right | failed},
		{"ranges ignored", origintest.Faults{IgnoreRange: true}, right | failed},
		{"every If-Range a mismatch", origintest.Faults{BadIfRange: true}, right | failed},
		{"no validator any more", origintest.Faults{NoETag: true, NoLastModified: true}, right | failed},
		{"size not said", origintest.Faults{StarTotal: true}, right | failed},
		{"no Content-Range", origintest.Faults{NoRangeLine: true}, failed},
		{"wrong total", origintest.Faults{WrongTotal: 1}, failed},
		{"range shifted", origintest.Faults{ShiftRange: 4096}, failed},
		{"500 for ever", origintest.Faults{Status: 500}, failed},
		{"401 for ever", origintest.Faults{Status: 401}, failed},
		{"403 for ever", origintest.Faults{Status: 403}, failed},
		{"404 for ever", origintest.Faults{Status: 404}, failed},
		{"416 for ever", origintest.Faults{Status: 416}, failed},
		{"429 for longer than the deadline", origintest.Faults{Status: 429, RetryAfter: "3600"}, failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := e2etest.New(t)
			s := origintest.New(t, origintest.Of(content))
			want := w.Write("want", content)
			n := w.Node("n")
			path := n.Mount(s.At("/object.bin"), "--fill", "never", "--timeout", timeout.String())
			s.Set(c.faults)
			found, res := w.Read(2*time.Minute, e2etest.Read{Path: path, Want: want, Block: 128 << 10})
			t.Logf("%s of %s in %.2f s, %d requests; %s", e2etest.MiB(found.Bytes), e2etest.MiB(int64(len(content))),
				res.Took.Seconds(), s.Requests(), found.Error)
			switch {
			case found.Mismatch >= 0:
				t.Fatalf("WRONG BYTES at offset %d", found.Mismatch)
			case found.Error == "" && found.Bytes != int64(len(content)):
				t.Errorf("%d bytes of %d and no error", found.Bytes, len(content))
			case found.Error == "" && c.may&right == 0:
				t.Error("all bytes came although the origin never sent them: where from?")
			case found.Error != "" && c.may&failed == 0:
				t.Errorf("a fault that passes ended a read: %s", found.Error)
			}
			if found.Error != "" {
				if e := syscall.Errno(found.Errno); e != syscall.EIO && e != syscall.EACCES && e != syscall.ENOENT {
					t.Errorf("%s is no error a reader should see", e)
				}
				if limit := timeout.Seconds() + 1; found.ErrAfter > limit {
					t.Errorf("the error came after %.2f s, the deadline is %v", found.ErrAfter, timeout)
				}
				if n.MountStatus(path).Errors == 0 {
					t.Error("status counts no failed read")
				}
			}
			// The origin is good again, and so is a new mount.
			s.Set(origintest.Faults{})
			n.Must("umount", filepath.Dir(path))
			w.MustRead(readLimit, e2etest.Read{Path: n.Mount(s.At("/object.bin")), Want: want})
		})
	}
}

// What an origin may do while it is being mounted.
func TestOriginFaultsAtMount(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults origintest.Faults
		code   int
		word   string
	}{
		{"twice 500", origintest.Faults{Status: 500, Times: 2}, 0, ""},
		{"429 with Retry-After, once", origintest.Faults{Status: 429, RetryAfter: "1", Times: 1}, 0, ""},
		{"one connection reset", origintest.Faults{Reset: 10, Times: 1}, 0, ""},
		{"no ETag", origintest.Faults{NoETag: true}, 0, ""},
		{"weak ETag", origintest.Faults{WeakETag: true}, 0, ""},
		{"no validator", origintest.Faults{NoETag: true, NoLastModified: true}, 0, ""},
		{"ranges ignored", origintest.Faults{IgnoreRange: true}, 0, ""},
		{"no size", origintest.Faults{Chunked: true}, 0, ""},
		{"503 for ever", origintest.Faults{Status: 503}, exitTemporary, "503"},
		{"no answer", origintest.Faults{Stall: -1}, exitTemporary, ""},
		{"gone", origintest.Faults{Status: 410}, exitNotFound, "410"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := e2etest.New(t)
			content := origintest.Bytes(2, 3<<20+1)
			s := origintest.New(t, origintest.Of(content))
			s.Set(c.faults)
			n, dir := w.Node("n"), w.Dir("mnt")
			r := n.Start("mount", "--timeout", "5s", s.At("/object.bin"), dir).Wait(time.Minute)
			if c.code != 0 {
				refused(t, n, r, c.code, dir, c.word)
				return
			}
			if r.Code != 0 {
				t.Fatalf("%v", r)
			}
			w.MustRead(readLimit, e2etest.Read{Path: dir + "/object.bin", Want: w.Write("want", content)})
		})
	}
}
