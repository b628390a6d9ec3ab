// SPDX-License-Identifier: Apache-2.0

// Package buffer lends memory to bytes on their way, so that a connection on
// which nothing moves holds none.
package buffer

import "sync"

// Buffer is a lent piece of memory. Whoever takes one releases it as soon as its
// bytes are elsewhere.
type Buffer struct {
	Bytes []byte // all of it
	from  *sync.Pool
}

// Release gives the Buffer back.
func (b *Buffer) Release() { b.from.Put(b) }

// Pool lends Buffers of a few sizes.
type Pool struct {
	sizes []int // from small to large
	free  []sync.Pool
}

// NewPool returns a Pool of Buffers of these sizes, from small to large.
func NewPool(sizes ...int) *Pool {
	return &Pool{sizes: sizes, free: make([]sync.Pool, len(sizes))}
}

// Take lends a Buffer of at least n bytes, or the largest there is.
func (p *Pool) Take(n int) *Buffer {
	i := p.fitting(n)
	if b, ok := p.free[i].Get().(*Buffer); ok {
		return b
	}
	return &Buffer{Bytes: make([]byte, p.sizes[i]), from: &p.free[i]}
}

// Size is that of the Buffer which Take(n) lends.
func (p *Pool) Size(n int) int { return p.sizes[p.fitting(n)] }

// Largest is the size of the largest Buffers.
func (p *Pool) Largest() int { return p.sizes[len(p.sizes)-1] }

func (p *Pool) fitting(n int) int {
	i := 0
	for i < len(p.sizes)-1 && p.sizes[i] < n {
		i++
	}
	return i
}
