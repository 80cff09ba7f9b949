//go:build !purego

#include "textflag.h"

// SHA-256 of sixteen messages at once: FIPS 180-4, 6.2.2, on 512-bit registers whose element i belongs to message
// i. The messages do not depend on each other, so nothing is ever moved between elements after loading, and what
// bounds the speed is the number of operations. VPRORD and VPTERNLOGD, any function of three bits by its truth
// table, keep that low: 17 operations a round, 11 for a word of the message schedule. With two vector operations
// a cycle that is (64·17 + 48·11)/2 = 808 cycles for 16·64 bytes, beside about 150 for loading and transposing.
//
// Registers:
//	Z0–Z7    the working variables a–h; which is which turns by one with each round
//	Z8–Z23   the last sixteen words of the message schedule, W(t) in Z(8 + t mod 16)
//	Z24–Z31  temporary
//	DI       h, the hash values: eight words of sixteen elements each, 64 bytes a word
//	SI       the next 64 bytes of message 0; message i lies i·LANE bytes further
//	CX       chunks of 64 bytes that are left
//	AX       K of the next sixteen rounds
//	DX       turns of sixteen rounds that are left

// LANE is the distance of two messages: blob.BlockSize.
#define LANE 16384

// Truth tables of VPTERNLOGD, whose bit 4x+2y+z is the result for bits x of the destination (the last operand of Go's
// assembler), y of the operand before it, and z of the first: FIPS 180-4, 4.1.2.
#define XOR $0x96 // x ^ y ^ z
#define CH  $0xca // x ? y : z
#define MAJ $0xe8 // at least two of x, y, z

// ROUND is step 3 of 6.2.2 for one t. w is W(t), and K(t) lies k bytes after AX:
//	T1 = h + Σ1(e) + Ch(e,f,g) + K(t) + W(t)
//	T2 = Σ0(a) + Maj(a,b,c)
//	d += T1, and h, which is the a of the next round, becomes T1 + T2
#define ROUND(a, b, c, d, e, f, g, h, w, k) \
	VPADDD.BCST k(AX), w, Z24     \
	VPRORD      $6, e, Z25        \
	VPRORD      $11, e, Z26       \
	VPRORD      $25, e, Z27       \
	VMOVDQA32   e, Z28            \
	VPTERNLOGD  CH, g, f, Z28     \
	VPADDD      Z24, h, h         \
	VPTERNLOGD  XOR, Z27, Z26, Z25 \
	VPADDD      Z28, h, h         \
	VPRORD      $2, a, Z29        \
	VPRORD      $13, a, Z30       \
	VPRORD      $22, a, Z31       \
	VMOVDQA32   a, Z26            \
	VPADDD      Z25, h, h         \
	VPTERNLOGD  XOR, Z31, Z30, Z29 \
	VPTERNLOGD  MAJ, c, b, Z26    \
	VPADDD      h, d, d           \
	VPADDD      Z29, Z26, Z26     \
	VPADDD      Z26, h, h

// SCHEDULE is step 1 of 6.2.2: it makes W(t+16) out of W(t), in its place:
//	W(t+16) = σ1(W(t+14)) + W(t+9) + σ0(W(t+1)) + W(t)
#define SCHEDULE(w, w1, w9, w14) \
	VPRORD     $7, w1, Z24         \
	VPRORD     $18, w1, Z25        \
	VPSRLD     $3, w1, Z26         \
	VPADDD     w9, w, w            \
	VPRORD     $17, w14, Z27       \
	VPRORD     $19, w14, Z28       \
	VPSRLD     $10, w14, Z29       \
	VPTERNLOGD XOR, Z26, Z25, Z24  \
	VPTERNLOGD XOR, Z29, Z28, Z27  \
	VPADDD     Z24, w, w           \
	VPADDD     Z27, w, w

// ROW makes quarter i of to from 16 bytes each of messages i, i+4, i+8 and i+12.
#define ROW(i, off, x, to) \
	VMOVDQU32    off+(i+0)*LANE(SI), x          \
	VINSERTI32X4 $1, off+(i+4)*LANE(SI), to, to  \
	VINSERTI32X4 $2, off+(i+8)*LANE(SI), to, to  \
	VINSERTI32X4 $3, off+(i+12)*LANE(SI), to, to

// LOAD takes the four words of each message at off and transposes them: w0 to w3 get one word of all messages each.
// Loads and inserts leave 4×4 words in each 128-bit quarter, which the unpacking instructions transpose in place, so
// that element 4q+i is message i+4q: the messages stay in order.
#define LOAD(off, w0, w1, w2, w3) \
	ROW(0, off, X24, Z24)      \
	ROW(1, off, X25, Z25)      \
	ROW(2, off, X26, Z26)      \
	ROW(3, off, X27, Z27)      \
	VPUNPCKLDQ  Z25, Z24, Z28  \
	VPUNPCKHDQ  Z25, Z24, Z29  \
	VPUNPCKLDQ  Z27, Z26, Z30  \
	VPUNPCKHDQ  Z27, Z26, Z31  \
	VPUNPCKLQDQ Z30, Z28, w0   \
	VPUNPCKHQDQ Z30, Z28, w1   \
	VPUNPCKLQDQ Z31, Z29, w2   \
	VPUNPCKHQDQ Z31, Z29, w3

// SWAP turns the bytes of words around, which are big-endian in the message (3.1); Z24 is swap.
#define SWAP(w0, w1, w2, w3) \
	VPSHUFB Z24, w0, w0 \
	VPSHUFB Z24, w1, w1 \
	VPSHUFB Z24, w2, w2 \
	VPSHUFB Z24, w3, w3

// FEED is step 4 of 6.2.2: it adds a working variable to its word of the hash values, and keeps the sum in both.
#define FEED(word, z) \
	VPADDD    word*64(DI), z, z \
	VMOVDQU32 z, word*64(DI)

// swap is the operand of VPSHUFB that reverses the four bytes of each word of a 128-bit quarter.
DATA swap<>+0(SB)/8, $0x0405060700010203
DATA swap<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16

// func compress16(h *[8]lanesOf, k *[64]uint32, p *byte, chunks int)
TEXT ·compress16(SB), NOSPLIT, $0-32
	MOVQ h+0(FP), DI
	MOVQ p+16(FP), SI
	MOVQ chunks+24(FP), CX
	VMOVDQU32 0*64(DI), Z0
	VMOVDQU32 1*64(DI), Z1
	VMOVDQU32 2*64(DI), Z2
	VMOVDQU32 3*64(DI), Z3
	VMOVDQU32 4*64(DI), Z4
	VMOVDQU32 5*64(DI), Z5
	VMOVDQU32 6*64(DI), Z6
	VMOVDQU32 7*64(DI), Z7
	TESTQ SI, SI
	JZ    padding

chunk:
	LOAD(0, Z8, Z9, Z10, Z11)
	LOAD(16, Z12, Z13, Z14, Z15)
	LOAD(32, Z16, Z17, Z18, Z19)
	LOAD(48, Z20, Z21, Z22, Z23)
	VBROADCASTI32X4 swap<>(SB), Z24
	SWAP(Z8, Z9, Z10, Z11)
	SWAP(Z12, Z13, Z14, Z15)
	SWAP(Z16, Z17, Z18, Z19)
	SWAP(Z20, Z21, Z22, Z23)

compress:
	MOVQ k+8(FP), AX
	MOVQ $3, DX

sixteen: // rounds 0–15, 16–31, 32–47, and the words for the sixteen rounds after them
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, 0)
	SCHEDULE(Z8, Z9, Z17, Z22)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z9, 4)
	SCHEDULE(Z9, Z10, Z18, Z23)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z10, 8)
	SCHEDULE(Z10, Z11, Z19, Z8)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z11, 12)
	SCHEDULE(Z11, Z12, Z20, Z9)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z12, 16)
	SCHEDULE(Z12, Z13, Z21, Z10)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z13, 20)
	SCHEDULE(Z13, Z14, Z22, Z11)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z14, 24)
	SCHEDULE(Z14, Z15, Z23, Z12)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z15, 28)
	SCHEDULE(Z15, Z16, Z8, Z13)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 32)
	SCHEDULE(Z16, Z17, Z9, Z14)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 36)
	SCHEDULE(Z17, Z18, Z10, Z15)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 40)
	SCHEDULE(Z18, Z19, Z11, Z16)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 44)
	SCHEDULE(Z19, Z20, Z12, Z17)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 48)
	SCHEDULE(Z20, Z21, Z13, Z18)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 52)
	SCHEDULE(Z21, Z22, Z14, Z19)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 56)
	SCHEDULE(Z22, Z23, Z15, Z20)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 60)
	SCHEDULE(Z23, Z8, Z16, Z21)
	ADDQ $64, AX
	DECQ DX
	JNZ  sixteen

	// Rounds 48–63.
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, 0)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z9, 4)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z10, 8)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z11, 12)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z12, 16)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z13, 20)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z14, 24)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z15, 28)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 32)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 36)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 40)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 44)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 48)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 52)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 56)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 60)

	FEED(0, Z0)
	FEED(1, Z1)
	FEED(2, Z2)
	FEED(3, Z3)
	FEED(4, Z4)
	FEED(5, Z5)
	FEED(6, Z6)
	FEED(7, Z7)
	ADDQ $64, SI
	DECQ CX
	JNZ  chunk

	VZEROUPPER
	RET

padding: // 0x80, zeros, and the length in bits as 64-bit integer (5.1.1): the same for all
	MOVL         $0x80000000, AX
	VPBROADCASTD AX, Z8
	VPXORD       Z9, Z9, Z9
	VMOVDQA32    Z9, Z10
	VMOVDQA32    Z9, Z11
	VMOVDQA32    Z9, Z12
	VMOVDQA32    Z9, Z13
	VMOVDQA32    Z9, Z14
	VMOVDQA32    Z9, Z15
	VMOVDQA32    Z9, Z16
	VMOVDQA32    Z9, Z17
	VMOVDQA32    Z9, Z18
	VMOVDQA32    Z9, Z19
	VMOVDQA32    Z9, Z20
	VMOVDQA32    Z9, Z21
	VMOVDQA32    Z9, Z22
	MOVL         $(LANE*8), AX
	VPBROADCASTD AX, Z23
	JMP          compress
