// SPDX-License-Identifier: Apache-2.0

// Package aead is AES-GCM (NIST SP 800-38D) at the speed of the CPU's widest
// registers. It exists for one reason: crypto/cipher ciphers one block per
// instruction, and CPUs with VAES and VPCLMULQDQ do two or four.
//
// There is a kernel for AVX-512 and one for AVX2, each for all lengths; any other
// CPU, FIPS 140-3 mode, builds without amd64 and builds with -tags purego use
// crypto/cipher. The bytes are the same. Nothing looks up memory or branches by
// secrets: only lengths and the number of rounds decide what runs.
//
//	aead.go           the cipher.AEAD: buffers, tags, what is refused
//	keys_amd64.go     the choice of kernel, and Go's side of the assembly
//	keys_amd64.s      key schedule and powers of the hash key
//	avx512_amd64.s    the kernels; avx2_amd64.s is the same at half the width
package aead

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/subtle"
	"errors"
	"fmt"
	"unsafe"
)

const (
	nonceSize = 12
	tagSize   = 16

	// The counter has 32 bits, of which two values are spoken for.
	maxText = (1<<32 - 2) * 16
)

// ErrOpen says that a ciphertext, its nonce or its additional data is not what
// was sealed with this key.
var ErrOpen = errors.New("message authentication failed")

// kernel is an implementation; none is crypto/cipher.
type kernel int

const none kernel = 0

// fastest is what New uses.
var fastest = func() kernel {
	if found := kernels(); len(found) > 0 && !fips140.Enabled() {
		return found[0]
	}
	return none
}()

// Name says what seals and opens on this machine: "VAES with AVX-512", "VAES with
// AVX2" or "crypto/cipher".
func Name() string { return fastest.String() }

// GCM is AES-128-GCM or AES-256-GCM with 12-byte nonces and 16-byte tags. It is a
// cipher.AEAD, and safe for concurrent use but for Close.
type GCM struct {
	keys *keys       // nil if std does the work, and after Close
	std  cipher.AEAD // nil if keys do the work, and after Close
}

var _ cipher.AEAD = (*GCM)(nil)

// New returns the GCM of key, which has 16 or 32 bytes and is not kept.
func New(key []byte) (*GCM, error) { return newGCM(fastest, key) }

func newGCM(kernel kernel, key []byte) (*GCM, error) {
	if len(key) != 16 && len(key) != 32 {
		return nil, fmt.Errorf("expand AES key: %d bytes, want 16 or 32", len(key))
	}
	if kernel != none {
		return &GCM{keys: newKeys(kernel, key)}, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("expand AES key: %v", err)
	}
	std, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("make GCM: %v", err)
	}
	return &GCM{std: std}, nil
}

// Close overwrites the round keys and the hash key. Those of crypto/cipher can
// only be left to the garbage collector. Seal and Open panic from then on; a
// second Close does nothing.
func (g *GCM) Close() {
	if g.keys != nil {
		g.keys.forget()
	}
	g.keys, g.std = nil, nil
}

// NonceSize is 12.
func (g *GCM) NonceSize() int { return nonceSize }

// Overhead is 16, the length of a tag.
func (g *GCM) Overhead() int { return tagSize }

// Seal appends to dst the ciphertext of plaintext and the tag over it and
// additionalData. As in crypto/cipher, plaintext may lie exactly where the
// ciphertext goes (plaintext[:0] as dst), and overlaps otherwise panic.
//
// A call runs to its end without yielding to the garbage collector: about a
// microsecond per 10 KB.
func (g *GCM) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	if g.std != nil {
		return g.std.Seal(dst, nonce, plaintext, additionalData)
	}
	j0 := g.begin(nonce)
	if uint64(len(plaintext)) > maxText {
		panic("aead: message too large for GCM")
	}
	ret, out := extend(dst, len(plaintext)+tagSize)
	checkOverlap(out, plaintext, additionalData)

	text := out[:len(plaintext)]
	tag := g.keys.seal(text, plaintext, &j0, additionalData)
	copy(out[len(text):], tag[:])
	return ret
}

// Open appends to dst the plaintext of ciphertext, or returns ErrOpen and leaves
// zeros where the plaintext would have been. As in crypto/cipher, ciphertext may
// lie exactly where the plaintext goes, and overlaps otherwise panic.
func (g *GCM) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	if g.std != nil {
		return g.openStd(dst, nonce, ciphertext, additionalData)
	}
	j0 := g.begin(nonce)
	n := len(ciphertext) - tagSize
	if n < 0 || uint64(n) > maxText {
		return nil, ErrOpen
	}
	ret, out := extend(dst, n)
	checkOverlap(out, ciphertext, additionalData)

	tag := g.keys.open(out, ciphertext[:n], &j0, additionalData)
	if subtle.ConstantTimeCompare(tag[:], ciphertext[n:]) != 1 {
		clear(out)
		return nil, ErrOpen
	}
	return ret, nil
}

func (g *GCM) openStd(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	ret, err := g.std.Open(dst, nonce, ciphertext, additionalData)
	if err != nil {
		return nil, ErrOpen
	}
	return ret, nil
}

// begin returns J0 of SP 800-38D §7.1 step 2, for a nonce of 96 bits.
func (g *GCM) begin(nonce []byte) (j0 [16]byte) {
	if g.keys == nil {
		panic("aead: use of a closed GCM")
	}
	if len(nonce) != nonceSize {
		panic("aead: incorrect nonce length given to GCM")
	}
	copy(j0[:], nonce)
	j0[15] = 1
	return j0
}

// extend returns dst with n more bytes, and those.
func extend(dst []byte, n int) (all, more []byte) {
	if total := len(dst) + n; cap(dst) >= total {
		all = dst[:total]
	} else {
		all = make([]byte, total)
		copy(all, dst)
	}
	return all, all[len(dst):]
}

// checkOverlap panics where output would be read again as input.
func checkOverlap(out, in, additionalData []byte) {
	if overlap(out, in) && &out[0] != &in[0] {
		panic("aead: invalid buffer overlap of output and input")
	}
	if overlap(out, additionalData) {
		panic("aead: invalid buffer overlap of output and additional data")
	}
}

func overlap(x, y []byte) bool {
	return len(x) > 0 && len(y) > 0 &&
		uintptr(unsafe.Pointer(&x[0])) <= uintptr(unsafe.Pointer(&y[len(y)-1])) &&
		uintptr(unsafe.Pointer(&y[0])) <= uintptr(unsafe.Pointer(&x[len(x)-1]))
}
