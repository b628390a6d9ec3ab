// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// keptSegments is for how many segments of one read a stream keeps room.
const keptSegments = 64

// deliver hands what one read brought to the app. The tunnel's reader calls it
// and must not wait: what the app's socket does not take at once is queued.
// The peer's window bounds the queue.
func (s *Stream) deliver(segments [][]byte, overhead int, end bool) {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return
	}
	var err error
	written, queued := 0, 0
	if s.app != nil && s.waiting.size == 0 {
		written, segments, err = s.writeNow(segments)
	}
	if err == nil {
		for _, p := range segments {
			s.waiting.append(p)
			queued += len(p)
		}
	}
	s.received += uint64(written)
	s.ended = s.ended || end
	s.drainIfNeeded()
	fin := s.finish()
	s.mu.Unlock()

	s.c.granted(s, written+overhead, queued)
	switch {
	case err != nil:
		s.appFailed(err)
	case fin:
		s.tell()
	}
}

// attach gives the stream its app, which gets what came before; false if the
// stream is over.
func (s *Stream) attach(app *net.TCPConn, raw syscall.RawConn) bool {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return false
	}
	s.app, s.raw, s.writeFn = app, raw, s.writeSome
	written := 0
	var err error
	for s.waiting.size > 0 && err == nil {
		var n int
		n, _, err = s.writeNow([][]byte{s.waiting.front()})
		if n == 0 {
			break
		}
		s.waiting.discard(n)
		written += n
	}
	s.received += uint64(written)
	s.drainIfNeeded()
	fin := s.finish()
	s.mu.Unlock()
	s.c.granted(s, written, -written)
	switch {
	case err != nil:
		s.appFailed(err)
	case fin:
		s.tell()
	}
	return true
}

// drainIfNeeded starts the goroutine that waits for a slow app; s.mu is held.
func (s *Stream) drainIfNeeded() {
	if s.waiting.size > 0 && s.app != nil && !s.draining {
		s.draining = true
		go s.drain()
	}
}

// drain writes what is queued to the app, as fast as it reads.
func (s *Stream) drain() {
	for {
		s.mu.Lock()
		p := s.waiting.front()
		if s.dead || p == nil {
			s.draining = false
			left := 0
			if s.dead {
				left = s.waiting.free()
			}
			fin := s.finish()
			s.mu.Unlock()
			s.c.granted(s, 0, -left)
			if fin {
				s.tell()
			}
			return
		}
		s.mu.Unlock()

		n, err := s.writeWaiting(p)

		s.mu.Lock()
		s.waiting.discard(n)
		s.received += uint64(n)
		s.mu.Unlock()
		s.c.granted(s, n, -n)
		if err != nil {
			s.appFailed(err) // after which the stream is dead
		}
	}
}

// writeWaiting is writeNow for drain, which is alone with the socket and waits
// until it has room for some of p.
func (s *Stream) writeWaiting(p []byte) (n int, err error) {
	werr := s.raw.Write(func(fd uintptr) bool {
		n, err = socket.Write(fd, p)
		return err != syscall.EAGAIN
	})
	if werr != nil {
		return 0, werr
	}
	return n, err
}

// finish reports that the app has all that the peer sent and must now be told
// that no more comes; s.mu is held. It does so once.
func (s *Stream) finish() bool {
	if !s.ended || s.dead || s.draining || s.app == nil || s.waiting.size > 0 {
		return false
	}
	s.ended = false
	return true
}

// tell passes the peer's END_STREAM on to the app, as a FIN.
func (s *Stream) tell() {
	c := s.c
	c.mu.Lock()
	s.telling = true
	c.mu.Unlock()
	if err := s.app.CloseWrite(); err != nil {
		s.appFailed(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.told = true
	if s.endSent {
		c.end(s, nil)
	}
}

// appFailed ends the stream because its app broke the connection.
func (s *Stream) appFailed(err error) {
	s.resetWith(codeCancel, fmt.Errorf("%w: app: %v", ErrReset, unwrapOp(err)))
}

// unwrapOp drops the addresses that net puts before an error: the access record has them.
func unwrapOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// writeNow writes to the app's socket what it takes without waiting and
// returns the rest; s.mu is held.
func (s *Stream) writeNow(segments [][]byte) (int, [][]byte, error) {
	if len(segments) == 0 {
		return 0, nil, nil
	}
	s.vector, s.wrote, s.writeErr = segments, 0, nil
	err := s.raw.Write(s.writeFn)
	if err == nil {
		err = s.writeErr
	}
	rest := s.vector
	s.vector = nil
	return s.wrote, rest, err
}

// writeSome writes vector until the socket is full. It always returns true, or
// RawConn.Write would wait for room.
func (s *Stream) writeSome(fd uintptr) bool {
	for len(s.vector) > 0 {
		n, err := socket.Writev(fd, s.vector)
		switch {
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			s.writeErr = err
			return true
		}
		s.wrote += n
		s.vector = skip(s.vector, n)
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

// sever cuts the app off from a stream that did not end in order, with a TCP
// reset. No lock is held. To close the socket would wait for who leads in serve,
// perhaps for long; and the reader, which calls sever too, must not.
func (s *Stream) sever() {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return
	}
	s.dead = true
	left := 0
	if !s.draining { // else drain does it, which is using the bytes
		left = s.waiting.free()
	}
	app, raw := s.app, s.raw
	s.mu.Unlock()
	s.c.granted(s, 0, -left)
	if app != nil {
		raw.Control(func(fd uintptr) { socket.Reset(fd) })
		app.SetDeadline(time.Unix(1, 0)) // Carry closes it
	}
}
