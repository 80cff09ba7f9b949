package codec

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/pantala/pantala/blob"
)

// Max is the longest input, in bytes: one transfer buffer.
const Max = blob.MaxBuffer * blob.BlockSize

// encoder and decoder are made when they are first needed: most nodes are on fast links and never do. The window is
// as long as the longest input, and the concurrency that of the machine, so each holds a few MiB.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(Max),
			zstd.WithEncoderConcurrency(min(2, runtime.GOMAXPROCS(0))), zstd.WithEncoderCRC(false))
		if err != nil {
			panic("BUG: options of the encoder: " + err.Error())
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(min(4, runtime.GOMAXPROCS(0))),
			zstd.WithDecoderMaxMemory(4*Max), zstd.WithDecoderMaxWindow(2*Max), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("BUG: options of the decoder: " + err.Error())
		}
		return d
	})
)

// Shrink appends src, compressed as one frame of Zstandard (RFC 8878), to dst.
func Shrink(dst, src []byte) []byte { return encoder().EncodeAll(src, dst) }

// Expand fills dst with what the frame src holds. Anything but exactly len(dst) bytes is blob.ErrInvalid, and what
// would be longer is not expanded.
func Expand(dst, src []byte) error {
	got, err := decoder().DecodeAll(src, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("%w: zstd frame of %d bytes: %v", blob.ErrInvalid, len(src), err)
	}
	if len(got) != len(dst) || len(got) > 0 && &got[0] != &dst[0] {
		return fmt.Errorf("%w: zstd frame of %d bytes holds %d, not %d", blob.ErrInvalid, len(src), len(got), len(dst))
	}
	return nil
}
