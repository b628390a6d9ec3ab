// SPDX-License-Identifier: Apache-2.0

package record

import (
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/buffer"
)

// bufferSizes fill what the allocator gives for 1, 4 and 16 full records; the
// smallest is for what is not even one.
var (
	bufferSizes = []int{4 << 10, 18 << 10, 72 << 10, 264 << 10}
	readSizes   = bufferSizes[1:] // hold any record
	buffers     = buffer.NewPool(bufferSizes...)
)

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
