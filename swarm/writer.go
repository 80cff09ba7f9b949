package swarm

import (
	"fmt"
	"time"

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
	if err := p.writeAll(); err != nil {
		p.close("%v", err)
	}
}

func (p *peer) writeAll() error {
	var renewed time.Time
	for {
		control, r, block, err := p.out.next()
		if err != nil {
			return err
		}
		if len(control) == 0 && !block {
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
		if !block {
			if err := p.wr.Send(control); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			continue
		}
		if err := p.upload(control, r); err != nil {
			return err
		}
	}
}

// zeros are what a gap holds.
var zeros [blockSize]byte

// upload sends small messages and one block.
func (p *peer) upload(control []byte, r request) error {
	n := int(r.length)
	if l := p.t.node.limiter; l != nil {
		// What is ready must not wait for bandwidth.
		if err := p.wr.Send(control); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		control = control[:0]
		if err := l.WaitN(p.ctx, n); err != nil {
			return fmt.Errorf("upload limit: %w", err)
		}
		p.conn.SetWriteDeadline(now().Add(writeTimeout))
	}
	head := peerwire.AppendPieceHeader(control, r.piece, r.begin, r.length)
	off := int64(r.piece)*p.t.geo.PieceLength + int64(r.begin)
	n = int(max(0, min(int64(n), p.t.geo.pieceLen(r.piece)-int64(r.begin))))
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
	p.up.Add(int64(n))
	p.t.up.Add(int64(n))
	if f := p.t.node.opts.OnBytes; f != nil {
		f(p.addr, 0, n)
	}
	return nil
}
