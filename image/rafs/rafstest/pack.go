package rafstest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// pack compresses data, unless that makes it no smaller.
func pack(data []byte, compressor uint32) []byte {
	var out []byte
	switch compressor {
	case LZ4:
		out = make([]byte, lz4.CompressBlockBound(len(data)))
		n, err := lz4.CompressBlock(data, out, nil)
		if err != nil {
			panic(err)
		}
		out = out[:n]
	case Gzip:
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(data)
		w.Close()
		out = b.Bytes()
	case Zstd:
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err)
		}
		out = e.EncodeAll(data, nil)
		e.Close()
	}
	if len(out) == 0 || len(out) >= len(data) {
		return data
	}
	return out
}

// Layer is the layer that holds the bootstrap, and its archive before compression.
func (i Image) Layer() (stored, plain []byte) {
	var archive, packed bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{{Name: "image/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "image/image.boot", Typeflag: tar.TypeReg, Mode: 0o444, Size: int64(len(i.Boot))}} {
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
	}
	w.Write(i.Boot)
	w.Close()
	z := gzip.NewWriter(&packed)
	z.Write(archive.Bytes())
	z.Close()
	return packed.Bytes(), archive.Bytes()
}
