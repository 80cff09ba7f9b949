package swarm

import (
	"fmt"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// writeTimeout is how long a peer may leave what we send unread. It is looked at once per writeRenew, so
// that a stream of blocks costs no timer each.
const (
	writeTimeout = 60 * time.Second
	writeRenew   = 5 * time.Second
)

// write is the writer goroutine of a peer.
func (p *peer) write() {
	defer p.t.wg.Done()
	y := p.t.node.yield
	y.join(p)
	defer y.leave(p)
	if err := p.writeAll(); err != nil {
		p.close("%v", err)
	}
}

func (p *peer) writeAll() error {
	var renewed time.Time
	for {
		turns, err := p.turns()
		if err != nil {
			return err
		}
		control, j, err := p.out.next(p.part())
		if err != nil {
			return err
		}
		if j.kind != noJob && j.class <= blob.Read {
			p.t.node.yield.sentUrgent()
		}
		if len(turns) > 0 {
			renewed = time.Time{} // it may have taken long
		}
		if j.kind == noJob {
			p.settle(turns, j)
		}
		if len(control) == 0 && j.kind == noJob {
			p.flow.idle()
			select {
			case <-p.out.wake:
				continue
			case <-p.ctx.Done():
				return nil
			}
		}
		if t := now(); t.Sub(renewed) > writeRenew {
			renewed = t
			p.conn.SetWriteDeadline(t.Add(writeTimeout))
			p.spoke.Store(t.UnixNano())
		}
		switch j.kind {
		case noJob:
			if err = p.wr.Send(control); err != nil {
				err = fmt.Errorf("send: %w", err)
			}
		case blockJob:
			err = p.upload(control, j.request)
		case runJob:
			err = p.answerRun(control, j)
		}
		if err != nil {
			return err
		}
		if j.kind != noJob {
			p.settle(turns, j)
		}
	}
}

// zeros are what a gap holds.
var zeros [blockSize]byte

// upload sends small messages and one block.
func (p *peer) upload(control []byte, r request) error {
	head := peerwire.AppendPieceHeader(control, r.piece, r.begin, r.length)
	off := int64(r.piece)*p.t.geo.PieceLength + int64(r.begin)
	n := int(max(0, min(int64(r.length), p.t.geo.pieceLen(r.piece)-int64(r.begin))))
	var err error
	if n > 0 {
		err = p.wr.Piece(head, p.t.cfg.Store, off, n)
	} else {
		err = p.wr.Send(head)
	}
	if err == nil && n < int(r.length) {
		err = p.wr.Send(zeros[n:r.length])
	}
	if err != nil {
		return fmt.Errorf("upload of %d bytes at %d: %w", n, off, err)
	}
	p.sentBytes(n, n)
	return nil
}

// sentBytes counts n bytes of payload that went out, and that took wire bytes.
func (p *peer) sentBytes(n, wire int) {
	p.up.Add(int64(n))
	p.t.up.Add(int64(n))
	p.flow.sent(wire)
	if f := p.t.node.opts.OnBytes; f != nil {
		f(p.addr, 0, n)
	}
}
