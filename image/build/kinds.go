package build

import (
	"fmt"
	"io"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/image/index"
)

var (
	plainTar  = kind{"tar", index.Stored, plain, codec.Spacing{Stored: 128 << 10, Decoded: 128 << 10}, 0}
	gzipped   = kind{"gzip", index.Deflate, unread, codec.Spacing{}, 0}
	zstandard = kind{"zstd", index.Zstd, unread, codec.Spacing{}, 0}
)

func unread(io.Reader, codec.Spacing, func([]byte) error, func(codec.Point) error) error {
	return fmt.Errorf("%w layer: it is compressed in a way that is not read yet", blob.ErrInvalid)
}
