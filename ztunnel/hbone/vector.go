// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"sync"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// vectorWrite is a write of several segments to an app's socket. It is lent, so that
// a write allocates nothing, and a stream for which nothing comes holds none.
type vectorWrite struct {
	vector [][]byte
	wrote  int
	err    error
	fn     func(uintptr) bool // some, bound once
}

var vectorWrites = sync.Pool{New: func() any {
	w := new(vectorWrite)
	w.fn = w.some
	return w
}}

// writeNow writes what the socket takes without waiting, and returns the rest.
func writeNow(raw syscall.RawConn, segments [][]byte) (n int, rest [][]byte, err error) {
	if len(segments) == 0 {
		return 0, nil, nil
	}
	w := vectorWrites.Get().(*vectorWrite)
	w.vector = segments
	if err = raw.Write(w.fn); err == nil {
		err = w.err
	}
	n, rest = w.wrote, w.vector
	w.vector, w.wrote, w.err = nil, 0, nil
	vectorWrites.Put(w)
	return n, rest, err
}

// some writes until the socket is full. It always returns true: RawConn.Write would
// wait for room otherwise.
func (w *vectorWrite) some(fd uintptr) bool {
	for len(w.vector) > 0 {
		n, err := socket.Writev(fd, w.vector)
		switch {
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			w.err = err
			return true
		}
		w.wrote += n
		w.vector = skip(w.vector, n)
	}
	return true
}

// skip drops the first n bytes of a vector.
func skip(vector [][]byte, n int) [][]byte {
	for len(vector) > 0 && n >= len(vector[0]) {
		n -= len(vector[0])
		vector = vector[1:]
	}
	if n > 0 {
		vector[0] = vector[0][n:]
	}
	return vector
}

// length is the bytes of a vector.
func length(vector [][]byte) (n int) {
	for _, p := range vector {
		n += len(p)
	}
	return n
}
