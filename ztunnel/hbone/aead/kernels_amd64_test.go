// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package aead

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"
)

// built are the kernels that this build has.
var built = []kernel{avx512, avx2}

// FIPS 197, appendices A.1 and A.3; the rest of a schedule follows from the
// word before, so that the ends tell.
func TestKeyScheduleIsThatOfFIPS197(t *testing.T) {
	for _, tc := range []struct{ key, second, last string }{
		{
			"2b7e151628aed2a6abf7158809cf4f3c",
			"a0fafe1788542cb123a339392a6c7605",
			"d014f9a8c9ee2589e13f0cc8b6630ca6",
		},
		{
			"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
			"1f352c073b6108d72d9810a30914dff4",
			"fe4890d1e6188d0b046df344706c631e",
		},
	} {
		key, _ := hex.DecodeString(tc.key)
		eachKernel(t, func(t *testing.T, kernel kernel) {
			k := newKeys(kernel, key)
			if got := hex.EncodeToString(k.schedule[1][:]); got != tc.second {
				t.Errorf("round key 1 is %s, want %s", got, tc.second)
			}
			if got := hex.EncodeToString(k.schedule[k.rounds][:]); got != tc.last {
				t.Errorf("round key %d is %s, want %s", k.rounds, got, tc.last)
			}
		})
	}
}

func TestPowersAreThoseOfTheHashKeyOverX(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 0))
	x := [16]byte{0x40}
	eachKernel(t, func(t *testing.T, kernel kernel) {
		for i := range 200 {
			key := random(rng, 16+16*(i%2))
			h := newReference(t, key).h
			k := newKeys(kernel, key)
			power := h
			for n := 16; n >= 0; n-- {
				got := k.powers[n]
				slices.Reverse(got[:])
				if got = multiply(got, x); got != power {
					t.Fatalf("H^%d of key %x is %x, want %x", 17-n, key, got, power)
				}
				power = multiply(power, h)
			}
			if [3][16]byte(k.powers[17:]) != [3][16]byte{} {
				t.Fatalf("something stands behind the powers of key %x", key)
			}
		}
	})
}

// TestCounterWraps covers inc32: the carry out of the low 32 bits is lost.
func TestCounterWraps(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 0))
	eachKernel(t, func(t *testing.T, kernel kernel) {
		for _, size := range []int{16, 32} {
			key := random(rng, size)
			ref, k := newReference(t, key), newKeys(kernel, key)
			for before := range uint32(70) { // blocks before the wrap
				j0 := [16]byte(random(rng, 16))
				binary.BigEndian.PutUint32(j0[12:], -before)
				plaintext, ad := random(rng, rng.IntN(1200)), random(rng, rng.IntN(40))
				want, wantTag := ref.seal(j0, plaintext, ad)

				got := make([]byte, len(plaintext))
				if tag := k.seal(got, plaintext, &j0, ad); !bytes.Equal(got, want) || tag != wantTag {
					t.Fatalf("AES-%d, %d bytes, J0 %x: sealed otherwise", 8*size, len(got), j0)
				}
				if tag := k.open(got, got, &j0, ad); !bytes.Equal(got, plaintext) || tag != wantTag {
					t.Fatalf("AES-%d, %d bytes, J0 %x: opened otherwise", 8*size, len(got), j0)
				}
			}
		}
	})
}

func TestCloseOverwritesTheKeys(t *testing.T) {
	eachKernel(t, func(t *testing.T, kernel kernel) {
		g := open(t, kernel, []byte("0123456789abcdef"))
		k := g.keys
		g.Close()
		if *k != (keys{}) {
			t.Error("keys are left after Close")
		}
	})
}

// seal with the J0 of a longer IV, for vectors that need one.
func sealJ0(kernel kernel, key []byte, j0 [16]byte, plaintext, ad []byte) (ciphertext []byte, tag [16]byte) {
	ciphertext = make([]byte, len(plaintext))
	tag = newKeys(kernel, key).seal(ciphertext, plaintext, &j0, ad)
	return ciphertext, tag
}
