package swarm

import (
	"runtime"
	"sync"
)

// verifier calls Sink.Done for large runs nobody is blocked on, so that a reader goes on receiving while the
// run before is hashed and written. Small and urgent runs are verified by the reader itself: handing them
// over would cost more than hashing them (16 KiB: 9 µs).
type verifier struct {
	queue chan *part
	wg    sync.WaitGroup
}

// newVerifier starts as many workers as can hash at once.
func newVerifier() *verifier {
	// The queue holds what four peers may have in flight (4 × 512 blocks / 16); when it is full, readers
	// wait, and TCP makes the senders wait.
	v := &verifier{queue: make(chan *part, 128)}
	for range max(2, runtime.GOMAXPROCS(0)) {
		v.wg.Go(func() {
			for pt := range v.queue {
				pt.verify()
			}
		})
	}
	return v
}

// close is called after every reader has ended.
func (v *verifier) close() {
	close(v.queue)
	v.wg.Wait()
}
