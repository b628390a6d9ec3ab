// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"testing"
)

func TestQueueKeepsBytesInOrderWhileTheFrontIsRead(t *testing.T) {
	var q queue
	data := pattern(9, 300000)
	var got []byte
	for rest := data; len(rest) > 0 || q.size > 0; {
		front := q.front()
		n := min(len(rest), 1+len(rest)%7919)
		q.append(rest[:n]) // must not move front
		rest = rest[n:]
		taken := min(len(front), 5000)
		got = append(got, front[:taken]...)
		if taken > 0 {
			q.discard(taken)
		}
	}
	if !bytes.Equal(got, data) || memory(&q) != 0 {
		t.Errorf("%d bytes, %d held", len(got), memory(&q))
	}
}

// An app that is always a little behind never has its queue empty.
func TestQueueThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	var q queue
	p := make([]byte, 16<<10)
	for range 4 {
		q.append(p)
	}
	for range 10000 {
		q.append(p)
		q.discard(len(q.front()))
	}
	if n := cap(q.segments); n > 64 {
		t.Errorf("room for %d segments, %d are in use", n, len(q.segments)-q.first)
	}
	if n := q.free(); n != 4*len(p) {
		t.Errorf("%d bytes are left", n)
	}
}
