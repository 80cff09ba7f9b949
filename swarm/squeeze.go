package swarm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/peerwire"
)

// Payload of runs is compressed on its way over slow links, when the asker takes that and it gets shorter. What is
// hashed, stored and counted is always the blob's own bytes; docs/decisions/0012 has the figures.

const (
	// squeezeBelow is how fast a connection may be, in bytes per second of the wire, for compression to be tried: a
	// core compresses about 200 MB/s, and a node is to spend no more than a part of one on a link. Beyond it,
	// sendfile sends more with a fortieth of the work.
	squeezeBelow = 25e6
	// squeezeLeast is the shortest payload that is tried, in bytes.
	squeezeLeast = 4 << 10
)

// buffers are for what is compressed, and for what it was.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, codec.Max+codec.Max/64); return &b }}

// squeezer is one connection's part. Its writer owns it.
type squeezer struct {
	gauge codec.Gauge
	wire  int // bytes of payload that the last data message took
}

// squeezing is the node's part: one connection compresses at a time, so that it costs one core at most, and those
// that would have to wait send what they have as it is.
type squeezing struct{ busy sync.Mutex }

// slow reports whether what the connection carries is slow enough to be worth compressing.
func (p *peer) slow() bool { return p.flow.rate > 0 && p.flow.rate <= squeezeBelow }

// squeeze appends header and payload of a data message to batch, compressed; false: it is to be sent as it is.
func (p *peer) squeeze(batch []byte, head peerwire.Run, off int64, n int) ([]byte, bool, error) {
	if p.t.node.opts.NoCompress || n < squeezeLeast || !p.slow() || !p.squeezer.gauge.Try() || !p.t.node.squeezing.busy.TryLock() {
		return batch, false, nil
	}
	defer p.t.node.squeezing.busy.Unlock()
	raw, small := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer buffers.Put(raw)
	defer buffers.Put(small)
	*raw = (*raw)[:n]
	if err := p.t.cfg.Store.ReadAt(*raw, off); err != nil {
		return nil, false, fmt.Errorf("upload of %d bytes at %d: %w", n, off, err)
	}
	*small = codec.Shrink((*small)[:0], *raw)
	if !p.squeezer.gauge.Tried(n, len(*small)) {
		return batch, false, nil
	}
	head.Flags |= peerwire.DataZstd
	p.squeezer.wire = len(*small)
	p.t.saved.Add(int64(n - len(*small)))
	return append(peerwire.AppendDataHeader(batch, p.runsExt(), head, len(*small)), *small...), true, nil
}

// expandRun reads a compressed payload of wire bytes and puts the blocks of a run, n bytes, where they are wanted.
func (p *peer) expandRun(pt *part, run blob.Run, wire, n int) error {
	small, raw := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer buffers.Put(small)
	defer buffers.Put(raw)
	*small, *raw = (*small)[:wire], (*raw)[:n]
	for got := 0; got < wire; {
		m, err := p.rd.Payload((*small)[got:])
		got += m
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // an interrupt that was for another block
			p.conn.SetReadDeadline(time.Time{})
		case err != nil:
			return err
		}
	}
	if err := codec.Expand(*raw, *small); err != nil {
		return fmt.Errorf("payload of blocks %s: %w", run, err)
	}
	p.down.Add(int64(n))
	p.t.down.Add(int64(n))
	for from := *raw; pt != nil && !run.Empty(); {
		buf, some := pt.beginRun(run, p)
		_, size := p.t.geo.extent(some)
		run = blob.Run{First: run.First + some.Count, Count: run.Count - some.Count}
		if copy(buf, from); buf != nil && pt.finishRun(some, some.End()) {
			pt.complete()
		}
		from = from[size:]
	}
	return nil
}
