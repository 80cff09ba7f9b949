package inflate

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestPack: a window that is packed whole is unpacked as it was, however long it is.
func TestPack(t *testing.T) {
	noise := make([]byte, winSize+100)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	for _, n := range []int{0, 1, 63, 64, 1000, winSize - 1, winSize, winSize + 100} {
		for _, raw := range [][]byte{noise[:n], make([]byte, n)} {
			var w window
			var scratch []byte
			if _, err := w.unpack(Pack(raw), new(block), &scratch); err != nil {
				t.Fatal(err)
			}
			k := min(n, winSize)
			if !bytes.Equal(w.bytes[winSize-k:], raw[n-k:]) || k > 0 && !w.have.all(winSize-k, winSize) || k < winSize && w.have.next(0, true) != winSize-k && k > 0 {
				t.Errorf("a window of %d bytes", n)
			}
		}
	}
}
