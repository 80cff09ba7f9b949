package peerwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/pantala/pantala/blob"
)

// TestHostileMessages: streams of the longest frames of every kind, and of frames that claim to be longer, cost less than
// 64 MiB, all that is allocated on the way counted; what they hold is read or refused with a class.
func TestHostileMessages(t *testing.T) {
	frame := func(n int, id byte, fill []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(n))
		b = append(b, id)
		for len(b) < 4+min(n, MaxFrame+1) {
			b = append(b, fill...)
		}
		return b[:4+min(n, MaxFrame+1)]
	}
	parse := func(m Message) (err error) {
		if m.ID != Extended {
			return nil
		}
		// What it is depends on the extended handshake of who reads: it may be any of them.
		for _, f := range []func([]byte) error{
			func(b []byte) error { _, err := ParseExtendedHandshake(b); return err },
			func(b []byte) error { _, err := ParsePEX(b); return err },
			func(b []byte) error { _, err := ParseMetadata(b); return err },
		} {
			err = errors.Join(err, f(m.Data))
		}
		return err
	}
	var before, after runtime.MemStats
	for _, id := range []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 255} {
		for _, fill := range []string{"\x00", "\xff", "l", "d1:ad", "\x00d5:added6:abcdef", "i1e", "\x01d1:md1:ai1e"} {
			for _, n := range []int{1 << 10, hashRangeLen + 1 + 32*(MaxHashes+maxProof), MaxFrame, 1<<32 - 1} {
				one := frame(n, id, []byte(fill))
				r := NewReader(io.MultiReader(bytes.NewReader(one), bytes.NewReader(one)), MaxFrame)
				runtime.ReadMemStats(&before)
				for {
					m, err := r.Next()
					if err == nil {
						err = parse(m)
						if err != nil && !errors.Is(err, blob.ErrInvalid) {
							t.Fatalf("frame %d of %d bytes of %q: class of %.200v", id, n, fill, err)
						}
						continue
					}
					if err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, blob.ErrInvalid) || len(err.Error()) > 1000 {
						t.Fatalf("frame %d of %d bytes of %q: %.200v", id, n, fill, err)
					}
					break
				}
				runtime.ReadMemStats(&after)
				if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
					t.Fatalf("frame %d of %d bytes of %q: %d MiB allocated", id, n, fill, got>>20)
				}
			}
		}
	}
}
