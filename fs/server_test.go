package fs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.uber.org/goleak"

	"github.com/pantala/pantala/blob"
)

// serverConfig is what a test tells the process that serves its mount.
type serverConfig struct {
	Dir      string
	Data     string // file with the content
	Name     string
	Options  Options // Log is not sent
	Complete bool
	Tree     bool // mount treeOf the data
	Auto     int  // ms after which absent bytes come by themselves; < 0: never
	ModTime  time.Time
	Source   string
	Digest   string
}

// command is one line to the server, answer its answer.
type command struct {
	Op     string
	Off, N int64
	Ms     int
	Class  string
}

type answer struct {
	Err                 string
	Class               string // word for the error class, see classes
	Stats               Stats
	Info                MountInfo
	Waiting             int    // waiters in the blob
	Present             int64  // bytes
	Touched             uint64 // calls of Touch
	Privileged, CanPass bool
	Init                int // bytes of the saved INIT
}

var classes = map[string]error{
	"busy": ErrBusy, "stale": ErrStale, "mountpoint": ErrMountPoint, "notmounted": ErrNotMounted, "prerequisite": ErrPrerequisite,
	"notfound": blob.ErrNotFound, "denied": blob.ErrDenied, "unavailable": blob.ErrUnavailable, "corrupt": blob.ErrCorrupt,
	"changed": blob.ErrChanged, "nospace": blob.ErrNoSpace, "closed": blob.ErrClosed, "invalid": blob.ErrInvalid, "canceled": context.Canceled,
	"deadline": context.DeadlineExceeded, "other": errTest,
}

func classOf(err error) string {
	for name, class := range classes {
		if errors.Is(err, class) {
			return name
		}
	}
	return ""
}

// serverMain mounts as the first line of stdin says and obeys the others until "exit" or the end of input.
func serverMain() int {
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	var c serverConfig
	if err := in.Decode(&c); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	b, err := newFakeBlob(c.Data)
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	b.auto = time.Duration(c.Auto) * time.Millisecond
	if c.Complete {
		b.finish()
	}
	c.Options.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	f := File{Name: c.Name, Blob: b, ID: blob.DigestID(blob.Hash{1}), ModTime: c.ModTime, Source: c.Source, Digest: c.Digest, Present: b.Present}
	var m *Mounted
	if c.Tree {
		m, err = MountTree(context.Background(), c.Dir, treeOf(b), f, c.Options)
	} else {
		m, err = Mount(context.Background(), c.Dir, f, c.Options)
	}
	if err != nil {
		out.Encode(answer{Err: err.Error(), Class: classOf(err)})
		b.close()
		return 0
	}
	state := func() answer {
		return answer{Stats: m.Stats(), Info: m.Info(), Waiting: b.wait(), Present: b.Present(), Touched: b.touched.Load(),
			Privileged: m.privileged, CanPass: m.canPass, Init: len(m.init)}
	}
	out.Encode(state())
	for {
		var q command
		if err := in.Decode(&q); err != nil {
			break
		}
		var err error
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		switch q.Op {
		case "stats":
		case "present":
			b.present(b.run(q.Off, int(q.N)))
		case "complete":
			b.finish()
		case "auto":
			b.mu.Lock()
			b.auto, b.err = time.Duration(q.Ms)*time.Millisecond, nil
			b.mu.Unlock()
		case "forget":
			b.mu.Lock()
			b.forget = q.N != 0
			b.mu.Unlock()
		case "fail":
			b.fail(fmt.Errorf("%w: by the test", classes[q.Class]))
		case "panic":
			b.panics.Store(q.N != 0)
		case "unmount":
			err = m.Unmount(ctx)
		case "detach":
			err = m.Detach(ctx)
		case "abort":
			err = m.Abort()
		case "done":
			select {
			case <-m.Done():
			case <-ctx.Done():
				err = ctx.Err()
			}
		case "exit":
			cancel()
			return serverExit(m, b, out, state)
		default:
			err = fmt.Errorf("unknown command %q", q.Op)
		}
		cancel()
		a := state()
		if err != nil {
			a.Err, a.Class = err.Error(), classOf(err)
		}
		out.Encode(a)
	}
	m.Abort()
	return 1
}

// serverExit checks that nothing is left of a mount.
func serverExit(m *Mounted, b *fakeBlob, out *json.Encoder, state func() answer) int {
	m.Detach(context.Background())
	m.Abort()
	select {
	case <-m.Done():
	case <-time.After(20 * time.Second):
		fmt.Fprintln(os.Stderr, "server: Done was not closed after Abort")
		return 1
	}
	b.close()
	a := state()
	if err := goleak.Find(); err != nil {
		a.Err = err.Error()
	}
	out.Encode(a)
	return 0
}
