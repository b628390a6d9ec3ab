// SPDX-License-Identifier: Apache-2.0

// What both kernels and the key schedule share. GHASH (SP 800-38D §6.4) works
// on bit-reflected blocks. A block whose 16 bytes are reversed is, read as a
// little-endian number, its polynomial with bit 127 for x^0. The carry-less
// product of two such numbers has bit 254 for x^0 where 256 bits should have bit
// 255, and so reads as the product times x. The powers of H in keys.powers are
// therefore kept divided by x.

// Upper half of the reflected x^128 + x^7 + x^2 + x + 1, which folds the low
// 64 bits of a product into those above.
#define FOLD $0xc200000000000000

// keys.powers holds H^17 … H^1 and zeros behind: where H^1 stands.
#define H1 (keys_powers+16*16)
