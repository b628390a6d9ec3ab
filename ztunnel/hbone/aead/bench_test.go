// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"crypto/cipher"
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkBesideCryptoCipher times ours and crypto/cipher in turns of some
// 20 µs, so that what else the machine does meets both, and reports medians.
// A kernel has a row per size, with the header of a TLS record as additional
// data and text sealed and opened in place.
func BenchmarkBesideCryptoCipher(b *testing.B) {
	for _, kernel := range kernels() {
		for _, key := range [][]byte{key128, key256} {
			for _, n := range []int{0, 16, 64, 128, 256, 512, 1024, 1350, 4096, 8192, 16385, 65536} {
				name := fmt.Sprintf("%v/AES-%d/%d", kernel, 8*len(key), n)
				b.Run(name+"/seal", func(b *testing.B) {
					beside(b, n, sealing(open(b, kernel, key), n), sealing(oracle(b, key), n))
				})
				b.Run(name+"/open", func(b *testing.B) {
					beside(b, n, opening(open(b, kernel, key), n), opening(oracle(b, key), n))
				})
			}
		}
	}
}

func sealing(a cipher.AEAD, n int) func() {
	buf, header := make([]byte, n, n+tagSize), make([]byte, 5)
	return func() { a.Seal(buf[:0], nonce, buf, header) }
}

// opening opens beside the ciphertext, which must last.
func opening(a cipher.AEAD, n int) func() {
	buf, header := make([]byte, n), make([]byte, 5)
	sealed := a.Seal(nil, nonce, buf, header)
	return func() {
		if _, err := a.Open(buf[:0], nonce, sealed, header); err != nil {
			panic(err)
		}
	}
}

func beside(b *testing.B, n int, ours, std func()) {
	calls := 1 + 100_000/(n+500)
	var took [2][]float64 // ns per call
	for b.Loop() {
		for i, call := range []func(){ours, std} {
			start := time.Now()
			for range calls {
				call()
			}
			took[i] = append(took[i], float64(time.Since(start))/float64(calls))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	mine, theirs := took[0][len(took[0])/2], took[1][len(took[1])/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(mine, "ours-ns")
	b.ReportMetric(theirs, "std-ns")
	b.ReportMetric(float64(n)/mine, "ours-GB/s")
	b.ReportMetric(float64(n)/theirs, "std-GB/s")
	b.ReportMetric(theirs/mine, "ratio")
}

func BenchmarkNew(b *testing.B) {
	for _, kernel := range append(kernels(), none) {
		b.Run(kernel.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				open(b, kernel, key256).Close()
			}
		})
	}
}
