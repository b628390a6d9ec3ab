// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"crypto/cipher"
	"crypto/fips140"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

var (
	key128 = []byte("sixteen byte key")
	key256 = []byte("a key of two and thirty bytes ok")
	nonce  = []byte("twelve bytes")
)

func TestNewRefusesOtherKeyLengths(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		for n := range 65 {
			_, err := newGCM(kernel, make([]byte, n))
			if want := n == 16 || n == 32; want != (err == nil) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	})
}

func TestNewTakesTheFastestKernelOutsideOfFIPS(t *testing.T) {
	want := none
	if found := kernels(); len(found) > 0 && !fips140.Enabled() {
		want = found[0]
	}
	if fastest != want || Name() != want.String() {
		t.Errorf("New uses %v, Name says %q, want %v", fastest, Name(), want)
	}
	g, err := New(key128)
	if err != nil {
		t.Fatal(err)
	}
	if (g.keys != nil) != (want != none) {
		t.Errorf("New made %+v, want %v", g, want)
	}
}

func TestSealAppendsAndGrows(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		g := open(t, kernel, key128)
		text, head := []byte("plaintext"), []byte("head")
		want := g.Seal(nil, nonce, text, nil)
		for spare := range 40 {
			dst := append(make([]byte, 0, len(head)+spare), head...)
			sealed := g.Seal(dst, nonce, text, nil)
			if !bytes.Equal(sealed, slices.Concat(head, want)) {
				t.Errorf("%d spare bytes: sealed %x", spare, sealed)
			}
			if fits := spare >= len(want); fits != (&sealed[0] == &dst[0]) {
				t.Errorf("%d spare bytes: moved %v", spare, !fits)
			}
			opened, err := g.Open(dst, nonce, want, nil)
			if err != nil || string(opened) != "headplaintext" {
				t.Errorf("%d spare bytes: opened %q, %v", spare, opened, err)
			}
		}
	})
}

// TestForgeriesAreRefused changes every bit of tag, text, nonce and additional
// data, one at a time, and cuts and extends what was sealed.
func TestForgeriesAreRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 0))
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		for _, key := range [][]byte{key128, key256} {
			g := open(t, kernel, key)
			for _, n := range []int{0, 1, 15, 16, 17, 31, 32, 33, 64, 100, 128, 255, 256, 257, 300, 513} {
				text, ad := random(rng, n), random(rng, n%23)
				sealed := g.Seal(nil, nonce, text, ad)
				for _, part := range [][]byte{sealed, ad} {
					for bit := range 8 * len(part) {
						part[bit/8] ^= 1 << (bit % 8)
						refused(t, g, nonce, sealed, ad, fmt.Sprintf("%d bytes, bit %d", n, bit))
						part[bit/8] ^= 1 << (bit % 8)
					}
				}
				for bit := range 96 {
					other := slices.Clone(nonce)
					other[bit/8] ^= 1 << (bit % 8)
					refused(t, g, other, sealed, ad, fmt.Sprintf("%d bytes, bit %d of the nonce", n, bit))
				}
				for cut := range sealed {
					refused(t, g, nonce, sealed[:cut], ad, fmt.Sprintf("%d of %d bytes", cut, len(sealed)))
				}
				refused(t, g, nonce, append(slices.Clone(sealed), 0), ad, "a byte more")
				refused(t, g, nonce, sealed, append(slices.Clone(ad), 0), "a byte more of additional data")
				if got, err := g.Open(nil, nonce, sealed, ad); err != nil || !bytes.Equal(got, text) {
					t.Fatalf("%d bytes: unchanged, yet %v", n, err)
				}
			}
		}
	})
}

// refused checks that sealed does not open, and that nothing of what it might
// have been is left, neither beside it nor in place.
func refused(t *testing.T, g *GCM, nonce, sealed, ad []byte, what string) {
	t.Helper()
	inPlace := slices.Clone(sealed)
	beside := bytes.Repeat([]byte{untouched}, len(sealed))
	for _, dst := range [][]byte{beside, inPlace} {
		got, err := g.Open(dst[:0], nonce, sealed, ad)
		sealed = inPlace // in the second turn
		if !errors.Is(err, ErrOpen) || got != nil {
			t.Fatalf("%s: opened %x, %v", what, got, err)
		}
		if n := len(sealed) - tagSize; n > 0 && !bytes.Equal(dst[:n], make([]byte, n)) {
			t.Fatalf("%s: left %x", what, dst[:n])
		}
	}
}

func TestOpenOfLessThanATagIsRefused(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		for n := range tagSize {
			if _, err := open(t, kernel, key128).Open(nil, nonce, make([]byte, n), nil); err != ErrOpen {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	})
}

func TestOtherNonceLengthsPanic(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		g := open(t, kernel, key128)
		for n := range 33 {
			nonce := make([]byte, n)
			if got := panics(func() { g.Seal(nil, nonce, nil, nil) }); got != (n != 12) {
				t.Errorf("Seal with %d bytes: panicked %v", n, got)
			}
			if got := panics(func() { g.Open(nil, nonce, make([]byte, 16), nil) }); got != (n != 12) {
				t.Errorf("Open with %d bytes: panicked %v", n, got)
			}
		}
	})
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// TestOverlapsPanicAsInCryptoCipher lays output, input and additional data over
// one another at every distance.
func TestOverlapsPanicAsInCryptoCipher(t *testing.T) {
	const n, room = 40, 160
	std := oracle(t, key128)
	seal := func(a cipher.AEAD, out, in, ad []byte) func() {
		return func() { a.Seal(out[:0], nonce, in, ad) }
	}
	unseal := func(a cipher.AEAD, out, in, ad []byte) func() {
		return func() { a.Open(out[:0], nonce, in, ad) }
	}
	eachKernel(t, func(t *testing.T, kernel kernel) {
		g := open(t, kernel, key128)
		for at := range room - n {
			buf, other := make([]byte, room+n), make([]byte, n)
			out, over := buf[80:], buf[at:at+n]
			for name, calls := range map[string][2]func(){
				"Seal, input": {seal(g, out, over, nil), seal(std, out, over, nil)},
				"Seal, data":  {seal(g, out, other, over), seal(std, out, other, over)},
				"Open, input": {unseal(g, out, over, nil), unseal(std, out, over, nil)},
				"Open, data":  {unseal(g, out, other, over), unseal(std, out, other, over)},
			} {
				if got, want := panics(calls[0]), panics(calls[1]); got != want {
					t.Errorf("%s %d bytes off: panicked %v, crypto/cipher %v", name, at-80, got, want)
				}
			}
		}
	})
}

func TestUseAfterClosePanics(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		g := open(t, kernel, key128)
		sealed := g.Seal(nil, nonce, nil, nil)
		g.Close()
		g.Close()
		if !panics(func() { g.Seal(nil, nonce, nil, nil) }) {
			t.Error("Seal works after Close")
		}
		if !panics(func() { g.Open(nil, nonce, sealed, nil) }) {
			t.Error("Open works after Close")
		}
		var zero GCM
		if !panics(func() { zero.Seal(nil, nonce, nil, nil) }) {
			t.Error("the zero GCM seals")
		}
	})
}

func TestKeyIsNotKept(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		key := slices.Clone(key256)
		g := open(t, kernel, key)
		want := g.Seal(nil, nonce, key128, nil)
		clear(key)
		if got := g.Seal(nil, nonce, key128, nil); !bytes.Equal(got, want) {
			t.Error("the caller's key still matters after New")
		}
	})
}

func TestInPlaceAllocatesNothing(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		g := open(t, kernel, key128)
		for _, n := range []int{1, 100, 16385} {
			buf, header := make([]byte, n, n+tagSize), []byte{23, 3, 3, 0, 0}
			allocs := testing.AllocsPerRun(100, func() {
				sealed := g.Seal(buf[:0], nonce, buf, header)
				if _, err := g.Open(sealed[:0], nonce, sealed, header); err != nil {
					t.Error(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%d bytes: %v allocations", n, allocs)
			}
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		g, std := open(t, kernel, key256), oracle(t, key256)
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(6, uint64(worker)))
				for range 200 {
					text, nonce := random(rng, rng.IntN(2000)), random(rng, 12)
					sealed := g.Seal(nil, nonce, text, nonce)
					if !bytes.Equal(sealed, std.Seal(nil, nonce, text, nonce)) {
						t.Errorf("worker %d: sealed %d bytes otherwise", worker, len(text))
					}
				}
			})
		}
		wg.Wait()
	})
}
