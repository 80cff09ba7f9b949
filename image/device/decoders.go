package device

import (
	"github.com/pantala/pantala/codec"
	"github.com/pantala/pantala/codec/inflate"
	"github.com/pantala/pantala/codec/lz4block"
	"github.com/pantala/pantala/codec/zstdspan"
	"github.com/pantala/pantala/image/index"
)

// decoders are the codecs of spans, by index.Codec.
var decoders = [4]codec.Span{
	index.Stored:  nil, // nothing to decode
	index.Deflate: inflate.Span,
	index.Zstd:    zstdspan.Span,
	index.LZ4:     lz4block.Span,
}
