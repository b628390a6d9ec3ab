// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// pattern is size reproducible bytes that do not repeat.
func pattern(seed uint64, size int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

func TestBytesArriveAsSentInBothDirectionsAtOnce(t *testing.T) {
	sizes := []int{0, 1, 100, 16375, 16376, 64 << 10, 1 << 20, 8 << 20}
	if !testing.Short() {
		sizes = append(sizes, 64<<20)
	}
	l := newLink(t, nil)
	for i, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a := l.open()
			data := pattern(uint64(i), size)
			var sending sync.WaitGroup
			sending.Go(func() {
				if _, err := a.Write(data); err != nil {
					t.Error(err)
				}
				a.CloseWrite()
			})
			hash := sha256.New()
			n, err := io.Copy(hash, a)
			sending.Wait()
			if want := sha256.Sum256(data); err != nil || int(n) != size || !bytes.Equal(hash.Sum(nil), want[:]) {
				t.Fatalf("got %d bytes, error %v, or other ones, want %d", n, err, size)
			}
			want := result{Totals{uint64(size), uint64(size)}, nil}
			if got := a.wait(t); got != want {
				t.Errorf("Carry returned %+v, want %+v", got, want)
			}
		})
	}
}
