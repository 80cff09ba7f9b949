package blob

import (
	"crypto/sha256"
	"fmt"
)

// CanonicalInfo is the BEP 52 info dictionary that every node derives for bytes with this digest, size and
// root, so that all of them meet in one swarm. The file is called "sha256:<hex>"; the piece length is
// [PieceLengthFor]. It must never change.
func CanonicalInfo(digest Hash, size int64, root Hash) []byte {
	hex := digest.String()
	name := "sha256:" + hex
	leaf := fmt.Sprintf("d6:lengthi%de", size)
	if size > 0 {
		leaf += "11:pieces root32:" + string(root[:])
	}
	return fmt.Appendf(nil, "d9:file treed%d:%sd0:%seee12:meta versioni2e4:name%d:%s12:piece lengthi%dee",
		len(name), name, leaf, len(name), name, PieceLengthFor(size))
}

// InfoHash is the v2 infohash of an info dictionary: SHA-256 of its bencoding.
func InfoHash(info []byte) Hash { return sha256.Sum256(info) }
