// SPDX-License-Identifier: Apache-2.0

// 64 GiB of addresses are needed.

//go:build amd64 || arm64

package aead

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNothingOutsideTheBuffersIsReadOrWritten lays text, output and additional
// data against pages that cannot be accessed, in front of them and behind.
func TestNothingOutsideTheBuffersIsReadOrWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 0))
	text, out, ad := newIsland(t), newIsland(t), newIsland(t)
	step := 1
	if testing.Short() {
		step = 5
	}
	eachKernel(t, func(t *testing.T, kernel kernel) {
		for i, key := range [][]byte{key128, key256} {
			g, std := open(t, kernel, key), oracle(t, key)
			for n := i; n < 700; n += step {
				plain, data := random(rng, n), random(rng, n%90)
				want := std.Seal(nil, nonce, plain, data)
				for _, atEnd := range []bool{false, true} {
					from, header := text.put(plain, atEnd), ad.put(data, atEnd)
					to := out.put(make([]byte, n+tagSize), atEnd)
					if g.Seal(to[:0], nonce, from, header); !bytes.Equal(to, want) {
						t.Fatalf("%d bytes, at the end %v: sealed otherwise", n, atEnd)
					}
					from, to = text.put(want, atEnd), out.put(make([]byte, n), atEnd)
					if _, err := g.Open(to[:0], nonce, from, header); err != nil || !bytes.Equal(to, plain) {
						t.Fatalf("%d bytes, at the end %v: opened otherwise, %v", n, atEnd, err)
					}
				}
			}
		}
	})
}

// TestTextsBeyondTheCounterAreRefused has a text of 64 GiB that is not there:
// whoever reads it dies.
func TestTextsBeyondTheCounterAreRefused(t *testing.T) {
	nowhere, err := unix.Mmap(-1, 0, maxText+1+tagSize, unix.PROT_NONE,
		unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		t.Skipf("reserve 64 GiB of addresses: %v", err)
	}
	defer unix.Munmap(nowhere)
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		g := open(t, kernel, key128)
		if !panics(func() { g.Seal(nowhere[:0], nonce, nowhere[:maxText+1], nil) }) {
			t.Error("Seal took a byte too many")
		}
		if _, err := g.Open(nowhere[:0], nonce, nowhere, nil); err != ErrOpen {
			t.Errorf("Open took a byte too many: %v", err)
		}
	})
}

// island is memory in the middle of none.
type island []byte

func newIsland(t *testing.T) island {
	t.Helper()
	page := os.Getpagesize()
	all, err := unix.Mmap(-1, 0, 3*page, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(all); err != nil {
			t.Error(err)
		}
	})
	middle := all[page : 2*page]
	if err := unix.Mprotect(middle, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	return middle
}

// put copies b to the first or the last bytes of the island.
func (m island) put(b []byte, atEnd bool) []byte {
	at := 0
	if atEnd {
		at = len(m) - len(b)
	}
	copy(m[at:], b)
	return m[at : at+len(b) : at+len(b)]
}
