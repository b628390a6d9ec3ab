// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/buffer"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// copySize is what one buffered copy takes at most, and what is taken for bulk.
const copySize = 32 << 10

// buffers are lent for one read and write, so that idle connections hold none.
var buffers = buffer.NewPool(copySize)

// transfer moves bytes from src to dst until src ends, which is nil, or either
// breaks: if it is dst, the error is a deaf. It ends, too, by the read deadline of src, and
// may be called again then. It counts in n as it goes; (*net.TCPConn).ReadFrom would tell
// only at the end, and holds a pipe even while nothing moves.
//
// Small messages are copied. A read that fills its buffer shows bulk: from then
// on bytes are spliced, and never enter this process, until little comes again.
// Neither a buffer nor a pipe is held while there is nothing to move, and room only
// while the kernel has more to send than it may hold without.
func transfer(dst, src *net.TCPConn, n *atomic.Uint64, room *room) error {
	from, err := src.SyscallConn()
	if err != nil {
		return err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	m := &moving{from: from, to: to, n: n}
	m.readFn, m.writeFn, m.fillFn, m.drainFn = m.read, m.write, m.fill, m.drain
	for {
		bulk, err := m.copy()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case bulk:
			room.widen(dst)
			if more, err := m.splice(); !more {
				return err
			}
		default: // what came last was little, and bulk that pauses for a moment keeps its room
			room.narrow(dst)
		}
	}
}

// moving is one direction under way. The functions that it gives to RawConn
// are made once: they, or what they return by, would else be garbage with
// each message.
type moving struct {
	from, to syscall.RawConn
	n        *atomic.Uint64
	buf      *buffer.Buffer // while it holds bytes
	left     []byte         // of them, to write
	pipe     *pipe          // while it holds bytes
	held     int            // of them, to write

	got int // by the last of read, write, fill and drain
	err error

	readFn, writeFn, fillFn, drainFn func(fd uintptr) bool
}

// copy waits until there is something to read, and passes it on. A full buffer
// is bulk.
func (m *moving) copy() (bulk bool, err error) {
	if err := m.wait(m.from.Read, m.readFn); err != nil {
		return false, err
	}
	if m.got == 0 {
		return false, io.EOF
	}
	defer m.putBack()
	bulk = m.got == copySize
	for m.left = m.buf.Bytes[:m.got]; len(m.left) > 0; m.left = m.left[m.got:] {
		if err := m.wait(m.to.Write, m.writeFn); err != nil {
			return false, deaf{err}
		}
		m.n.Add(uint64(m.got))
	}
	return bulk, nil
}

// wait calls f as often as its socket is ready, until f has an answer.
func (m *moving) wait(ready func(func(uintptr) bool) error, f func(uintptr) bool) error {
	if err := ready(f); err != nil {
		return err // closed
	}
	return m.err
}

// read takes a buffer only if there is something to fill it.
func (m *moving) read(fd uintptr) bool {
	m.buf = buffers.Take(copySize)
	m.got, m.err = socket.ReadInline(fd, m.buf.Bytes)
	if m.err != nil || m.got == 0 {
		m.putBack()
	}
	return m.err != unix.EAGAIN
}

func (m *moving) write(fd uintptr) bool {
	m.got, m.err = socket.Write(fd, m.left)
	return m.err != unix.EAGAIN
}

func (m *moving) putBack() {
	m.buf.Release()
	m.buf, m.left = nil, nil
}

// splice moves bytes by a pipe until copy must go on, which it reports as more:
// little comes, or what splice(2) cannot move. It ends without an error where
// from does.
func (m *moving) splice() (more bool, err error) {
	for {
		if err := m.wait(m.from.Read, m.fillFn); err != nil {
			return errors.Is(err, errScarce) || errors.Is(err, errUrgent), err
		}
		if m.got == 0 {
			return false, nil
		}
		little := m.got < littleSize
		if err := m.drainAll(); err != nil || little {
			return err == nil, err
		}
	}
}

// littleSize is what is not worth a pipe.
const littleSize = 4 << 10

// drainAll empties the pipe, and gives it back. One that could not be emptied
// is not for others.
func (m *moving) drainAll() error {
	for m.held = m.got; m.held > 0; m.held -= m.got {
		err := m.wait(m.to.Write, m.drainFn)
		if err == nil && m.got == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			m.pipe.close()
			m.pipe = nil
			return deaf{err}
		}
		m.n.Add(uint64(m.got))
	}
	m.rest()
	return nil
}

func (m *moving) rest() {
	pipes.put(m.pipe)
	m.pipe = nil
}

// fill takes a pipe only if there is something to fill it. It finds it empty, so
// that EAGAIN speaks of the socket.
func (m *moving) fill(fd uintptr) bool {
	if m.pipe, m.err = pipes.get(); m.err != nil {
		return true
	}
	answered := m.move(int(fd), m.pipe.w, spliceSize)
	if !answered || m.err != nil || m.got == 0 {
		m.rest()
	}
	if m.got <= 0 && (m.err == nil || m.err == unix.EAGAIN) && socket.Holds(fd) {
		m.err = errUrgent
		return true
	}
	return answered
}

// errUrgent: the next byte of the socket was sent as urgent. splice(2) does not
// move it: it reports an empty socket, or, once the other side has finished,
// the end of data (Linux 6.18, tcp_read_sock). read(2) returns it.
var errUrgent = errors.New("splice: urgent data")

// drain finds bytes in the pipe, so that EAGAIN speaks of the socket again.
func (m *moving) drain(fd uintptr) bool { return m.move(m.pipe.r, int(fd), m.held) }

func (m *moving) move(from, to, limit int) (answered bool) {
	for {
		n, err := unix.Splice(from, nil, to, nil, limit, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			m.got, m.err = int(n), err
			return err != unix.EAGAIN
		}
	}
}
