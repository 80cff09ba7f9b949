package e2etest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// A harness that sees nothing proves nothing: each of its eyes is shown what it must see.

func TestReaderSeesOneWrongBit(t *testing.T) {
	w := New(t)
	good := Content(t, 3<<20+17, 1)
	b := good.Bytes(t)
	const at = 2<<20 + 5
	b[at] ^= 1
	bad := filepath.Join(w.Root, "bad")
	if err := os.WriteFile(bad, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Read{
		"in order":      {Path: bad, Want: good.Path},
		"at random":     {Path: bad, Want: good.Path, Block: 4096, Random: 769},
		"by 4 threads":  {Path: bad, Want: good.Path, Threads: 4, Drop: true},
		"in the region": {Path: bad, Want: good.Path, Off: at, Len: 1},
	} {
		found, _ := w.Read(time.Minute, r)
		if found.Mismatch != at {
			t.Errorf("%s: mismatch at %d, want %d (%+v)", name, found.Mismatch, at, found)
		}
	}
	found, _ := w.MustRead(time.Minute, Read{Path: good.Path, Want: good.Path, Against: bad, Passes: 3})
	if found.Bytes != 3*good.Size || len(found.Passes) != 3 || len(found.Against) != 3 {
		t.Errorf("three passes over two files: %+v", found)
	}
}

func TestReaderSeesErrors(t *testing.T) {
	w := New(t)
	f := Content(t, 1<<20, 1)
	if found, _ := w.Read(time.Minute, Read{Path: f.Path, Len: 2 << 20}); found.Error != io.ErrUnexpectedEOF.Error() || found.ErrOff != 1<<20 {
		t.Errorf("a short file: %+v", found)
	}
	if found, _ := w.Read(time.Minute, Read{Path: w.Root, Len: 1}); found.Errno != int(syscall.EISDIR) {
		t.Errorf("a directory: %+v", found)
	}
	if found, _ := w.Read(time.Minute, Read{Path: "/nonexistent"}); found.Errno != int(syscall.ENOENT) {
		t.Errorf("nothing: %+v", found)
	}
}

func TestChildIsKilledAtItsLimit(t *testing.T) {
	w := New(t)
	r := w.Run(50*time.Millisecond, "sh", "-c", "sleep 600; true")
	if !r.TimedOut || r.Signal != syscall.SIGKILL {
		t.Errorf("%v", r)
	}
	if left := w.Left(5 * time.Second); len(left) != 0 {
		t.Errorf("the child's child lives: %v", left)
	}
}

func TestLeftProcessIsSeen(t *testing.T) {
	w := New(t)
	w.MustRun(10*time.Second, "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null &")
	left := w.Left(0)
	if len(left) != 1 {
		t.Fatalf("left = %v", left)
	}
	syscall.Kill(left[0], syscall.SIGKILL)
}

func TestLeftMountIsSeenAndForced(t *testing.T) {
	NeedRoot(t)
	w := New(t)
	dir := filepath.Join(w.Root, "with a space")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	if got := MountsBelow(w.Root); len(got) != 1 || got[0].Dir != dir || got[0].Type != "tmpfs" {
		t.Errorf("mounts: %+v", got)
	}
	holder, err := os.Open(dir) // busy
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := ForceUnmount(dir); err != nil || len(MountsBelow(w.Root)) != 0 {
		t.Errorf("force: %v, %v", err, MountsBelow(w.Root))
	}
}

func TestNginxCountsWhatItSends(t *testing.T) {
	w := New(t)
	f := Content(t, 1<<20, 1)
	n := w.Nginx("1m")
	n.Serve(f, "x.bin")
	get := func(url, rng string) (int, int64, http.Header) {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rng != "" {
			req.Header.Set("Range", rng)
		}
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		k, err := io.Copy(io.Discard, res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, k, res.Header
	}
	for _, c := range []struct {
		path, rng string
		code      int
		bytes     int64
	}{
		{"/x.bin", "bytes=10-19", 206, 10},
		{"/norange/x.bin", "bytes=10-19", 200, 1 << 20},
		{"/chunked/x.bin", "", 200, 1 << 20},
		{"/auth/x.bin", "", 401, -1}, {"/denied/x.bin", "", 403, -1}, {"/no", "", 404, -1},
	} {
		code, k, h := get(n.URL+c.path, c.rng)
		if code != c.code || c.bytes >= 0 && k != c.bytes {
			t.Errorf("%s: %d with %d bytes, want %d with %d", c.path, code, k, c.code, c.bytes)
		}
		if c.path == "/chunked/x.bin" && (h.Get("Content-Length") != "" || h.Get("ETag") != "" || h.Get("Last-Modified") != "") {
			t.Errorf("chunked says too much: %v", h)
		}
	}
	n.Stop()
	log := n.Log()
	if len(log) != 6 || log[0] != (Access{206, 10, "GET", "bytes=10-19", "/x.bin"}) {
		t.Fatalf("log: %+v", log)
	}
	if n.Sent() < 10+2<<20 {
		t.Errorf("sent %d", n.Sent())
	}
}

// An honest node behind a liar: frames pass as they are but for one bit of each block; the tracker hears the
// liar's port.
func TestLiarLies(t *testing.T) {
	w := New(t)
	seen := make(chan string, 2)
	tracker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen <- r.URL.RawQuery + " " + string(b)
	})}
	go srv.Serve(tracker)
	defer srv.Close()
	node, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	port := node.Addr().(*net.TCPAddr).Port
	liar := w.Liar("http://" + tracker.Addr().String() + "/announce")

	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 5 * time.Second}
	for _, err := range []error{
		second(client.Get(fmt.Sprintf("%s?info_hash=%%00%%ff&port=%d&left=0", liar.Tracker, port))),
		second(client.Post(strings.Replace(liar.Tracker, "/announce", "/plan", 1), "", strings.NewReader(fmt.Sprintf("d3:keyi1e4:porti%de1:vi1ee", port)))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{fmt.Sprintf("info_hash=%%00%%ff&port=%d&left=0 ", liar.port), fmt.Sprintf(" d3:keyi1e4:porti%de1:vi1ee", liar.port)} {
		if got := <-seen; got != want {
			t.Errorf("the tracker heard %q, want %q", got, want)
		}
	}

	frame := func(id byte, body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(1+len(body))), append([]byte{id}, body...)...)
	}
	hello := bytes.Repeat([]byte{'h'}, 68)
	sent := bytes.Join([][]byte{hello, {0, 0, 0, 0}, frame(5, "bits"), frame(7, "iiiibbbbblock"), frame(4, "have")}, nil)
	want := bytes.Replace(sent, []byte("block"), []byte("blnck"), 1)
	go func() {
		c, err := node.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Write(sent)
	}()
	c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(liar.port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) || liar.Lies.Load() != 1 {
		t.Errorf("got %q (%v), %d lies; want %q", got[68:], err, liar.Lies.Load(), want[68:])
	}
}

func second(res *http.Response, err error) error {
	if err == nil {
		res.Body.Close()
	}
	return err
}

// A test process that is killed leaves nothing: TestVictim is that process.
func TestGuardCleansUp(t *testing.T) {
	NeedRoot(t)
	w := New(t)
	tmp := w.Dir("tmp")
	victim := exec.Command("/proc/self/exe", "-test.run", "^TestVictim$")
	victim.Env = append(os.Environ(), "E2E_VICTIM=1", "TMPDIR="+tmp)
	out, err := victim.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ready") {
		t.Fatalf("the victim did not get itself killed: %v\n%s", err, out)
	}
	nginx, _ := strconv.Atoi(strings.TrimSpace(string(out[bytes.Index(out, []byte("nginx="))+6:])))
	if nginx == 0 {
		t.Fatalf("no pid in %s", out)
	}
	w.Until(20*time.Second, "the guard has cleaned up", func() bool {
		left, _ := os.ReadDir(tmp)
		return len(left) == 0 && len(MountsBelow(tmp)) == 0 && !Alive(nginx) && len(Marked(markEnv, tmp)) == 0
	})
}

// TestVictim does nothing unless TestGuardCleansUp started it.
func TestVictim(t *testing.T) {
	if os.Getenv("E2E_VICTIM") == "" {
		return
	}
	w := New(t)
	n := w.Nginx("1m")
	w.MustRun(10*time.Second, "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null &")
	if err := syscall.Mount("none", w.Dir("mnt"), "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("ready nginx=%d\n", n.p.PID())
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
