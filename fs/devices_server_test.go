package fs

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/fs/erofs"
)

// devConfig is what a test tells the process that serves its devices.
type devConfig struct {
	Dir     string
	Options Options
	Resume  bool
}

// devCommand is one line to the server; devAnswer its answer.
type devCommand struct {
	Op   string // add, flat, remove, complete, auto, fail, settle, handover, stats, unmount, exit
	Name string
	ID   uint64
	Data string // file with the content, of add
	Ms   int    // of add and auto: absent bytes come that much later; < 0: never
	Full bool   // of add: all is there from the start

	Layers []string // of flat, which adds the image Data as one file: the names of its layers, which were added
}

type devAnswer struct {
	Err, Class string
	Path       string
	Stats      Stats
	CanPass    bool
	Waiting    int
	Adopted    []Adopted
	Holder     int // pid of the holder that this process has started
}

// devicesMain serves devices as the first line of stdin says and obeys the others.
func devicesMain() int {
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	var c devConfig
	if err := in.Decode(&c); err != nil {
		fmt.Fprintln(os.Stderr, "devices:", err)
		return 1
	}
	c.Options.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	mount := MountDevices
	if c.Resume {
		mount = ResumeDevices
	}
	d, err := mount(context.Background(), c.Dir, c.Options)
	if err != nil {
		out.Encode(devAnswer{Err: err.Error(), Class: classOf(err)})
		return 0
	}
	blobs := map[string]*fakeBlob{}
	ctx := context.Background()
	say := func(err error, path string) {
		a := devAnswer{Path: path, Stats: d.Stats(), CanPass: d.m.canPass, Adopted: d.Adopted()}
		if h := d.m.hold; h != nil && h.child != nil {
			a.Holder = h.child.Process.Pid
		}
		for _, b := range blobs {
			a.Waiting += b.wait()
		}
		if err != nil {
			a.Err, a.Class = err.Error(), classOf(err)
		}
		out.Encode(a)
	}
	say(nil, d.Dir())
	for {
		var q devCommand
		if err := in.Decode(&q); err != nil {
			d.Abort()
			return 1
		}
		b := blobs[q.Name]
		var err error
		var path string
		switch q.Op {
		case "add":
			if b, err = newFakeBlob(q.Data); err != nil {
				break
			}
			b.auto = time.Duration(q.Ms) * time.Millisecond
			if q.Full {
				b.finish()
			}
			if path, err = d.Add(q.ID, q.Name, b); err != nil {
				b.close()
			} else {
				blobs[q.Name] = b
			}
		case "flat":
			var img *erofs.Image
			if img, err = erofs.OpenFile(q.Data); err != nil {
				break
			}
			defer img.Close()
			var layers []Blob
			for _, name := range q.Layers {
				layers = append(layers, blobs[name])
			}
			var f *Flat
			if f, err = NewFlat(img, layers); err == nil {
				path, err = d.Add(q.ID, q.Name, f)
			}
		case "remove":
			if err = d.Remove(q.Name); err == nil && b != nil {
				b.close()
				delete(blobs, q.Name)
			}
		case "complete":
			b.finish()
		case "auto":
			b.mu.Lock()
			b.auto, b.err = time.Duration(q.Ms)*time.Millisecond, nil
			b.mu.Unlock()
		case "fail":
			b.fail(errTest)
		case "stats":
		case "settle":
			d.Settle()
		case "handover":
			if !d.Handover() {
				err = errTest
			}
			for name, b := range blobs { // as a node closes its devices
				if rerr := d.Remove(name); rerr != nil {
					err = rerr
				}
				b.fail(blob.ErrClosed)
				b.closed.Store(true)
			}
		case "unmount":
			err = d.Unmount(ctx)
		case "leave":
			say(nil, "")
			return 0
		case "exit":
			d.m.Detach(ctx)
			d.Abort()
			select {
			case <-d.Done():
			case <-time.After(20 * time.Second):
				err = fmt.Errorf("Done was not closed after Abort")
			}
			for _, b := range blobs {
				b.close()
			}
			blobs = nil
			if err == nil {
				err = goleak.Find()
			}
			say(err, "")
			return 0
		default:
			err = fmt.Errorf("unknown command %q", q.Op)
		}
		say(err, path)
	}
}

// devices is a mount of devices whose server is another process.
type devices struct {
	t       testing.TB
	dir     string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	stderr  fileText // a file, because the holder, which has it too, lives on
	mu      sync.Mutex
	first   devAnswer
	options Options
}

// fileText is what a file holds.
type fileText string

func (f fileText) String() string {
	b, _ := os.ReadFile(string(f))
	return string(b)
}

// serveDevices mounts devices in a child process.
func serveDevices(t testing.TB, o Options) *devices {
	t.Helper()
	needFUSE(t)
	d := &devices{t: t, dir: filepath.Join(t.TempDir(), "layers"), stderr: fileText(filepath.Join(t.TempDir(), "stderr"))}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o.FSName = testSource() + t.Name()
	d.options = o
	d.start(false)
	dog := time.AfterFunc(watchdog, func() {
		t.Errorf("watchdog: the test did not end within %v; killing the server", watchdog)
		d.kill()
	})
	t.Cleanup(func() {
		if a, err := d.send(devCommand{Op: "exit"}); err != nil || a.Err != "" {
			t.Errorf("exit: %v %s", err, a.Err)
		} else if a.Stats.Panics > 0 {
			t.Errorf("%d handlers panicked", a.Stats.Panics)
		}
		d.in.Close()
		timer := time.AfterFunc(20*time.Second, d.kill)
		d.cmd.Wait()
		timer.Stop()
		dog.Stop()
		for range 4 {
			if UnmountDir(d.dir, true) != nil {
				break
			}
		}
		if s := d.stderr.String(); t.Failed() && s != "" {
			t.Logf("server: %s", s)
		}
	})
	if d.first.Err != "" {
		t.Fatalf("server: %s\n%s", d.first.Err, d.stderr)
	}
	return d
}

// start starts a server, which mounts or resumes.
func (d *devices) start(resume bool) {
	t := d.t
	t.Helper()
	d.cmd = exec.Command(testBinary(t))
	d.cmd.Dir = "/"
	d.cmd.Env = append(os.Environ(), roleEnv+"=devices", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	stderr, err := os.OpenFile(string(d.stderr), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	d.cmd.Stderr = stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := d.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.in, d.out = stdin, json.NewDecoder(stdout)
	d.first = devAnswer{}
	if err := json.NewEncoder(d.in).Encode(devConfig{d.dir, d.options, resume}); err != nil {
		t.Fatal(err)
	}
	if err := d.out.Decode(&d.first); err != nil {
		t.Fatalf("server: %v\n%s", err, d.stderr)
	}
}

func (d *devices) kill() {
	d.cmd.Process.Kill()
	AbortDir(d.dir)
}

func (d *devices) send(q devCommand) (a devAnswer, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := json.NewEncoder(d.in).Encode(q); err != nil {
		return a, err
	}
	return a, d.out.Decode(&a)
}

// ask sends a command and fails the test if it fails.
func (d *devices) ask(q devCommand) devAnswer {
	d.t.Helper()
	a, err := d.send(q)
	if err != nil || a.Err != "" {
		d.t.Fatalf("%+v: %v %s\n%s", q, err, a.Err, d.stderr)
	}
	return a
}

// until waits for a condition of the server. The bound is the watchdog's, not a promise.
func (d *devices) until(what string, ok func(devAnswer) bool) {
	d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(d.ask(devCommand{Op: "stats"})); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// refused sends a command that must fail with a class.
func (d *devices) refused(class string, q devCommand) {
	d.t.Helper()
	a, err := d.send(q)
	if err != nil || a.Class != class {
		d.t.Errorf("%+v: %v, class %q, want %q: %s", q, err, a.Class, class, a.Err)
	}
}

// erofsImage makes an EROFS image of files whose contents lie on one device, and returns the paths of both.
func erofsImage(t testing.TB, src string) (meta, device string) {
	t.Helper()
	dir := t.TempDir()
	meta, device = filepath.Join(dir, "meta"), filepath.Join(dir, "device")
	if out, err := exec.Command("mkfs.erofs", "--quiet", "--chunksize=4096", "--blobdev="+device, meta, src).CombinedOutput(); err != nil {
		if os.Getenv("CI") != "true" && strings.Contains(err.Error(), "executable file not found") {
			t.Skip("no mkfs.erofs; install the package erofs-utils")
		}
		t.Fatalf("mkfs.erofs: %v\n%s", err, out)
	}
	return meta, device
}
