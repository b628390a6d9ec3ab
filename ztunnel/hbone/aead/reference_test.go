// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// reference is SP 800-38D read aloud: bit by bit, slow, and for any J0.
type reference struct {
	block cipher.Block
	h     [16]byte
}

func newReference(t testing.TB, key []byte) *reference {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &reference{block: block}
	block.Encrypt(r.h[:], r.h[:])
	return r
}

// multiply is §6.3: bit 0 of a block is the highest of its first byte.
func multiply(x, y [16]byte) (z [16]byte) {
	v := y
	for i := range 128 {
		if x[i/8]>>(7-i%8)&1 == 1 {
			for j := range z {
				z[j] ^= v[j]
			}
		}
		low := v[15] & 1
		for j := 15; j > 0; j-- {
			v[j] = v[j]>>1 | v[j-1]<<7
		}
		v[0] >>= 1
		if low == 1 {
			v[0] ^= 0xe1
		}
	}
	return z
}

// ghash is §6.4 over parts, each padded to whole blocks, and two lengths.
func (r *reference) ghash(parts [2][]byte) (y [16]byte) {
	take := func(block []byte) {
		for i, b := range block {
			y[i] ^= b
		}
		y = multiply(y, r.h)
	}
	var lengths [16]byte
	for i, part := range parts {
		binary.BigEndian.PutUint64(lengths[8*i:], uint64(len(part))*8)
		for ; len(part) > 16; part = part[16:] {
			take(part[:16])
		}
		if len(part) > 0 {
			take(part)
		}
	}
	take(lengths[:])
	return y
}

// j0 is §7.1 step 2.
func (r *reference) j0(iv []byte) (j0 [16]byte) {
	if len(iv) == 12 {
		copy(j0[:], iv)
		j0[15] = 1
		return j0
	}
	return r.ghash([2][]byte{nil, iv})
}

// seal is §7.1 from step 3 on.
func (r *reference) seal(j0 [16]byte, plaintext, ad []byte) (ciphertext []byte, tag [16]byte) {
	var stream [16]byte
	counter := j0
	for i, b := range plaintext {
		if i%16 == 0 {
			binary.BigEndian.PutUint32(counter[12:], binary.BigEndian.Uint32(counter[12:])+1)
			r.block.Encrypt(stream[:], counter[:])
		}
		ciphertext = append(ciphertext, b^stream[i%16])
	}
	s := r.ghash([2][]byte{ad, ciphertext})
	r.block.Encrypt(tag[:], j0[:])
	for i := range tag {
		tag[i] ^= s[i]
	}
	return ciphertext, tag
}

// oracle is what crypto/cipher makes of key.
func oracle(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	std, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return std
}

func open(t testing.TB, kernel kernel, key []byte) *GCM {
	t.Helper()
	g, err := newGCM(kernel, key)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// eachKernel runs test with each kernel of this build that the CPU has. What it
// has not is no skip: CI's hosts are of several makers.
func eachKernel(t *testing.T, test func(*testing.T, kernel)) {
	able := make(map[kernel]bool)
	for _, kernel := range kernels() {
		able[kernel] = true
	}
	for _, kernel := range built {
		if !able[kernel] {
			t.Logf("this CPU does not run %v", kernel)
			continue
		}
		t.Run(kernel.String(), func(t *testing.T) { test(t, kernel) })
	}
}

// eachImplementation is eachKernel with crypto/cipher behind the same API.
func eachImplementation(t *testing.T, test func(*testing.T, kernel)) {
	t.Run(none.String(), func(t *testing.T) { test(t, none) })
	eachKernel(t, test)
}

// random returns n bytes that are the same in each run.
func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}
