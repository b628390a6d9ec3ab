// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import (
	"runtime"

	"golang.org/x/sys/cpu"
)

// The kernels of this CPU family.
const (
	avx512 kernel = iota + 1 // VAES, VPCLMULQDQ, AVX512F, BW and VL
	avx2                     // VAES, VPCLMULQDQ and AVX2
)

// keys is what one key expands to. The assembly reads it by field, and keeps
// nothing else between calls. It holds no pointer, so that the allocator puts it
// at a multiple of 64 bytes, and with it H^16, which is faster but not required.
type keys struct {
	schedule [15][16]byte // FIPS 197 §5.2, one per round and one before
	powers   [20][16]byte // H^17 … H^1, each divided by x and byte-reversed; then zeros
	rounds   uint64       // 10 or 14
	kernel   kernel
}

// edge is what AVX2 cannot mask: the end of the additional data and of the
// text, padded with zeros.
type edge struct {
	data [32]byte
	ad   [16]byte
}

//go:noescape
func expand(k *keys, key *byte)

func leaf7() (ecx uint32)

//go:noescape
func sealAVX512(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte)

//go:noescape
func openAVX512(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte)

//go:noescape
func sealAVX2(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte, edge *edge)

//go:noescape
func openAVX2(k *keys, dst, src *byte, n int, j0 *[16]byte, ad *byte, adLen int, tag *[16]byte, edge *edge)

// kernels returns those that this CPU and its operating system can run, the
// fastest first. x/sys/cpu has asked XGETBV whether the registers are saved, and
// heeds GODEBUG=cpu.avx512f=off and the like.
func kernels() []kernel {
	var found []kernel
	x := &cpu.X86
	if !x.HasAVX2 || !x.HasBMI2 {
		return nil // and leaf 7 may not exist
	}
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512VAES && x.HasAVX512VPCLMULQDQ {
		found = append(found, avx512)
	}
	const vaes, vpclmulqdq = 1 << 9, 1 << 10
	if leaf7()&(vaes|vpclmulqdq) == vaes|vpclmulqdq {
		found = append(found, avx2)
	}
	return found
}

func (k kernel) String() string {
	switch k {
	case avx512:
		return "VAES with AVX-512"
	case avx2:
		return "VAES with AVX2"
	}
	return "crypto/cipher"
}

// newKeys expands key, of 16 or 32 bytes, for kernel.
func newKeys(kernel kernel, key []byte) *keys {
	k := &keys{kernel: kernel, rounds: uint64(len(key)/4 + 6)}
	expand(k, &key[0])
	return k
}

func (k *keys) forget() {
	*k = keys{}
	runtime.KeepAlive(k)
}

// seal writes the ciphertext of src to dst, of the same length, and returns the
// tag. j0 is the counter block before the first, SP 800-38D §7.1 step 2.
func (k *keys) seal(dst, src []byte, j0 *[16]byte, ad []byte) (tag [16]byte) {
	if k.kernel == avx512 {
		sealAVX512(k, ptr(dst), ptr(src), len(src), j0, ptr(ad), len(ad), &tag)
		return tag
	}
	var e edge
	tail := e.load(src, ad)
	sealAVX2(k, ptr(dst), ptr(src), len(src), j0, ptr(ad), len(ad), &tag, &e)
	copy(dst[tail:], e.data[:])
	return tag
}

// open writes the plaintext of src to dst, of the same length, and returns the
// tag that src should have had.
func (k *keys) open(dst, src []byte, j0 *[16]byte, ad []byte) (tag [16]byte) {
	if k.kernel == avx512 {
		openAVX512(k, ptr(dst), ptr(src), len(src), j0, ptr(ad), len(ad), &tag)
		return tag
	}
	var e edge
	tail := e.load(src, ad)
	openAVX2(k, ptr(dst), ptr(src), len(src), j0, ptr(ad), len(ad), &tag, &e)
	copy(dst[tail:], e.data[:])
	clear(e.data[:]) // plaintext, and keystream behind it
	return tag
}

// load fills e and returns where in src its data begins.
func (e *edge) load(src, ad []byte) (tail int) {
	tail = len(src) &^ (len(e.data) - 1)
	copy(e.data[:], src[tail:])
	copy(e.ad[:], ad[len(ad)&^(len(e.ad)-1):])
	return tail
}

// ptr is where b begins, which an empty b need not say.
func ptr(b []byte) *byte {
	if len(b) == 0 {
		return nil
	}
	return &b[0]
}
