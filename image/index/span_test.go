package index

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"lukechampine.com/blake3"

	"github.com/pantala/pantala/blob"
)

// TestChunks: spans of tables of contents that others made keep what is special about them.
func TestChunks(t *testing.T) {
	spans := []Span{
		{Device: 0, Length: 1024, Stored: 5, StoredLength: 90, Pad: 24, Codec: Deflate, Kind: Chunk, Digest: blob.Hash{1}},
		{Device: 1024, Length: 512, Stored: 5, StoredLength: 90, Skip: 3000, Codec: Deflate, Kind: StoredChunk, Digest: blob.Hash{2}},
		{Device: 1536, Length: 1000, Pad: 1000, Kind: Chunk, Digest: sha256.Sum256(nil)},
	}
	var b bytes.Buffer
	if _, err := Encode(&b, Facts{Format: "estargz", Stored: 1000, Size: 2536}, new(Entries), spans, nil); err != nil {
		t.Fatal(err)
	}
	x, err := Open(context.Background(), memory(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range x.Spans {
		if s != spans[i] {
			t.Errorf("span %d: %+v, not %+v", i, s, spans[i])
		}
	}
	if !x.Spans[2].Verify(nil, nil) || x.Spans[2].Decoded() != 0 {
		t.Error("a span of padding alone does not verify")
	}
	for name, bad := range map[string]Span{
		"all pad, but stored":    {Length: 1000, Pad: 1000, StoredLength: 10},
		"more pad than length":   {Length: 1000, Pad: 1001, Codec: Zstd, StoredLength: 5},
		"much padding":           {Length: 5000, Pad: 2048, Codec: Zstd, StoredLength: 5},
		"kind":                   {Length: 1000, Kind: 4, Codec: Zstd, StoredLength: 5},
		"what is stored, behind": {Length: 1000, Skip: 1, StoredLength: 1000},
	} {
		if _, err := Encode(&b, Facts{Stored: 1000, Size: bad.Length}, new(Entries), []Span{bad}, nil); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerify(t *testing.T) {
	stored, decoded := []byte("stored"), []byte("decoded")
	for _, s := range []Span{
		{Kind: Merkle, Digest: Root(decoded)},
		{Kind: Chunk, Digest: sha256.Sum256(decoded)},
		{Kind: StoredChunk, Digest: sha256.Sum256(stored)},
		{Kind: Blake3, Digest: blake3.Sum256(decoded)},
	} {
		if !s.Verify(stored, decoded) {
			t.Errorf("kind %d does not verify", s.Kind)
		}
		if s.Verify([]byte("Stored"), []byte("Decoded")) {
			t.Errorf("kind %d verifies what it is not of", s.Kind)
		}
	}
	s := Span{Kind: 9}
	if s.Verify(stored, decoded) {
		t.Error("a kind that is not known verifies")
	}
}
