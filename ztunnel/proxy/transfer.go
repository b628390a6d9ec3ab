// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	copySize   = 32 << 10  // of one buffered copy, and what is taken for bulk
	spliceSize = 256 << 10 // of the pipe, where the system allows it
)

// buffers are lent for one read and write, so that idle connections hold none.
var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// transfer moves bytes from src to dst until src ends, which is nil, or either
// breaks. It counts in n as it goes; (*net.TCPConn).ReadFrom would tell only at
// the end, and holds a pipe even while nothing moves.
//
// Small messages are copied. A read that fills its buffer shows bulk: from then
// on bytes are spliced, and never enter this process.
func transfer(dst, src *net.TCPConn, n *atomic.Uint64) error {
	from, err := src.SyscallConn()
	if err != nil {
		return err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	m := &moving{from: from, to: to, n: n}
	m.readFn, m.fillFn, m.drainFn = m.read, m.fill, m.drain
	for {
		bulk, err := m.copy(dst)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case bulk:
			if m.pipe, err = newPipe(); err != nil {
				continue // out of descriptors: copying needs none
			}
			defer m.pipe.close()
			return m.splice()
		}
	}
}

// moving is one direction under way. The functions that it gives to RawConn
// are made once: they, or what they return by, would else be garbage with
// each message.
type moving struct {
	from, to syscall.RawConn
	n        *atomic.Uint64
	buf      *[copySize]byte // while it holds bytes
	pipe     pipe
	held     int // bytes in the pipe

	got int // by the last of read, fill and drain
	err error

	readFn, fillFn, drainFn func(fd uintptr) bool
}

// copy waits until there is something to read, and passes it on. A full buffer
// is bulk.
func (m *moving) copy(dst *net.TCPConn) (bulk bool, err error) {
	if err := m.wait(m.from.Read, m.readFn); err != nil {
		return false, err
	}
	if m.got == 0 {
		return false, io.EOF
	}
	defer m.putBack()
	written, err := dst.Write(m.buf[:m.got])
	m.n.Add(uint64(written))
	return m.got == copySize, err
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
	m.buf = buffers.Get().(*[copySize]byte)
	for {
		if m.got, m.err = unix.Read(int(fd), m.buf[:]); m.err != unix.EINTR {
			break
		}
	}
	if m.err != nil || m.got == 0 {
		m.putBack()
	}
	return m.err != unix.EAGAIN
}

func (m *moving) putBack() {
	buffers.Put(m.buf)
	m.buf = nil
}

// splice moves bytes by the pipe until from ends, which is nil, or either side
// breaks.
func (m *moving) splice() error {
	for {
		if err := m.wait(m.from.Read, m.fillFn); err != nil || m.got == 0 {
			return err
		}
		for m.held = m.got; m.held > 0; m.held -= m.got {
			if err := m.wait(m.to.Write, m.drainFn); err != nil {
				return err
			}
			if m.got == 0 {
				return io.ErrUnexpectedEOF
			}
			m.n.Add(uint64(m.got))
		}
	}
}

// fill finds the pipe empty, so that EAGAIN speaks of the socket.
func (m *moving) fill(fd uintptr) bool { return m.move(int(fd), m.pipe.w, spliceSize) }

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

// pipe is where spliced bytes are between two sockets.
type pipe struct{ r, w int }

func newPipe() (pipe, error) {
	if scarce() {
		return pipe{}, errScarce
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, err
	}
	// Refused beyond the user's quota; the default size will do.
	unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, spliceSize)
	return pipe{fds[0], fds[1]}, nil
}

func (p pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}
