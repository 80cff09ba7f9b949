package device

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
	"github.com/pantala/pantala/mmap"
)

// Config says what a device decodes, from what and into what.
type Config struct {
	Index   *index.Index  // required
	Windows blob.ReaderAt // the index file that Index was opened from; may be nil if no span has a window
	Stored  blob.ReaderAt // the layer as the registry has it; ctx carries class and deadline. Required
	Path    string        // the file of decoded bytes; it is made, or what is right of it is kept
	Pool    *Pool         // required; shared by the devices of a node
	Name    string        // of the layer, for messages; "": its digest
	// SpanName says what a span is, for messages; nil: its number does.
	SpanName func(span uint32) string
	// Whole says that the caller has just written all of the file, and verified it. It is sealed in the background,
	// which takes as long as the disk does.
	Whole bool

	// Timeout is how long a read waits for stored bytes; 0: [blob.DefaultTimeout], < 0: for ever.
	Timeout time.Duration
	// OnTouch is told of each span that a reader wanted, once in the life of the device, in the order of the first
	// reads. It must not block. It may be nil.
	OnTouch func(span uint32)
	Log     *slog.Logger // nil: none
}

// Device is an open device. All methods are safe for concurrent use. It implements fs.Blob and [blob.ReaderAt].
type Device struct {
	// Constant after Open.
	pool     *Pool
	index    *index.Index
	spans    []index.Span
	size     int64
	name     string
	windows  blob.ReaderAt
	stored   blob.ReaderAt
	decoders *[4]codec.Span
	timeout  time.Duration // ≤ 0: none
	onTouch  func(uint32)
	spanName func(uint32) string
	log      *slog.Logger
	path     string
	file     *os.File
	region   *mmap.Region
	ctx      context.Context
	stop     context.CancelFunc

	present bits // spans whose verified bytes are in the file
	maybe   bits // spans that lie in the file from an earlier life, not verified yet
	touched bits

	left      atomic.Int64 // spans not present
	bytes     atomic.Int64 // present
	complete  atomic.Bool
	completed chan struct{}
	ahead     streams
	loose     loose
	flying    sync.WaitGroup // jobs, and sealing

	decodes, found, corrupt, failures, reads, waits, unkept atomic.Int64
	warned                                                  atomic.Int64 // unix nanoseconds of the last warning about a full disk

	// Guarded by pool.mu.
	closed bool
	jobs   map[uint32]*job
	parked map[blob.Waiter]*read
}

// maxSpan bounds a span, stored and decoded, in bytes: more is a mistake in the index.
const maxSpan = 1 << 30

// Open opens a device. Close ends it. blob.ErrInvalid: the index contradicts itself.
func Open(c Config) (*Device, error) {
	x := c.Index
	name := cmp.Or(c.Name, "sha256:"+x.Layer.String())
	if err := check(x); err != nil {
		return nil, fmt.Errorf("index of %s: %w", name, err)
	}
	d := &Device{
		pool: c.Pool, index: x, spans: x.Spans, size: x.Size, name: name, windows: c.Windows, stored: c.Stored,
		decoders: &decoders, timeout: c.Timeout, onTouch: c.OnTouch, spanName: c.SpanName, log: c.Log, path: c.Path,
		present: newBits(len(x.Spans)), maybe: newBits(len(x.Spans)), touched: newBits(len(x.Spans)),
		completed: make(chan struct{}), jobs: map[uint32]*job{}, parked: map[blob.Waiter]*read{},
	}
	if d.timeout == 0 {
		d.timeout = blob.DefaultTimeout
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.spanName == nil {
		d.spanName = func(span uint32) string { return fmt.Sprint("span ", span) }
	}
	d.left.Store(int64(len(d.spans)))
	if err := d.openFile(c.Whole); err != nil {
		return nil, err
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	if d.left.Load() == 0 && !d.Complete() {
		d.flying.Go(d.seal)
	}
	return d, nil
}

// check refuses lists of spans that do not cover the address space exactly, or read outside the stored layer.
func check(x *index.Index) error {
	at := int64(0)
	for i := range x.Spans {
		s := &x.Spans[i]
		switch {
		case s.Device != at || s.Length <= 0 || s.Length > maxSpan || s.Length > x.Size-at:
			return fmt.Errorf("%w: span %d covers [%d,+%d) where [%d,…) of %d bytes is due", blob.ErrInvalid, i, s.Device, s.Length, at, x.Size)
		case s.Stored < 0 || s.StoredLength < 0 || s.StoredLength == 0 && s.Pad < s.Length || s.StoredLength > maxSpan || s.Stored > x.Stored-s.StoredLength:
			return fmt.Errorf("%w: span %d is stored at [%d,+%d) of a layer of %d bytes", blob.ErrInvalid, i, s.Stored, s.StoredLength, x.Stored)
		case int(s.Codec) >= len(decoders):
			return fmt.Errorf("%w: span %d has codec %d; use a newer version of pantala", blob.ErrInvalid, i, s.Codec)
		case s.Skip < 0 || s.Skip > maxSpan-s.Length || s.Pad < 0 || s.Pad > s.Length:
			return fmt.Errorf("%w: span %d of %d bytes has %d before and %d at its end that are not its own", blob.ErrInvalid, i, s.Length, s.Skip, s.Pad)
		case s.Codec == index.Stored && (s.StoredLength != s.Decoded() || s.Skip > 0):
			return fmt.Errorf("%w: span %d is stored as it is, but in %d bytes instead of %d", blob.ErrInvalid, i, s.StoredLength, s.Decoded())
		}
		at += s.Length
	}
	if at != x.Size {
		return fmt.Errorf("%w: the spans cover %d of %d bytes", blob.ErrInvalid, at, x.Size)
	}
	return nil
}

// Close ends all jobs and waits for them; parked reads fail with blob.ErrClosed. The file stays, with all that is in
// it. Whoever serves the device must have stopped. It may be called again.
func (d *Device) Close() error {
	d.pool.mu.Lock()
	if d.closed {
		d.pool.mu.Unlock()
		d.flying.Wait()
		return nil
	}
	d.closed = true
	var ready []*read
	for _, r := range d.parked {
		r.err = fmt.Errorf("%w: the layer is being closed", blob.ErrClosed)
		ready = append(ready, r)
	}
	clear(d.parked)
	for _, j := range d.jobs {
		if !j.admitted {
			d.dropJob(j)
		}
	}
	d.pool.admit()
	d.pool.mu.Unlock()
	d.stop()
	for _, r := range ready {
		r.answer()
	}
	d.flying.Wait()
	err := d.region.Close()
	if cerr := d.file.Close(); err == nil {
		err = cerr
	}
	return err
}

// Size is the length of the layer's address space in bytes.
func (d *Device) Size() int64 { return d.size }

// Present is how many bytes are in the file and verified, or of a sealed file. When it is Size, the file can be used
// without this device, by those who know that the machine has not been down since.
func (d *Device) Present() int64 { return d.bytes.Load() }

// Complete reports whether all of the file is there, on stable storage, and sealed.
func (d *Device) Complete() bool { return d.complete.Load() }

// Completed is closed when the device is complete.
func (d *Device) Completed() <-chan struct{} { return d.completed }

// File is the file of decoded bytes, to be handed to the kernel for passthrough once complete. It belongs to the
// device.
func (d *Device) File() *os.File { return d.file }

// Stats is what status shows of a device.
type Stats struct {
	Size, Present int64 // bytes
	Spans, Absent int64
	Waiting       int   // parked reads
	Jobs          int   // spans that are being made present or wait for it
	Reads         int64 // reads answered from present bytes
	Waits         int64 // reads that were parked
	Decodes       int64 // spans fetched and decoded
	Found         int64 // spans found in the file after a restart
	Corrupt       int64 // spans that did not match their digest
	Errors        int64 // reads that failed
	Unkept        int64 // spans that could not be written to the file
}

// Stats returns a snapshot.
func (d *Device) Stats() Stats {
	d.pool.mu.Lock()
	s := Stats{Waiting: len(d.parked), Jobs: len(d.jobs)}
	d.pool.mu.Unlock()
	s.Size, s.Present, s.Spans, s.Absent = d.size, d.bytes.Load(), int64(len(d.spans)), d.left.Load()
	s.Reads, s.Waits, s.Decodes, s.Found = d.reads.Load(), d.waits.Load(), d.decodes.Load(), d.found.Load()
	s.Corrupt, s.Errors, s.Unkept = d.corrupt.Load(), d.failures.Load(), d.unkept.Load()
	return s
}
