// SPDX-License-Identifier: Apache-2.0

package buffer

// Fit finds the size that a reader's next buffer should have, by what its last
// reads brought. The sizes, from small to large, are the same in each call; the
// zero Fit begins with the smallest.
type Fit struct {
	at    uint8 // in sizes
	full  uint8 // reads in a row that filled their room
	short uint8 // reads in a row that left most of it empty
}

// Size is the size for the next read.
func (f *Fit) Size(sizes []int) int { return sizes[f.at] }

// Smallest reports that the smallest size is enough.
func (f *Fit) Smallest() bool { return f.at == 0 }

// Learn takes note of a read that brought n bytes into room for so many. The size
// goes up after two reads that filled their room, and down after four that used
// less than a quarter of it.
func (f *Fit) Learn(sizes []int, n, room int) {
	switch {
	case n == room:
		f.short = 0
		if f.full = min(f.full+1, 2); f.full == 2 && int(f.at) < len(sizes)-1 {
			f.at, f.full = f.at+1, 0
		}
	case n < sizes[f.at]/4:
		f.full = 0
		if f.short = min(f.short+1, 4); f.short == 4 && f.at > 0 {
			f.at, f.short = f.at-1, 0
		}
	default:
		f.full, f.short = 0, 0
	}
}
