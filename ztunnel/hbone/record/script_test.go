// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// script is a net.Conn whose reads bring the given pieces, and then io.EOF. What
// is written is kept.
type script struct {
	chunks  [][]byte
	written bytes.Buffer
	writes  int
}

func (s *script) Read(p []byte) (int, error) {
	for len(s.chunks) > 0 && len(s.chunks[0]) == 0 {
		s.chunks = s.chunks[1:]
	}
	if len(s.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.chunks[0])
	s.chunks[0] = s.chunks[0][n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.writes++
	return s.written.Write(p)
}

func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// everything is a stream with all that a peer may send, and its data.
func everything(f *forger) (stream []byte, data string) {
	long := bytes.Repeat([]byte("0123456789"), 1638)
	ticket := append([]byte{messageTicket, 0, 0, 30}, make([]byte, 30)...)
	for _, rec := range [][]byte{
		f.data("a"), f.data(""), f.record(typeApplicationData, []byte("padded"), 300),
		f.record(typeHandshake, ticket, 0),
		f.record(typeHandshake, ticket[:2], 5), f.record(typeHandshake, ticket[2:7], 0), f.record(typeHandshake, ticket[7:], 0),
		f.record(typeHandshake, append(ticket, ticket[:10]...), 0), f.record(typeHandshake, ticket[10:], 0),
		f.data("b"), f.keyUpdate(0), f.data("c"),
		f.record(typeHandshake, []byte{messageKeyUpdate, 0}, 0),
	} {
		stream = append(stream, rec...)
	}
	stream = append(stream, f.record(typeHandshake, []byte{0, 1, 1}, 0)...)
	f.out.update()
	stream = append(stream, f.record(typeApplicationData, long[:maxPlaintext-4], 4)...)
	stream = append(stream, f.data("d")...)
	stream = append(stream, f.record(typeAlert, []byte{1, 90}, 0)...)
	stream = append(stream, f.record(typeAlert, []byte{1, 0}, 9)...)
	return stream, "apaddedbc" + string(long[:maxPlaintext-4]) + "d"
}

func TestAStreamMayBeCutAnywhere(t *testing.T) {
	_, f := forge(t, true)
	begun := &forger{t: t, out: f.out}
	stream, want := everything(f)
	check := func(chunks ...[]byte) {
		t.Helper()
		s := &script{chunks: chunks}
		c := newConn(s, true)
		if err := c.in.begin(begun.out.suite, begun.out.secret[:begun.out.suite.secretSize]); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != want || err != nil {
			t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
		}
		if !c.owed.Load() {
			t.Fatal("the request to update our key is lost")
		}
		c.Close()
	}
	check(bytes.Clone(stream))
	for i := range stream {
		if i > 900 && i < len(stream)-900 && i%97 != 0 {
			continue // within the long record
		}
		s := bytes.Clone(stream)
		check(s[:i], s[i:])
	}
	for _, size := range []int{1, 2, 3, 5, 7, 21, 22, 23, 4095, 4096, 4097, 18 << 10} {
		var chunks [][]byte
		for s := bytes.Clone(stream); len(s) > 0; {
			n := min(size, len(s))
			chunks = append(chunks, s[:n:n])
			s = s[n:]
		}
		check(chunks...)
	}
}

// TestASocketBringsAStreamInAnyPieces is the same through the poller.
func TestASocketBringsAStreamInAnyPieces(t *testing.T) {
	for _, size := range []int{1, 13, 1000} {
		c, f := forge(t, true)
		stream, want := everything(f)
		done := make(chan error, 1)
		go func() {
			for len(stream) > 0 {
				n := min(size, len(stream))
				if _, err := f.socket.Write(stream[:n]); err != nil {
					done <- err
					return
				}
				stream = stream[n:]
			}
			done <- nil
		}()
		if got, err := io.ReadAll(c); string(got) != want || err != nil {
			t.Errorf("pieces of %d: got %d bytes, %v; want %d", size, len(got), err, len(want))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
