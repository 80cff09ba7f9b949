//go:build !purego

package blob

import "encoding/binary"

// stride is how many bytes of each block one call of compress16 takes. Assembly cannot be preempted, so its calls
// stay short: 16 lanes of 4 KiB are about 20 µs at 3 GB/s, and a garbage collection waits no longer than that.
const stride = 4096

// initial is the initial hash value of SHA-256 (FIPS 180-4, 5.3.3).
var initial = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

// roundConstants are the K of SHA-256 (FIPS 180-4, 4.2.2).
var roundConstants = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// lanesOf holds one 32-bit word of sixteen hash computations: a 512-bit register in memory.
type lanesOf [lanes]uint32

// compress16 takes the next chunks × 64 bytes of sixteen messages into their hash values h (FIPS 180-4,
// 6.2.2), with the round constants k. Message i begins BlockSize·i bytes after p. If p is nil, it takes the padding
// instead that ends a message of BlockSize bytes (5.1.1); chunks is 1 then. It must not be called unless
// wideSupported.
//
//go:noescape
func compress16(h *[8]lanesOf, k *[64]uint32, p *byte, chunks int)

// leaves16 hashes sixteen full blocks.
func leaves16(dst *[lanes]Hash, data *[lanes * BlockSize]byte) {
	var h [8]lanesOf
	for word := range h {
		for lane := range h[word] {
			h[word][lane] = initial[word]
		}
	}
	for at := 0; at < BlockSize; at += stride {
		compress16(&h, &roundConstants, &data[at], stride/64)
	}
	compress16(&h, &roundConstants, nil, 1)
	for lane := range dst {
		for word := range h {
			binary.BigEndian.PutUint32(dst[lane][4*word:], h[word][lane])
		}
	}
}

// cpuid executes CPUID with EAX = leaf and ECX = sub.
func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)

// xgetbv reads the extended control register XCR0. It faults unless CPUID says OSXSAVE.
func xgetbv() (eax, edx uint32)

// wideSupported reports whether processor and kernel support what compress16 uses: AVX512F, and of AVX512VL and
// AVX512BW the 128-bit loads and the byte shuffle. See "Detection of AVX-512 Foundation Instructions", Intel SDM
// volume 1, section 15.2: CPUID for the instructions, XCR0 for the registers that the kernel saves.
func wideSupported() bool {
	const (
		osxsave = 1 << 27                          // CPUID 1, ECX
		avx512  = 1<<16 | 1<<30 | 1<<31            // CPUID (7,0), EBX: F, BW, VL
		saved   = 1<<1 | 1<<2 | 1<<5 | 1<<6 | 1<<7 // XCR0: SSE, AVX, opmask, upper half of ZMM0–15, ZMM16–31
	)
	if highest, _, _, _ := cpuid(0, 0); highest < 7 {
		return false
	}
	if _, _, c, _ := cpuid(1, 0); c&osxsave == 0 {
		return false
	}
	if xcr0, _ := xgetbv(); xcr0&saved != saved {
		return false
	}
	_, b, _, _ := cpuid(7, 0)
	return b&avx512 == avx512
}
