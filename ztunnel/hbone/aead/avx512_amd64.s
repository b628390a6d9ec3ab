// SPDX-License-Identifier: Apache-2.0

//go:build !purego

#include "go_asm.h"
#include "textflag.h"
#include "gcm_amd64.h"

// AES-GCM with 512-bit registers, each four blocks wide.
//
//	AX   k                          CX   bytes of src left
//	DI   dst                        SI   src
//	R8   additional data            R9   bytes of it left
//	R10  powers for the tail        R11  tag
//	R12  rounds                     BX, DX scratch
//
//	Z0–Z3    counter blocks, then keystream, then output
//	Z4–Z7    ciphertext, byte-reversed: what GHASH takes in
//	Z8 Z9 Z10  low, middle and high sum of products, not yet reduced
//	Z11      scratch
//	Z12      GHASH so far, in lane 0; scratch while it is in the sums
//	Z13      byte reversal        Z14  next four counter blocks, reversed
//	Z15      4 for each lane      Z16  the polynomial
//	Z17–Z26  round keys 0 to 9    Z27–Z30  10 to 13 of AES-256
//	Z31      the last round key
//	K1       the bytes of a vector that exist

DATA reverse512<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse512<>+8(SB)/8, $0x0001020304050607
GLOBL reverse512<>(SB), RODATA|NOPTR, $16

DATA counts512<>+0(SB)/8, $1
DATA counts512<>+8(SB)/8, $0
DATA counts512<>+16(SB)/8, $2
DATA counts512<>+24(SB)/8, $0
DATA counts512<>+32(SB)/8, $3
DATA counts512<>+40(SB)/8, $0
DATA counts512<>+48(SB)/8, $4
DATA counts512<>+56(SB)/8, $0
GLOBL counts512<>(SB), RODATA|NOPTR, $64

DATA four<>+0(SB)/8, $4
DATA four<>+8(SB)/8, $0
GLOBL four<>(SB), RODATA|NOPTR, $16

// LOAD takes the arguments and the constants. Counter blocks are kept reversed,
// so that inc32 (SP 800-38D §6.2) is VPADDD: the carry stays in the low 32 bits.
#define LOAD \
	MOVQ            k+0(FP), AX               \
	MOVQ            dst+8(FP), DI             \
	MOVQ            src+16(FP), SI            \
	MOVQ            n+24(FP), CX              \
	MOVQ            j0+32(FP), BX             \
	MOVQ            ad+40(FP), R8             \
	MOVQ            adLen+48(FP), R9          \
	MOVQ            tag+56(FP), R11           \
	MOVQ            keys_rounds(AX), R12      \
	VBROADCASTI32X4 reverse512<>(SB), Z13     \
	VBROADCASTI32X4 (BX), Z0                  \
	VPSHUFB         Z13, Z0, Z14              \
	VPADDD          counts512<>(SB), Z14, Z14 \
	VBROADCASTI32X4 four<>(SB), Z15           \
	MOVQ            FOLD, BX                  \
	VPBROADCASTQ    BX, Z16

#define KEY(i, z) VBROADCASTI32X4 (keys_schedule+16*i)(AX), z

#define LOAD_KEYS_TO_9 \
	KEY(0, Z17) \
	KEY(1, Z18) \
	KEY(2, Z19) \
	KEY(3, Z20) \
	KEY(4, Z21) \
	KEY(5, Z22) \
	KEY(6, Z23) \
	KEY(7, Z24) \
	KEY(8, Z25) \
	KEY(9, Z26)

#define LOAD_KEYS_TO_14 \
	KEY(10, Z27) \
	KEY(11, Z28) \
	KEY(12, Z29) \
	KEY(13, Z30) \
	KEY(14, Z31)

// AES1 ciphers Z0 up to round 9, AES1_256 does the four more of AES-256;
// VAESENCLAST with Z31 ends both.
#define AES1 \
	VPXORQ  Z17, Z0, Z0 \
	VAESENC Z18, Z0, Z0 \
	VAESENC Z19, Z0, Z0 \
	VAESENC Z20, Z0, Z0 \
	VAESENC Z21, Z0, Z0 \
	VAESENC Z22, Z0, Z0 \
	VAESENC Z23, Z0, Z0 \
	VAESENC Z24, Z0, Z0 \
	VAESENC Z25, Z0, Z0 \
	VAESENC Z26, Z0, Z0

#define AES1_256 \
	VAESENC Z27, Z0, Z0 \
	VAESENC Z28, Z0, Z0 \
	VAESENC Z29, Z0, Z0 \
	VAESENC Z30, Z0, Z0

// The same for Z0–Z3, 16 blocks, one round at a time.
#define COUNTERS4 \
	VPSHUFB Z13, Z14, Z0  \
	VPADDD  Z15, Z14, Z14 \
	VPSHUFB Z13, Z14, Z1  \
	VPADDD  Z15, Z14, Z14 \
	VPSHUFB Z13, Z14, Z2  \
	VPADDD  Z15, Z14, Z14 \
	VPSHUFB Z13, Z14, Z3  \
	VPADDD  Z15, Z14, Z14 \
	VPXORQ  Z17, Z0, Z0   \
	VPXORQ  Z17, Z1, Z1   \
	VPXORQ  Z17, Z2, Z2   \
	VPXORQ  Z17, Z3, Z3

#define ROUND4(k) \
	VAESENC k, Z0, Z0 \
	VAESENC k, Z1, Z1 \
	VAESENC k, Z2, Z2 \
	VAESENC k, Z3, Z3

#define ROUNDS4_256 \
	ROUND4(Z27) \
	ROUND4(Z28) \
	ROUND4(Z29) \
	ROUND4(Z30)

#define LAST4 \
	VAESENCLAST Z31, Z0, Z0 \
	VAESENCLAST Z31, Z1, Z1 \
	VAESENCLAST Z31, Z2, Z2 \
	VAESENCLAST Z31, Z3, Z3

// CRYPT4 is the XOR of GCTR (§6.5) over 256 bytes and steps past them.
#define CRYPT4 \
	VPXORQ    0(SI), Z0, Z0   \
	VPXORQ    64(SI), Z1, Z1  \
	VPXORQ    128(SI), Z2, Z2 \
	VPXORQ    192(SI), Z3, Z3 \
	VMOVDQU64 Z0, 0(DI)       \
	VMOVDQU64 Z1, 64(DI)      \
	VMOVDQU64 Z2, 128(DI)     \
	VMOVDQU64 Z3, 192(DI)     \
	ADDQ      $256, SI        \
	ADDQ      $256, DI        \
	SUBQ      $256, CX

// MUL starts the sums with block(s) z times powers p, ADD_MUL adds to them:
// low = z0·p0, middle = z0·p1 + z1·p0, high = z1·p1, in 64-bit halves.
#define MUL(p, z) \
	VPCLMULQDQ $0x00, p, z, Z8   \
	VPCLMULQDQ $0x01, p, z, Z9   \
	VPCLMULQDQ $0x10, p, z, Z11  \
	VPXORQ     Z11, Z9, Z9       \
	VPCLMULQDQ $0x11, p, z, Z10

#define ADD_MUL(p, z) \
	ADD_MUL_ENDS(p, z)   \
	ADD_MUL_MIDDLE(p, z)

#define ADD_MUL_ENDS(p, z) \
	VPCLMULQDQ $0x00, p, z, Z11     \
	VPXORQ     Z11, Z8, Z8          \
	VPCLMULQDQ $0x11, p, z, Z12     \
	VPXORQ     Z12, Z10, Z10

#define ADD_MUL_MIDDLE(p, z) \
	VPCLMULQDQ $0x01, p, z, Z11     \
	VPCLMULQDQ $0x10, p, z, Z12     \
	VPTERNLOGD $0x96, Z11, Z12, Z9

// REDUCE folds low into middle and middle into high, 64 bits each time; SUM adds
// up the four lanes of high into X12.
#define REDUCE_LOW \
	VPCLMULQDQ $0x00, Z8, Z16, Z11 \
	VPSHUFD    $0x4e, Z8, Z8       \
	VPTERNLOGD $0x96, Z11, Z8, Z9

#define REDUCE_MIDDLE \
	VPCLMULQDQ $0x00, Z9, Z16, Z11 \
	VPSHUFD    $0x4e, Z9, Z9       \
	VPTERNLOGD $0x96, Z11, Z9, Z10

#define SUM \
	VEXTRACTI64X4 $1, Z10, Y11   \
	VPXOR         Y11, Y10, Y10  \
	VEXTRACTI128  $1, Y10, X11   \
	VPXOR         X11, X10, X12

#define REDUCE \
	REDUCE_LOW    \
	REDUCE_MIDDLE \
	SUM

// REVERSE4 hands output Z0–Z3 to GHASH, REVERSE4_SRC the next 256 bytes of src.
#define REVERSE4 \
	VPSHUFB Z13, Z0, Z4 \
	VPSHUFB Z13, Z1, Z5 \
	VPSHUFB Z13, Z2, Z6 \
	VPSHUFB Z13, Z3, Z7

#define REVERSE4_SRC \
	VMOVDQU64 0(SI), Z4   \
	VMOVDQU64 64(SI), Z5  \
	VMOVDQU64 128(SI), Z6 \
	VMOVDQU64 192(SI), Z7 \
	VPSHUFB   Z13, Z4, Z4 \
	VPSHUFB   Z13, Z5, Z5 \
	VPSHUFB   Z13, Z6, Z6 \
	VPSHUFB   Z13, Z7, Z7

// H^16 … H^1, for 16 blocks.
#define P0 (H1-15*16)(AX)
#define P1 (H1-11*16)(AX)
#define P2 (H1-7*16)(AX)
#define P3 (H1-3*16)(AX)

// BOTH ciphers the next 16 counter blocks up to round 9 while it multiplies
// Z4–Z7; the two share no register and, on Intel, no execution port.
#define BOTH \
	COUNTERS4               \
	VPXORQ Z12, Z4, Z4      \
	MUL(P0, Z4)             \
	ROUND4(Z18)             \
	ADD_MUL_ENDS(P1, Z5)    \
	ROUND4(Z19)             \
	ADD_MUL_MIDDLE(P1, Z5)  \
	ROUND4(Z20)             \
	ADD_MUL_ENDS(P2, Z6)    \
	ROUND4(Z21)             \
	ADD_MUL_MIDDLE(P2, Z6)  \
	ROUND4(Z22)             \
	ADD_MUL_ENDS(P3, Z7)    \
	ROUND4(Z23)             \
	ADD_MUL_MIDDLE(P3, Z7)  \
	ROUND4(Z24)             \
	REDUCE_LOW              \
	ROUND4(Z25)             \
	REDUCE_MIDDLE           \
	ROUND4(Z26)             \
	SUM

// TAIL_POWERS points R10 at the power of the first of the blocks of n bytes when
// extra blocks follow. Lanes behind H^1 meet zeros only.
#define TAIL_POWERS(n, extra) \
	LEAQ 15(n), BX               \
	ANDQ $~15, BX                \
	LEAQ (H1+16-16*extra)(AX), R10 \
	SUBQ BX, R10

// MASK sets K1 for min(n, 64) bytes and BX to that.
#define MASK(n) \
	MOVQ    $64, BX       \
	CMPQ    n, BX         \
	CMOVQLT n, BX         \
	MOVQ    $-1, DX       \
	BZHIQ   BX, DX, DX    \
	KMOVQ   DX, K1

// ZERO_SUMS starts the sums of a tail.
#define ZERO_SUMS \
	VPXOR X8, X8, X8    \
	VPXOR X9, X9, X9    \
	VPXOR X10, X10, X10

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
	ADD_MUL(Z5, Z4)          \
	REDUCE                   \
	VPSHUFB X13, X12, X12    \
	VPXOR   (R11), X12, X12  \
	VMOVDQU X12, (R11)

// FORGET leaves no key, keystream or text in a register.
#define FORGET \
	VPXORQ Z17, Z17, Z17 \
	VPXORQ Z18, Z18, Z18 \
	VPXORQ Z19, Z19, Z19 \
	VPXORQ Z20, Z20, Z20 \
	VPXORQ Z21, Z21, Z21 \
	VPXORQ Z22, Z22, Z22 \
	VPXORQ Z23, Z23, Z23 \
	VPXORQ Z24, Z24, Z24 \
	VPXORQ Z25, Z25, Z25 \
	VPXORQ Z26, Z26, Z26 \
	VPXORQ Z27, Z27, Z27 \
	VPXORQ Z28, Z28, Z28 \
	VPXORQ Z29, Z29, Z29 \
	VPXORQ Z30, Z30, Z30 \
	VPXORQ Z31, Z31, Z31 \
	VZEROALL

// BEGIN is §7.1 and §7.2 up to the data: the key schedule into registers,
// CIPH_K(J0) into tag, the additional data, zero-padded to blocks, into X12. It
// is one macro for both functions, as labels belong to the function.
#define BEGIN \
	LOAD                           \
	LOAD_KEYS_TO_9                 \
	CMPQ        R12, $14           \
	JEQ         load256            \
	KEY(10, Z31)                   \
	AES1                           \
	JMP         loaded             \
load256:                           \
	LOAD_KEYS_TO_14                \
	AES1                           \
	AES1_256                       \
loaded:                            \
	VAESENCLAST Z31, Z0, Z0        \
	VMOVDQU     X0, (R11)          \
	VPXOR       X12, X12, X12      \
	TESTQ       R9, R9             \
	JZ          data               \
additional:                        \
	MASK(R9)                       \
	VMOVDQU8.Z  (R8), K1, Z4       \
	VPSHUFB     Z13, Z4, Z4        \
	VPXORQ      Z12, Z4, Z4        \
	ADDQ        BX, R8             \
	SUBQ        BX, R9             \
	TAIL_POWERS(BX, 0)             \
	VMOVDQU64   (R10), Z5          \
	MUL(Z5, Z4)                    \
	REDUCE                         \
	TESTQ       R9, R9             \
	JNZ         additional

// func sealAVX512(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte)
TEXT ·sealAVX512(SB), NOSPLIT, $0-64
	BEGIN

data:
	CMPQ CX, $256
	JLT  tail

	// GHASH trails by 256 bytes, since it takes in what comes out: the first
	// are ciphered alone, then each turn ciphers 256 bytes and hashes those
	// before them, and the last are hashed alone.
	COUNTERS4
	ROUND4(Z18)
	ROUND4(Z19)
	ROUND4(Z20)
	ROUND4(Z21)
	ROUND4(Z22)
	ROUND4(Z23)
	ROUND4(Z24)
	ROUND4(Z25)
	ROUND4(Z26)
	CMPQ R12, $14
	JNE  first
	ROUNDS4_256

first:
	LAST4
	CRYPT4
	REVERSE4
	CMPQ CX, $256
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
	CMPQ CX, $256
	JGE  bulk

bulkHash:
	VPXORQ Z12, Z4, Z4
	MUL(P0, Z4)
	ADD_MUL(P1, Z5)
	ADD_MUL(P2, Z6)
	ADD_MUL(P3, Z7)
	REDUCE

	// 0 to 255 bytes are left: up to four vectors, the last one masked, and
	// one block of lengths, reduced once. X12 goes into whichever is first.
tail:
	TAIL_POWERS(CX, 1)
	ZERO_SUMS
	TESTQ CX, CX
	JZ    lengths

vector:
	MASK(CX)
	VPSHUFB Z13, Z14, Z0
	VPADDD  Z15, Z14, Z14
	AES1
	CMPQ    R12, $14
	JNE     vectorLast
	AES1_256

vectorLast:
	VAESENCLAST Z31, Z0, Z0
	VMOVDQU8.Z  (SI), K1, Z4
	VPXORQ      Z4, Z0, Z0
	VMOVDQU8    Z0, K1, (DI)

	// Without the mask GHASH would take in keystream behind the text.
	VMOVDQU8.Z  Z0, K1, Z4
	VPSHUFB     Z13, Z4, Z4
	VPXORQ      Z12, Z4, Z4
	VMOVDQU64   (R10), Z5
	ADD_MUL(Z5, Z4)
	VPXOR       X12, X12, X12
	ADDQ        BX, SI
	ADDQ        BX, DI
	ADDQ        $64, R10
	SUBQ        BX, CX
	JNZ         vector

lengths:
	FINISH
	FORGET
	RET

// func openAVX512(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte)
TEXT ·openAVX512(SB), NOSPLIT, $0-64
	BEGIN

data:
	CMPQ CX, $256
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
	CMPQ CX, $256
	JGE  bulk

	// As in sealAVX512, but GHASH takes in the source.
tail:
	TAIL_POWERS(CX, 1)
	ZERO_SUMS
	TESTQ CX, CX
	JZ    lengths

vector:
	MASK(CX)
	VPSHUFB Z13, Z14, Z0
	VPADDD  Z15, Z14, Z14
	AES1
	CMPQ    R12, $14
	JNE     vectorLast
	AES1_256

vectorLast:
	VAESENCLAST Z31, Z0, Z0
	VMOVDQU8.Z  (SI), K1, Z4
	VPXORQ      Z4, Z0, Z0
	VMOVDQU8    Z0, K1, (DI)
	VPSHUFB     Z13, Z4, Z4
	VPXORQ      Z12, Z4, Z4
	VMOVDQU64   (R10), Z5
	ADD_MUL(Z5, Z4)
	VPXOR       X12, X12, X12
	ADDQ        BX, SI
	ADDQ        BX, DI
	ADDQ        $64, R10
	SUBQ        BX, CX
	JNZ         vector

lengths:
	FINISH
	FORGET
	RET
