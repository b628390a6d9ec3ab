// SPDX-License-Identifier: Apache-2.0

package hbone

import "github.com/culvert-mesh/culvert/ztunnel/buffer"

// buffers are lent to what waits for an app or the wire.
var buffers = buffer.NewPool(4<<10, 16<<10, 64<<10, 256<<10)

// queue holds bytes in the order in which they came, packed: a byte costs a
// byte, however small the frames were that brought it.
type queue struct {
	segments []segment
	first    int // of segments that is not empty
	size     int
}

type segment struct {
	buf        *buffer.Buffer
	start, end int
}

func (q *queue) append(p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		if n := len(q.segments); n > q.first {
			last := &q.segments[n-1]
			copied := copy(last.buf.Bytes[last.end:], p)
			last.end += copied
			p = p[copied:]
			if len(p) == 0 {
				return
			}
		}
		q.compact()
		q.segments = append(q.segments, segment{buf: buffers.Take(len(p))})
	}
}

// compact makes use of the room of what was discarded, before there is no other.
func (q *queue) compact() {
	if n := len(q.segments); n == cap(q.segments) && q.first > n/2 {
		kept := copy(q.segments, q.segments[q.first:])
		clear(q.segments[kept:])
		q.segments, q.first = q.segments[:kept], 0
	}
}

// front is the oldest bytes. They stay where they are until discarded, even
// while others are appended.
func (q *queue) front() []byte {
	if q.size == 0 {
		return nil
	}
	s := q.segments[q.first]
	return s.buf.Bytes[s.start:s.end]
}

// discard drops n of the front's bytes.
func (q *queue) discard(n int) {
	q.size -= n
	s := &q.segments[q.first]
	if s.start += n; s.start < s.end {
		return
	}
	s.buf.Release()
	*s = segment{}
	if q.first++; q.first == len(q.segments) {
		q.segments, q.first = q.segments[:0], 0
	}
}

// free drops all and returns how much that was.
func (q *queue) free() int {
	n := q.size
	for _, s := range q.segments[q.first:] {
		s.buf.Release()
	}
	*q = queue{}
	return n
}
