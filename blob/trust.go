package blob

// Trust says who vouches for a hash, a piece root or an index; higher is better. Why, and what
// follows for a read: docs/decisions/0002-who-vouches-for-a-url.md.
type Trust uint8

const (
	// Unknown: nobody we know vouches for it. Never served, never used.
	Unknown Trust = iota
	// Claimed: the node that held the origin lease for the piece told the tracker this node was configured
	// with. Believed inside a cluster, refused with --strict.
	Claimed
	// Direct: this node read the bytes itself over its own connection to the origin.
	Direct
	// Pinned: named by digest in something already trusted (a v2 infohash, an image annotation).
	Pinned
	// Signed: signed by a key that this cluster configured.
	Signed
	// Built: this node saw all bytes, the full digest matched, and it computed the hash itself.
	Built
)

// String is the word used in status and logs.
func (t Trust) String() string {
	return [...]string{"unknown", "claimed", "direct", "pinned", "signed", "built"}[min(t, Built)]
}
