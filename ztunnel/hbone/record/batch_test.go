// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"io"
	"testing"
)

// fill is n bytes that differ from their neighbours.
func fill(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7 >> 3)
	}
	return p
}

func TestABatchTakesWhatItSaysItHasRoomFor(t *testing.T) {
	for _, n := range []int{0, 1, 13, 4000, 4074, 4096, maxPlaintext, maxPlaintext + 1, 4 * maxPlaintext, 100000, BatchSize, BatchSize + 1} {
		b := TakeBatch(n)
		if b.Room() < min(n, BatchSize) {
			t.Errorf("TakeBatch(%d) has room for %d", n, b.Room())
		}
		for step := 1; b.Room() > 0; step = step*3 + 1 {
			room := b.Room()
			want := min(step, room)
			if got := b.Append(fill(step)); got != want {
				t.Fatalf("room for %d, took %d of %d", room, got, step)
			}
			if b.Room() != room-want {
				t.Fatalf("room %d, then %d bytes, then room %d", room, want, b.Room())
			}
		}
		if b.Append([]byte{1}) != 0 || b.Reserve(1) != nil || len(b.Spaces(1)) != 0 {
			t.Error("a full Batch takes more")
		}
		b.Release()
	}
}

// TestABatchArrivesAsItWasFilled fills one in all ways, up to its end.
func TestABatchArrivesAsItWasFilled(t *testing.T) {
	for _, size := range []int{1000, 20000, 70000, BatchSize} {
		for _, spaces := range []int{1, 100, 16000, 16375, 16384, 40000, BatchSize} {
			client, server := pair(t)
			b := TakeBatch(size)
			var want []byte
			for {
				header := b.Reserve(9)
				if header == nil {
					break
				}
				at := len(want)
				want = append(want, make([]byte, 9)...)
				n := 0
				for _, p := range b.Spaces(spaces) {
					n += copy(p, fill(len(p)))
					want = append(want, fill(len(p))...)
				}
				b.Advance(n)
				copy(header, "headers!!") // known only now
				copy(want[at:], "headers!!")
				k := b.Append([]byte("tail"))
				want = append(want, "tail"[:k]...)
				if b.Len() != len(want) {
					t.Fatalf("%d bytes in it, want %d", b.Len(), len(want))
				}
			}
			done := make(chan error, 1)
			go func() {
				done <- client.WriteBatch(b)
				client.CloseWrite()
			}()
			if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, want) {
				t.Errorf("size %d, spaces of %d: got %d bytes, %v; want %d", size, spaces, len(got), err, len(want))
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if b.Len() != 0 {
				t.Error("a sent Batch is not empty")
			}
			b.Release()
		}
	}
}

func TestAnEmptyBatchSendsNothing(t *testing.T) {
	client, _ := pair(t)
	b := TakeBatch(100)
	defer b.Release()
	if err := client.WriteBatch(b); err != nil || client.out.seq != 0 {
		t.Errorf("%v, %d records", err, client.out.seq)
	}
}

func TestAFullBatchIsSixteenRecordsInOneWrite(t *testing.T) {
	s := new(script)
	c := newConn(s, true)
	if err := c.out.begin(suites[0x1301], make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	b := TakeBatch(BatchSize)
	defer b.Release()
	b.Append(make([]byte, BatchSize))
	if err := c.WriteBatch(b); err != nil {
		t.Fatal(err)
	}
	if s.writes != 1 || s.written.Len() != 16*fullRecord || c.out.seq != 16 {
		t.Errorf("%d bytes, %d writes, %d records", s.written.Len(), s.writes, c.out.seq)
	}
}

func TestBulkAllocatesNothing(t *testing.T) {
	client, server := pair(t)
	near, far := client.socket, server.socket
	for _, s := range []any{near, far} {
		s := s.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		})
		s.SetReadBuffer(1 << 20)
		s.SetWriteBuffer(1 << 20)
	}
	p := fill(64 << 10)
	allocs := testing.AllocsPerRun(200, func() {
		b := TakeBatch(len(p))
		b.Append(p)
		if err := client.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
		b.Release()
		for n := 0; n < len(p); {
			segments, err := server.Receive()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range segments {
				n += len(s)
			}
		}
	})
	if allocs >= 1 {
		t.Errorf("%v allocations for 4 records", allocs)
	}
}
