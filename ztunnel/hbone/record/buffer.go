// SPDX-License-Identifier: Apache-2.0

package record

import "sync"

// buffer is a lent piece of memory for ciphertext. Who takes one releases it as
// soon as its bytes are elsewhere.
type buffer struct {
	b     []byte
	class int
}

// The sizes fill what the allocator gives for 1, 4 and 16 full records; the
// smallest is for what is not even one.
var (
	bufferSizes = [...]int{4 << 10, 18 << 10, 72 << 10, 264 << 10}
	bufferPools [len(bufferSizes)]sync.Pool
)

const (
	classRecord  = 1 // the smallest that holds any record
	classLargest = len(bufferSizes) - 1
)

// classFor is the smallest class with n bytes, or the largest.
func classFor(n int) int {
	class := 0
	for class < classLargest && bufferSizes[class] < n {
		class++
	}
	return class
}

func takeBuffer(class int) *buffer {
	if b, ok := bufferPools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, bufferSizes[class]), class: class}
}

func (b *buffer) release() { bufferPools[b.class].Put(b) }

var segmentPool sync.Pool

func takeSegments() *[maxSegments][]byte {
	if s, ok := segmentPool.Get().(*[maxSegments][]byte); ok {
		return s
	}
	return new([maxSegments][]byte)
}

func releaseSegments(s *[maxSegments][]byte) {
	clear(s[:])
	segmentPool.Put(s)
}
