// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"crypto/cipher"
	"math/rand/v2"
	"testing"
)

// trial seals and opens one text with ours and with crypto/cipher. Its buffers
// are reused: each text lies at some distance from their beginning, between
// bytes that nobody may touch.
type trial struct {
	ours *GCM
	std  cipher.AEAD

	text, ad, nonce []byte
	at              int // where in its buffer the output begins

	out, want []byte
}

const untouched = 0xa5

func newTrial(t testing.TB, kernel kernel, key []byte) *trial {
	return &trial{ours: open(t, kernel, key), std: oracle(t, key)}
}

// run does all that a GCM does, or with brief one way of each at random.
func (r *trial) run(t testing.TB, brief bool) {
	t.Helper()
	r.want = r.std.Seal(r.want[:0], r.nonce, r.text, r.ad)
	inPlace, beside, forge := true, true, true
	if brief {
		inPlace = rand.IntN(2) == 0
		beside, forge = !inPlace, rand.IntN(8) == 0
	}
	if inPlace {
		r.inPlace(t)
	}
	if beside {
		r.beside(t)
	}
	if forge {
		r.forge(t)
	}
}

func (r *trial) inPlace(t testing.TB) {
	t.Helper()
	sealed := r.place(len(r.want))
	copy(sealed, r.text)
	r.ours.Seal(sealed[:0], r.nonce, sealed[:len(r.text)], r.ad)
	r.compare(t, "seal in place", sealed, r.want)

	opened, err := r.ours.Open(sealed[:0], r.nonce, sealed, r.ad)
	if err != nil {
		r.fatal(t, "open in place", err)
	}
	r.compare(t, "open in place", opened, r.text)
}

func (r *trial) beside(t testing.TB) {
	t.Helper()
	sealed := r.place(len(r.want))
	r.ours.Seal(sealed[:0], r.nonce, r.text, r.ad)
	r.compare(t, "seal", sealed, r.want)

	opened := r.place(len(r.text))
	if _, err := r.ours.Open(opened[:0], r.nonce, r.want, r.ad); err != nil {
		r.fatal(t, "open", err)
	}
	r.compare(t, "open", opened, r.text)
}

func (r *trial) forge(t testing.TB) {
	t.Helper()
	r.want[rand.IntN(len(r.want))] ^= 1 << rand.IntN(8)
	opened := r.place(len(r.text))
	if _, err := r.ours.Open(opened[:0], r.nonce, r.want, r.ad); err != ErrOpen {
		r.fatal(t, "open of a forgery", err)
	}
	r.compare(t, "open of a forgery", opened, make([]byte, len(r.text)))
}

// place returns n bytes of out, at the trial's distance; 64 on either side are
// not to be touched.
func (r *trial) place(n int) []byte {
	total := 64 + r.at + n + 64
	if cap(r.out) < total {
		r.out = make([]byte, total+1<<16)
	}
	r.out = r.out[:total]
	for i := range r.at + 64 {
		r.out[i] = untouched
	}
	for i := range 64 {
		r.out[total-1-i] = untouched
	}
	return r.out[64+r.at : total-64 : total-64]
}

// compare wants got to be want, and its surroundings untouched.
func (r *trial) compare(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		r.fatal(t, what, "not what was expected")
	}
	for i := range r.at + 64 {
		if r.out[i] != untouched {
			r.fatal(t, what, "a byte before the output was touched")
		}
	}
	for i := range 64 {
		if r.out[len(r.out)-1-i] != untouched {
			r.fatal(t, what, "a byte behind the output was touched")
		}
	}
}

func (r *trial) fatal(t testing.TB, what string, why any) {
	t.Helper()
	t.Fatalf("%s of %d bytes with %d of additional data, %d off: %v", what, len(r.text), len(r.ad), r.at, why)
}

// draw sets a text of n bytes, at some alignment, and other additional data.
func (r *trial) draw(rng *rand.Rand, pool []byte, n int) {
	from := rng.IntN(64)
	r.text = pool[from : from+n]
	r.at = rng.IntN(64)
	length := rng.IntN(70)
	switch rng.IntN(8) {
	case 0:
		length = rng.IntN(2000)
	case 1, 2, 3:
		length = 5 // a TLS record's header
	}
	from = rng.IntN(1000)
	r.ad = pool[from : from+length]
	r.nonce = pool[from+2000:][:12]
}

const longest = 70_000

// TestEveryLengthIsSealedAsByCryptoCipher has all lengths, or a random part of
// them in short mode.
func TestEveryLengthIsSealedAsByCryptoCipher(t *testing.T) {
	const short = 2000
	pool := random(rand.New(rand.NewPCG(7, 0)), longest+64)
	eachKernel(t, func(t *testing.T, kernel kernel) {
		rng := rand.New(rand.NewPCG(7, uint64(kernel)))
		for _, key := range [][]byte{key128, key256} {
			r := newTrial(t, kernel, key)
			for n := 0; n <= longest; n++ {
				r.draw(rng, pool, n)
				r.run(t, n > short)
				if testing.Short() && n > short {
					n += rng.IntN(400)
				}
			}
		}
	})
}

// TestShortLengthsAtEveryAlignment has every tail of either kernel against every
// distance from a cache line, and every length of additional data around a
// block.
func TestShortLengthsAtEveryAlignment(t *testing.T) {
	pool := random(rand.New(rand.NewPCG(8, 0)), 4096)
	limit, step := 600, 1
	if testing.Short() {
		step = 7
	}
	eachKernel(t, func(t *testing.T, kernel kernel) {
		for _, key := range [][]byte{key128, key256} {
			r := newTrial(t, kernel, key)
			for n := 0; n < limit; n += step {
				for at := range 64 {
					r.text, r.ad, r.nonce, r.at = pool[at:at+n], pool[n:n+at], pool[at+n:][:12], 63-at
					r.run(t, false)
				}
			}
			for length := range 600 {
				r.text, r.ad, r.nonce, r.at = pool[:length%50], pool[1:1+length], pool[7:19], 0
				r.run(t, false)
			}
		}
	})
}

func FuzzSealOpen(f *testing.F) {
	f.Add([]byte("key"), []byte("nonce"), []byte("additional data"), []byte("text"), uint16(3), uint8(1))
	f.Add([]byte{}, []byte{}, []byte{}, []byte{}, uint16(0), uint8(0))
	f.Add([]byte("k"), []byte("n"), make([]byte, 5), make([]byte, 16385), uint16(300), uint8(63))
	f.Add([]byte("k"), []byte("n"), make([]byte, 70), make([]byte, 257), uint16(511), uint8(17))
	f.Fuzz(func(t *testing.T, key, nonce, ad, text []byte, repeat uint16, at uint8) {
		// Long texts are rare if the fuzzer must find them.
		if len(text) > 0 {
			text = bytes.Repeat(text, 1+int(repeat)%(1+longest/len(text)))
		}
		for _, size := range []int{16, 32} {
			full := make([]byte, size)
			copy(full, key)
			for _, kernel := range append(kernels(), none) {
				r := newTrial(t, kernel, full)
				r.text, r.ad, r.at, r.nonce = text, ad, int(at%64), make([]byte, 12)
				copy(r.nonce, nonce)
				r.run(t, false)
			}
		}
	})
}
