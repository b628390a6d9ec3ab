// SPDX-License-Identifier: Apache-2.0

package main

import "encoding/binary"

// pattern is what an app says: each byte follows from the talk and its place.
type pattern uint64

// fill writes the bytes from offset on into b.
func (p pattern) fill(b []byte, offset int) {
	var word [8]byte
	for i := 0; i < len(b); {
		at := offset + i
		binary.LittleEndian.PutUint64(word[:], mix(uint64(p)+uint64(at/8)))
		i += copy(b[i:], word[at%8:])
	}
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
