// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"hash/maphash"
	"math/bits"
)

// table finds things by a key which they have themselves: it holds their numbers
// only, and takes 6 bytes each, where a map with the keys takes 40 and more. Who
// asks says whether a number is that of the key. Nothing is taken out of it.
type table[K comparable] struct {
	slots []uint32 // numbers, from 1; 0 is nobody's
}

// newTable returns one for that many things at most.
func newTable[K comparable](most int) table[K] { return table[K]{make([]uint32, most+most/2+1)} }

// get returns the number under key.
func (t table[K]) get(key K, is func(number int) bool) (number int, found bool) {
	if len(t.slots) == 0 {
		return 0, false
	}
	slot := t.slots[t.find(key, is)]
	return int(slot) - 1, slot != 0
}

// put has key lead to number, and to no former one.
func (t table[K]) put(key K, number int, is func(number int) bool) {
	t.slots[t.find(key, is)] = uint32(number) + 1
}

// find returns the place of key, or the free one where it belongs.
func (t table[K]) find(key K, is func(int) bool) uint64 {
	n := uint64(len(t.slots))
	at, _ := bits.Mul64(maphash.Comparable(seed, key), n)
	for t.slots[at] != 0 && !is(int(t.slots[at])-1) {
		at = (at + 1) % n
	}
	return at
}
