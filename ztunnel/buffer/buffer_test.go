// SPDX-License-Identifier: Apache-2.0

package buffer

import "testing"

func TestBuffersAreThoseThatFit(t *testing.T) {
	pool := NewPool(4<<10, 16<<10, 64<<10)
	for n, want := range map[int]int{0: 4 << 10, 4096: 4 << 10, 4097: 16 << 10, 1 << 20: 64 << 10} {
		b := pool.Take(n)
		if len(b.Bytes) != want || pool.Size(n) != want {
			t.Errorf("%d bytes: buffer of %d, said to be of %d", n, len(b.Bytes), pool.Size(n))
		}
		b.Release()
	}
}

func TestTheSizeFollowsWhatComes(t *testing.T) {
	sizes := []int{100, 1000, 10000}
	var f Fit
	read := func(n, times int) {
		for range times {
			f.Learn(sizes, n, min(n, f.Size(sizes)))
		}
	}
	for _, step := range []struct{ n, times, want int }{
		{100, 1, 100}, // one full read may be chance
		{100, 1, 1000},
		{1000, 2, 10000},
		{10000, 300, 10000}, // there is none larger
	} {
		if read(step.n, step.times); f.Size(sizes) != step.want {
			t.Errorf("size %d after %d reads of %d, want %d", f.Size(sizes), step.times, step.n, step.want)
		}
	}
	little := func(times int) {
		for range times {
			f.Learn(sizes, 10, f.Size(sizes))
		}
	}
	if little(3); f.Size(sizes) != 10000 {
		t.Error("three small reads made it smaller")
	}
	if little(5); !f.Smallest() {
		t.Errorf("size %d after eight small reads, want the smallest", f.Size(sizes))
	}
	if little(300); !f.Smallest() {
		t.Error("smaller than the smallest")
	}
}
