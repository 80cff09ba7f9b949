package node

import (
	"context"
	"crypto/sha256"

	"github.com/pantala/pantala/blob"
)

// pieces is what hashBlob needs of a store; *blockio.Blob implements it.
type pieces interface {
	Geometry() blob.Geometry
	PieceComplete(uint32) bool
	OnPiece(func(uint32)) (cancel func())
	ReadAt(p []byte, off int64) error
}

// hashBlob computes the SHA-256 of a blob that is still being completed: it follows behind, piece after
// piece, and so has little left to do when the last one comes. It asks for nothing to be fetched.
func hashBlob(ctx context.Context, b pieces) (digest blob.Hash, err error) {
	g := b.Geometry()
	more := make(chan struct{}, 1)
	defer b.OnPiece(func(uint32) {
		select {
		case more <- struct{}{}:
		default:
		}
	})()
	h, buf := sha256.New(), make([]byte, min(g.PieceLength, max(g.Size, 1), hashChunk))
	for p := range g.Pieces() {
		for !b.PieceComplete(p) {
			select {
			case <-more:
			case <-ctx.Done():
				return digest, context.Cause(ctx)
			}
		}
		off, n := g.Bytes(g.PieceBlocks(p))
		for n > 0 {
			part := buf[:min(n, int64(len(buf)))]
			if err := b.ReadAt(part, off); err != nil {
				return digest, err
			}
			h.Write(part)
			off, n = off+int64(len(part)), n-int64(len(part))
		}
		if ctx.Err() != nil {
			return digest, context.Cause(ctx)
		}
	}
	h.Sum(digest[:0])
	return digest, nil
}
