// SPDX-License-Identifier: Apache-2.0

//go:build !purego

#include "go_asm.h"
#include "textflag.h"
#include "gcm_amd64.h"

// The byte order of a 16-byte block, reversed.
DATA reverse<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse<>+8(SB)/8, $0x0001020304050607
GLOBL reverse<>(SB), RODATA|NOPTR, $16

// PREFIX turns the words a b c d of w into a, a^b, a^b^c, a^b^c^d and adds the
// substituted word g to each: w[i] = w[i-Nk] ^ w[i-1] of FIPS 197 §5.2, for four
// words at a time. Clobbers X4.
#define PREFIX(w, g) \
	VPSLLDQ $4, w, X4  \
	VPXOR   X4, w, w   \
	VPSLLDQ $8, w, X4  \
	VPXOR   X4, w, w   \
	VPXOR   g, w, w

// ROTATED and PLAIN make one round key out of w and the round key prev before
// it, and store it as number i: with SubWord(RotWord(prev[3])) ^ rcon, and with
// SubWord(prev[3]), the extra step of AES-256. VAESKEYGENASSIST looks nothing up
// in memory.
#define ROTATED(i, rcon, prev, w) \
	VAESKEYGENASSIST rcon, prev, X3     \
	VPSHUFD          $0xff, X3, X3      \
	PREFIX(w, X3)                       \
	VMOVDQU          w, (keys_schedule+16*i)(AX)

#define PLAIN(i, prev, w) \
	VAESKEYGENASSIST $0, prev, X3       \
	VPSHUFD          $0xaa, X3, X3      \
	PREFIX(w, X3)                       \
	VMOVDQU          w, (keys_schedule+16*i)(AX)

// func expand(k *keys, key *byte)
// Fills schedule and powers; k.rounds says how long the key is.
TEXT ·expand(SB), NOSPLIT, $0-16
	MOVQ    k+0(FP), AX
	MOVQ    key+8(FP), BX
	MOVQ    keys_rounds(AX), CX
	VMOVDQU (BX), X0
	VMOVDQU X0, keys_schedule(AX)
	CMPQ    CX, $14
	JEQ     aes256

	ROTATED(1, $0x01, X0, X0)
	ROTATED(2, $0x02, X0, X0)
	ROTATED(3, $0x04, X0, X0)
	ROTATED(4, $0x08, X0, X0)
	ROTATED(5, $0x10, X0, X0)
	ROTATED(6, $0x20, X0, X0)
	ROTATED(7, $0x40, X0, X0)
	ROTATED(8, $0x80, X0, X0)
	ROTATED(9, $0x1b, X0, X0)
	ROTATED(10, $0x36, X0, X0)
	JMP     hashKey

aes256:
	VMOVDQU 16(BX), X1
	VMOVDQU X1, (keys_schedule+16)(AX)
	ROTATED(2, $0x01, X1, X0)
	PLAIN(3, X0, X1)
	ROTATED(4, $0x02, X1, X0)
	PLAIN(5, X0, X1)
	ROTATED(6, $0x04, X1, X0)
	PLAIN(7, X0, X1)
	ROTATED(8, $0x08, X1, X0)
	PLAIN(9, X0, X1)
	ROTATED(10, $0x10, X1, X0)
	PLAIN(11, X0, X1)
	ROTATED(12, $0x20, X1, X0)
	PLAIN(13, X0, X1)
	ROTATED(14, $0x40, X1, X0)

	// H = CIPH_K(0^128), SP 800-38D §7.1 step 1; CX counts the rounds left.
hashKey:
	LEAQ    keys_schedule(AX), BX
	VMOVDQU (BX), X0
	DECQ    CX

round:
	ADDQ        $16, BX
	VAESENC     (BX), X0, X0
	DECQ        CX
	JNZ         round
	VAESENCLAST 16(BX), X0, X0
	VPSHUFB     reverse<>(SB), X0, X0

	// H/x: x^0 is the top bit, so shift left by one over 128 bits; what is
	// shifted out comes back as the polynomial, by a mask and not by a branch.
	VMOVQ   X0, R8
	VPEXTRQ $1, X0, R9
	MOVQ    R9, R10
	SARQ    $63, R10
	SHLQ    $1, R8, R9
	ADDQ    R8, R8
	MOVQ    FOLD, R11
	MOVQ    R11, R12
	ANDQ    R10, R12
	XORQ    R12, R9
	ANDQ    $1, R10
	XORQ    R10, R8
	VMOVQ   R8, X0
	VPINSRQ $1, R9, X0, X0

	// Powers from H^1 down to the front of the table. X0 is H/x, X1 the power,
	// X2 the polynomial; one multiplication is as in the kernels: low X3,
	// middle X4, high X5.
	VMOVDQA X0, X1
	VMOVQ   R11, X2
	MOVQ    $16, CX
	LEAQ    H1(AX), BX
	VMOVDQU X1, (BX)

power:
	VPCLMULQDQ $0x00, X0, X1, X3
	VPCLMULQDQ $0x01, X0, X1, X4
	VPCLMULQDQ $0x10, X0, X1, X6
	VPXOR      X6, X4, X4
	VPCLMULQDQ $0x11, X0, X1, X5
	VPCLMULQDQ $0x00, X3, X2, X6
	VPSHUFD    $0x4e, X3, X3
	VPXOR      X3, X4, X4
	VPXOR      X6, X4, X4
	VPCLMULQDQ $0x00, X4, X2, X6
	VPSHUFD    $0x4e, X4, X4
	VPXOR      X4, X5, X5
	VPXOR      X6, X5, X1
	SUBQ       $16, BX
	VMOVDQU    X1, (BX)
	DECQ       CX
	JNZ        power

	XORL R8, R8
	XORL R9, R9
	XORL R10, R10
	XORL R12, R12
	VZEROALL
	RET

// func leaf7() (ecx uint32)
// Leaf 7 of CPUID, which every CPU with AVX2 has: bit 9 is VAES, bit 10
// VPCLMULQDQ. x/sys/cpu reports these two only beside AVX-512.
TEXT ·leaf7(SB), NOSPLIT, $0-4
	MOVL $7, AX
	XORL CX, CX
	CPUID
	MOVL CX, ecx+0(FP)
	RET
