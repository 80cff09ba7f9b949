package blob

// lanes is how many blocks the wide kernel hashes at once: one per 32-bit element of a 512-bit register, and
// as many as a full buffer ([MaxBuffer]) has.
const lanes = 16

// wide says whether leaves16 works here: see wideSupported.
var wide = wideSupported()

// Leaves hashes consecutive blocks: dst[i] becomes the [Leaf] of the i-th BlockSize bytes of data, the last of
// which may be short. dst must have room for all of them ([Leaves] panics otherwise); what is left of it is not
// touched. Data without bytes has no blocks.
//
// Sixteen full blocks in a row cost less than half of what sixteen calls of Leaf cost where the processor has
// AVX-512; anything else costs the same. It allocates nothing.
func Leaves(dst []Hash, data []byte) {
	for wide && len(data) >= lanes*BlockSize {
		leaves16((*[lanes]Hash)(dst), (*[lanes * BlockSize]byte)(data))
		dst, data = dst[lanes:], data[lanes*BlockSize:]
	}
	for len(data) > 0 {
		n := min(BlockSize, len(data))
		dst[0] = Leaf(data[:n])
		dst, data = dst[1:], data[n:]
	}
}
