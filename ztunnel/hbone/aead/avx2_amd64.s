// SPDX-License-Identifier: Apache-2.0

//go:build !purego

#include "go_asm.h"
#include "textflag.h"
#include "gcm_amd64.h"

// AES-GCM with 256-bit registers, each two blocks wide. AVX2 has no masks for
// bytes, so what does not fill a vector comes and goes through edge, and the
// caller copies.
//
//	AX   k                          CX   bytes of src left
//	DI   dst                        SI   src
//	R8   additional data            R9   bytes of it left
//	R10  powers for the tail        R11  tag
//	R12  rounds                     R13  edge
//	BX, DX scratch
//
//	Y0–Y3    counter blocks, then keystream, then output
//	Y4–Y7    ciphertext, byte-reversed: what GHASH takes in
//	Y8 Y9 Y10  low, middle and high sum of products, not yet reduced
//	Y11      scratch
//	Y12      GHASH so far, in lane 0; scratch while it is in the sums
//	Y13      byte reversal        Y14  next two counter blocks, reversed
//	Y15      the round key in use

DATA reverse256<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse256<>+8(SB)/8, $0x0001020304050607
GLOBL reverse256<>(SB), RODATA|NOPTR, $16

DATA counts256<>+0(SB)/8, $1
DATA counts256<>+8(SB)/8, $0
DATA counts256<>+16(SB)/8, $2
DATA counts256<>+24(SB)/8, $0
GLOBL counts256<>(SB), RODATA|NOPTR, $32

DATA two<>+0(SB)/8, $2
DATA two<>+8(SB)/8, $0
DATA two<>+16(SB)/8, $2
DATA two<>+24(SB)/8, $0
GLOBL two<>(SB), RODATA|NOPTR, $32

DATA fold256<>+0(SB)/8, FOLD
DATA fold256<>+8(SB)/8, FOLD
DATA fold256<>+16(SB)/8, FOLD
DATA fold256<>+24(SB)/8, FOLD
GLOBL fold256<>(SB), RODATA|NOPTR, $32

// 32 bytes to keep, then 32 to drop.
DATA keep<>+0(SB)/8, $-1
DATA keep<>+8(SB)/8, $-1
DATA keep<>+16(SB)/8, $-1
DATA keep<>+24(SB)/8, $-1
DATA keep<>+32(SB)/8, $0
DATA keep<>+40(SB)/8, $0
DATA keep<>+48(SB)/8, $0
DATA keep<>+56(SB)/8, $0
GLOBL keep<>(SB), RODATA|NOPTR, $64

// LOAD takes the arguments and the constants. Counter blocks are kept reversed,
// so that inc32 (SP 800-38D §6.2) is VPADDD: the carry stays in the low 32 bits.
#define LOAD \
	MOVQ           k+0(FP), AX               \
	MOVQ           dst+8(FP), DI             \
	MOVQ           src+16(FP), SI            \
	MOVQ           n+24(FP), CX              \
	MOVQ           j0+32(FP), BX             \
	MOVQ           ad+40(FP), R8             \
	MOVQ           adLen+48(FP), R9          \
	MOVQ           tag+56(FP), R11           \
	MOVQ           edge+64(FP), R13          \
	MOVQ           keys_rounds(AX), R12      \
	VBROADCASTI128 reverse256<>(SB), Y13     \
	VBROADCASTI128 (BX), Y0                  \
	VPSHUFB        Y13, Y0, Y14              \
	VPADDD         counts256<>(SB), Y14, Y14

// ROUND1 is one round of Y0, AES1 all up to round 9, AES1_256 the four more of
// AES-256, LAST1 the last, whose key stands at 16 times the rounds.
#define ROUND1(i) \
	VBROADCASTI128 (keys_schedule+16*i)(AX), Y15 \
	VAESENC        Y15, Y0, Y0

#define AES1 \
	VBROADCASTI128 keys_schedule(AX), Y15 \
	VPXOR          Y15, Y0, Y0            \
	ROUND1(1) \
	ROUND1(2) \
	ROUND1(3) \
	ROUND1(4) \
	ROUND1(5) \
	ROUND1(6) \
	ROUND1(7) \
	ROUND1(8) \
	ROUND1(9)

#define AES1_256 \
	ROUND1(10) \
	ROUND1(11) \
	ROUND1(12) \
	ROUND1(13)

#define LAST_KEY \
	MOVQ           R12, BX                    \
	SHLQ           $4, BX                     \
	VBROADCASTI128 keys_schedule(AX)(BX*1), Y15

#define LAST1 \
	LAST_KEY                 \
	VAESENCLAST Y15, Y0, Y0

// The same for Y0–Y3, 8 blocks, one round at a time.
#define COUNTERS4 \
	VBROADCASTI128 keys_schedule(AX), Y15 \
	VPSHUFB        Y13, Y14, Y0           \
	VPADDD         two<>(SB), Y14, Y14    \
	VPSHUFB        Y13, Y14, Y1           \
	VPADDD         two<>(SB), Y14, Y14    \
	VPSHUFB        Y13, Y14, Y2           \
	VPADDD         two<>(SB), Y14, Y14    \
	VPSHUFB        Y13, Y14, Y3           \
	VPADDD         two<>(SB), Y14, Y14    \
	VPXOR          Y15, Y0, Y0            \
	VPXOR          Y15, Y1, Y1            \
	VPXOR          Y15, Y2, Y2            \
	VPXOR          Y15, Y3, Y3

#define ROUND4(i) \
	VBROADCASTI128 (keys_schedule+16*i)(AX), Y15 \
	VAESENC        Y15, Y0, Y0 \
	VAESENC        Y15, Y1, Y1 \
	VAESENC        Y15, Y2, Y2 \
	VAESENC        Y15, Y3, Y3

#define ROUNDS4_256 \
	ROUND4(10) \
	ROUND4(11) \
	ROUND4(12) \
	ROUND4(13)

#define LAST4 \
	LAST_KEY                 \
	VAESENCLAST Y15, Y0, Y0  \
	VAESENCLAST Y15, Y1, Y1  \
	VAESENCLAST Y15, Y2, Y2  \
	VAESENCLAST Y15, Y3, Y3

// CRYPT4 is the XOR of GCTR (§6.5) over 128 bytes and steps past them.
#define CRYPT4 \
	VPXOR   0(SI), Y0, Y0  \
	VPXOR   32(SI), Y1, Y1 \
	VPXOR   64(SI), Y2, Y2 \
	VPXOR   96(SI), Y3, Y3 \
	VMOVDQU Y0, 0(DI)      \
	VMOVDQU Y1, 32(DI)     \
	VMOVDQU Y2, 64(DI)     \
	VMOVDQU Y3, 96(DI)     \
	ADDQ    $128, SI       \
	ADDQ    $128, DI       \
	SUBQ    $128, CX

// MUL starts the sums with block(s) z times powers p, ADD_MUL adds to them:
// low = z0·p0, middle = z0·p1 + z1·p0, high = z1·p1, in 64-bit halves.
#define MUL(p, z) \
	VPCLMULQDQ $0x00, p, z, Y8  \
	VPCLMULQDQ $0x01, p, z, Y9  \
	VPCLMULQDQ $0x10, p, z, Y11 \
	VPXOR      Y11, Y9, Y9      \
	VPCLMULQDQ $0x11, p, z, Y10

#define ADD_MUL(p, z) \
	ADD_MUL_ENDS(p, z)   \
	ADD_MUL_MIDDLE(p, z)

#define ADD_MUL_ENDS(p, z) \
	VPCLMULQDQ $0x00, p, z, Y11 \
	VPXOR      Y11, Y8, Y8      \
	VPCLMULQDQ $0x11, p, z, Y12 \
	VPXOR      Y12, Y10, Y10

#define ADD_MUL_MIDDLE(p, z) \
	VPCLMULQDQ $0x01, p, z, Y11 \
	VPXOR      Y11, Y9, Y9      \
	VPCLMULQDQ $0x10, p, z, Y12 \
	VPXOR      Y12, Y9, Y9

// REDUCE folds low into middle and middle into high, 64 bits each time; SUM adds
// up the two lanes of high into X12.
#define REDUCE_LOW \
	VMOVDQU    fold256<>(SB), Y12  \
	VPCLMULQDQ $0x00, Y8, Y12, Y11 \
	VPSHUFD    $0x4e, Y8, Y8       \
	VPXOR      Y8, Y9, Y9          \
	VPXOR      Y11, Y9, Y9

#define REDUCE_MIDDLE \
	VPCLMULQDQ $0x00, Y9, Y12, Y11 \
	VPSHUFD    $0x4e, Y9, Y9       \
	VPXOR      Y9, Y10, Y10        \
	VPXOR      Y11, Y10, Y10

#define SUM \
	VEXTRACTI128 $1, Y10, X11  \
	VPXOR        X11, X10, X12

#define REDUCE \
	REDUCE_LOW    \
	REDUCE_MIDDLE \
	SUM

// REVERSE4 hands output Y0–Y3 to GHASH, REVERSE4_SRC the next 128 bytes of src.
#define REVERSE4 \
	VPSHUFB Y13, Y0, Y4 \
	VPSHUFB Y13, Y1, Y5 \
	VPSHUFB Y13, Y2, Y6 \
	VPSHUFB Y13, Y3, Y7

#define REVERSE4_SRC \
	VMOVDQU 0(SI), Y4   \
	VMOVDQU 32(SI), Y5  \
	VMOVDQU 64(SI), Y6  \
	VMOVDQU 96(SI), Y7  \
	VPSHUFB Y13, Y4, Y4 \
	VPSHUFB Y13, Y5, Y5 \
	VPSHUFB Y13, Y6, Y6 \
	VPSHUFB Y13, Y7, Y7

// H^8 … H^1, for 8 blocks.
#define P0 (H1-7*16)(AX)
#define P1 (H1-5*16)(AX)
#define P2 (H1-3*16)(AX)
#define P3 (H1-1*16)(AX)

// BOTH ciphers the next 8 counter blocks up to round 9 while it multiplies
// Y4–Y7; only X12 goes from one turn to the next.
#define BOTH \
	COUNTERS4               \
	VPXOR  Y12, Y4, Y4      \
	MUL(P0, Y4)             \
	ROUND4(1)               \
	ADD_MUL_ENDS(P1, Y5)    \
	ROUND4(2)               \
	ADD_MUL_MIDDLE(P1, Y5)  \
	ROUND4(3)               \
	ADD_MUL_ENDS(P2, Y6)    \
	ROUND4(4)               \
	ADD_MUL_MIDDLE(P2, Y6)  \
	ROUND4(5)               \
	ADD_MUL_ENDS(P3, Y7)    \
	ROUND4(6)               \
	ADD_MUL_MIDDLE(P3, Y7)  \
	ROUND4(7)               \
	REDUCE_LOW              \
	ROUND4(8)               \
	REDUCE_MIDDLE           \
	ROUND4(9)               \
	SUM

// TAIL_POWERS points R10 at the power of the first of the blocks of n bytes when
// one more block follows. A lane behind H^1 meets zeros only.
#define TAIL_POWERS(n) \
	LEAQ 15(n), BX   \
	ANDQ $~15, BX    \
	LEAQ H1(AX), R10 \
	SUBQ BX, R10

// ZERO_SUMS starts the sums of a tail.
#define ZERO_SUMS \
	VPXOR X8, X8, X8    \
	VPXOR X9, X9, X9    \
	VPXOR X10, X10, X10

// HASH1 adds the vector Y4 of a tail, and whatever X12 held, to the sums.
#define HASH1 \
	VPSHUFB Y13, Y4, Y4   \
	VPXOR   Y12, Y4, Y4   \
	VMOVDQU (R10), Y5     \
	ADD_MUL(Y5, Y4)       \
	VPXOR   X12, X12, X12 \
	ADDQ    $32, R10

// HASH_AD is one block of additional data into X12.
#define HASH_AD(from) \
	VMOVDQU from, X4       \
	VPSHUFB X13, X4, X4    \
	VPXOR   X12, X4, X4    \
	VMOVDQU H1(AX), X5     \
	MUL(Y5, Y4)            \
	REDUCE

// FINISH takes [len(A)]64 || [len(C)]64 in as the last block (§7.1 step 5, in
// reverse), and XORs GHASH to the CIPH_K(J0) in tag (step 6).
#define FINISH \
	MOVQ    adLen+48(FP), BX \
	MOVQ    n+24(FP), DX     \
	SHLQ    $3, BX           \
	SHLQ    $3, DX           \
	VMOVQ   DX, X4           \
	VPINSRQ $1, BX, X4, X4   \
	VPXOR   X12, X4, X4      \
	VMOVDQU H1(AX), X5       \
	ADD_MUL(Y5, Y4)          \
	REDUCE                   \
	VPSHUFB X13, X12, X12    \
	VPXOR   (R11), X12, X12  \
	VMOVDQU X12, (R11)

// BEGIN is §7.1 and §7.2 up to the data: CIPH_K(J0) into tag, the additional
// data into X12, its last block, padded with zeros, from edge. It is one macro
// for both functions, as labels belong to the function.
#define BEGIN \
	LOAD                            \
	AES1                            \
	CMPQ    R12, $14                \
	JNE     j0Last                  \
	AES1_256                        \
j0Last:                             \
	LAST1                           \
	VMOVDQU X0, (R11)               \
	VPXOR   X12, X12, X12           \
additional:                         \
	CMPQ    R9, $16                 \
	JLT     additionalEdge          \
	HASH_AD((R8))                   \
	ADDQ    $16, R8                 \
	SUBQ    $16, R9                 \
	JMP     additional              \
additionalEdge:                     \
	TESTQ   R9, R9                  \
	JZ      data                    \
	HASH_AD(edge_ad(R13))

// func sealAVX2(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte, edge *edge)
TEXT ·sealAVX2(SB), NOSPLIT, $0-72
	BEGIN

data:
	CMPQ CX, $128
	JLT  tail

	// GHASH trails by 128 bytes, since it takes in what comes out: the first
	// are ciphered alone, then each turn ciphers 128 bytes and hashes those
	// before them, and the last are hashed alone.
	COUNTERS4
	ROUND4(1)
	ROUND4(2)
	ROUND4(3)
	ROUND4(4)
	ROUND4(5)
	ROUND4(6)
	ROUND4(7)
	ROUND4(8)
	ROUND4(9)
	CMPQ R12, $14
	JNE  first
	ROUNDS4_256

first:
	LAST4
	CRYPT4
	REVERSE4
	CMPQ CX, $128
	JLT  bulkHash

bulk:
	BOTH
	CMPQ R12, $14
	JNE  bulkLast
	ROUNDS4_256

bulkLast:
	LAST4
	CRYPT4
	REVERSE4
	CMPQ CX, $128
	JGE  bulk

bulkHash:
	VPXOR Y12, Y4, Y4
	MUL(P0, Y4)
	ADD_MUL(P1, Y5)
	ADD_MUL(P2, Y6)
	ADD_MUL(P3, Y7)
	REDUCE

	// 0 to 127 bytes are left: up to three vectors, the edge, and one block of
	// lengths, reduced once. X12 goes into whichever is first.
tail:
	TAIL_POWERS(CX)
	ZERO_SUMS

vector:
	CMPQ    CX, $32
	JLT     edgeVector
	VPSHUFB Y13, Y14, Y0
	VPADDD  two<>(SB), Y14, Y14
	AES1
	CMPQ    R12, $14
	JNE     vectorLast
	AES1_256

vectorLast:
	LAST1
	VPXOR   (SI), Y0, Y4
	VMOVDQU Y4, (DI)
	HASH1
	ADDQ    $32, SI
	ADDQ    $32, DI
	SUBQ    $32, CX
	JMP     vector

edgeVector:
	TESTQ   CX, CX
	JZ      lengths
	VPSHUFB Y13, Y14, Y0
	AES1
	CMPQ    R12, $14
	JNE     edgeLast
	AES1_256

	// Without the mask GHASH would take in keystream behind the text.
edgeLast:
	LAST1
	LEAQ    keep<>+32(SB), BX
	SUBQ    CX, BX
	VPXOR   edge_data(R13), Y0, Y4
	VPAND   (BX), Y4, Y4
	VMOVDQU Y4, edge_data(R13)
	HASH1

lengths:
	FINISH
	VZEROALL
	RET

// func openAVX2(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte, edge *edge)
TEXT ·openAVX2(SB), NOSPLIT, $0-72
	BEGIN

data:
	CMPQ CX, $128
	JLT  tail

	// What GHASH takes in is there from the start.
bulk:
	REVERSE4_SRC
	BOTH
	CMPQ R12, $14
	JNE  bulkLast
	ROUNDS4_256

bulkLast:
	LAST4
	CRYPT4
	CMPQ CX, $128
	JGE  bulk

	// As in sealAVX2, but GHASH takes in the source, which edge pads by zeros.
tail:
	TAIL_POWERS(CX)
	ZERO_SUMS

vector:
	CMPQ    CX, $32
	JLT     edgeVector
	VPSHUFB Y13, Y14, Y0
	VPADDD  two<>(SB), Y14, Y14
	AES1
	CMPQ    R12, $14
	JNE     vectorLast
	AES1_256

vectorLast:
	LAST1
	VMOVDQU (SI), Y4
	VPXOR   Y4, Y0, Y0
	VMOVDQU Y0, (DI)
	HASH1
	ADDQ    $32, SI
	ADDQ    $32, DI
	SUBQ    $32, CX
	JMP     vector

edgeVector:
	TESTQ   CX, CX
	JZ      lengths
	VPSHUFB Y13, Y14, Y0
	AES1
	CMPQ    R12, $14
	JNE     edgeLast
	AES1_256

edgeLast:
	LAST1
	VMOVDQU edge_data(R13), Y4
	VPXOR   Y4, Y0, Y0
	VMOVDQU Y0, edge_data(R13)
	HASH1

lengths:
	FINISH
	VZEROALL
	RET
