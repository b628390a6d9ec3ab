// SPDX-License-Identifier: Apache-2.0

package record

import (
	"iter"
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/buffer"
)

// MaxRecords is the most records in a Batch, and BatchSize their plaintext.
const (
	MaxRecords = 16
	BatchSize  = MaxRecords * maxPlaintext
)

// Batch is plaintext that waits to be sent, in a lent buffer, with gaps where
// the headers and tails of its records will be. It is filled from front to back:
// by Append, by Reserve for a few bytes that are known only later, and by Spaces
// and Advance for bytes that a socket is to put there directly.
type Batch struct {
	buf    *buffer.Buffer
	starts [MaxRecords]int // of the records' headers
	n      int             // records begun
	end    int             // of the plaintext; a tail's room always follows
	size   int             // of the plaintext without gaps
	spaces [MaxRecords][]byte
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// TakeBatch lends a Batch with room for n bytes, or for BatchSize if that is
// less. It is given back by Release.
func TakeBatch(n int) *Batch {
	b := batches.Get().(*Batch)
	n = min(n, BatchSize)
	b.buf = buffers.Take(n + overhead*((n+maxPlaintext-1)/maxPlaintext))
	return b
}

// Release gives the Batch back, whatever is in it.
func (b *Batch) Release() {
	b.buf.Release()
	b.buf = nil
	clear(b.spaces[:])
	b.Reset()
	batches.Put(b)
}

// Reset empties the Batch.
func (b *Batch) Reset() { b.n, b.end, b.size = 0, 0, 0 }

// Len is the bytes in the Batch.
func (b *Batch) Len() int { return b.size }

// Cap is the bytes of memory that the Batch has been lent, whatever is in it.
func (b *Batch) Cap() int { return len(b.buf.Bytes) }

// Room is the bytes that Append still takes.
func (b *Batch) Room() int {
	room, records := b.left(), MaxRecords-b.n
	rest := len(b.buf.Bytes) - b.end - room
	if b.n > 0 {
		rest -= tailSize
	}
	whole := min(rest/fullRecord, records)
	room += whole * maxPlaintext
	if whole < records {
		room += max(rest-whole*fullRecord-overhead, 0)
	}
	return room
}

// left is the bytes that the last record still takes.
func (b *Batch) left() int {
	if b.n == 0 {
		return 0
	}
	used := b.end - b.starts[b.n-1] - headerSize
	return min(maxPlaintext-used, len(b.buf.Bytes)-tailSize-b.end)
}

// begin starts another record; false if there is no room for a byte in it.
func (b *Batch) begin() bool {
	start := b.end
	if b.n > 0 {
		start += tailSize
	}
	if b.n == MaxRecords || len(b.buf.Bytes)-start <= overhead {
		return false
	}
	b.starts[b.n] = start
	b.n++
	b.end = start + headerSize
	return true
}

// Append copies what fits of p, and returns how much that was.
func (b *Batch) Append(p []byte) int {
	total := 0
	for len(p) > 0 {
		room := b.left()
		if room == 0 {
			if !b.begin() {
				break
			}
			room = b.left()
		}
		n := copy(b.buf.Bytes[b.end:b.end+room], p)
		b.advance(n)
		p = p[n:]
		total += n
	}
	return total
}

// Reserve appends n bytes, at most a few hundred, that lie in one piece, and
// returns them to be written later. If they do not fit behind the others in the
// last record, that ends early. Nil if they do not fit at all.
func (b *Batch) Reserve(n int) []byte {
	if b.left() < n {
		records, end := b.n, b.end
		if !b.begin() || b.left() < n {
			b.n, b.end = records, end
			return nil
		}
	}
	p := b.buf.Bytes[b.end : b.end+n : b.end+n]
	b.advance(n)
	return p
}

// Spaces returns where the next bytes go, n of them if there is room. They count
// once Advance says so; until then, or another use of the Batch, the result is valid.
func (b *Batch) Spaces(n int) [][]byte {
	spaces := b.spaces[:0]
	at, room := b.end, b.left()
	for k := b.n; ; k++ {
		if room = min(room, n); room > 0 {
			spaces = append(spaces, b.buf.Bytes[at:at+room:at+room])
			n -= room
			at += room
		}
		if k > 0 {
			at += tailSize
		}
		at += headerSize
		room = min(maxPlaintext, len(b.buf.Bytes)-tailSize-at)
		if n == 0 || k == MaxRecords || room <= 0 {
			return spaces
		}
	}
}

// Advance counts n bytes that were put into the Spaces.
func (b *Batch) Advance(n int) {
	for n > 0 {
		room := b.left()
		if room == 0 {
			if !b.begin() {
				panic("record: Advance beyond the Spaces")
			}
			room = b.left()
		}
		k := min(n, room)
		b.advance(k)
		n -= k
	}
}

// Truncate drops what lies behind the first n bytes.
func (b *Batch) Truncate(n int) {
	for b.size > n {
		start := b.starts[b.n-1]
		last := b.end - start - headerSize
		if drop := b.size - n; drop < last {
			b.advance(-drop)
			return
		}
		b.size -= last
		b.n--
		if b.end = start; b.n > 0 {
			b.end -= tailSize
		}
	}
}

func (b *Batch) advance(n int) {
	b.end += n
	b.size += n
}

// Plaintext yields the bytes in the Batch, a record's at a time.
func (b *Batch) Plaintext() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range b.n {
			end := b.end
			if i+1 < b.n {
				end = b.starts[i+1] - tailSize
			}
			if !yield(b.buf.Bytes[b.starts[i]+headerSize : end]) {
				return
			}
		}
	}
}

// seal protects all records and returns what goes onto the wire.
func (b *Batch) seal(h *half) []byte {
	for i := range b.n {
		end := b.end + tailSize
		if i+1 < b.n {
			end = b.starts[i+1]
		}
		h.seal(b.buf.Bytes[b.starts[i]:end], typeApplicationData)
	}
	return b.buf.Bytes[:b.end+tailSize]
}
