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
	for {
		got, err := copyOnce(dst, from, n)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case got < copySize:
			continue
		}
		p, err := newPipe()
		if err != nil {
			continue // out of descriptors: copying needs none
		}
		defer p.close()
		return p.splice(to, from, n)
	}
}

// copyOnce waits until there is something to read, and passes it on.
func copyOnce(dst *net.TCPConn, from syscall.RawConn, n *atomic.Uint64) (int, error) {
	var buf *[copySize]byte
	var got int
	var failed error
	err := from.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[copySize]byte)
		got, failed = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), buf[:]) })
		if failed == unix.EAGAIN {
			buffers.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	if buf != nil {
		defer buffers.Put(buf)
	}
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case got == 0:
		return 0, io.EOF
	}
	written, err := dst.Write(buf[:got])
	n.Add(uint64(written))
	return got, err
}

// pipe is where spliced bytes are between two sockets.
type pipe struct{ r, w int }

func newPipe() (pipe, error) {
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

// splice moves bytes until from ends, which is nil, or either side breaks.
func (p pipe) splice(to, from syscall.RawConn, n *atomic.Uint64) error {
	for {
		// The pipe is empty here, so that EAGAIN speaks of the socket.
		held, err := splicing(from.Read, func(fd int) (int, error) { return move(fd, p.w, spliceSize) })
		if err != nil || held == 0 {
			return err
		}
		for held > 0 {
			// Only this writes to the socket and the pipe is not empty, so
			// that EAGAIN speaks of the socket again.
			moved, err := splicing(to.Write, func(fd int) (int, error) { return move(p.r, fd, held) })
			if err != nil {
				return err
			}
			if moved == 0 {
				return io.ErrUnexpectedEOF
			}
			held -= moved
			n.Add(uint64(moved))
		}
	}
}

// splicing calls f with a socket's descriptor, as often as it is ready, until
// the answer is not EAGAIN.
func splicing(ready func(func(uintptr) bool) error, f func(fd int) (int, error)) (n int, err error) {
	closed := ready(func(fd uintptr) bool {
		n, err = f(int(fd))
		return err != unix.EAGAIN
	})
	if closed != nil {
		return 0, closed
	}
	return n, err
}

func move(from, to, limit int) (int, error) {
	return ignoringEINTR(func() (int, error) {
		n, err := unix.Splice(from, nil, to, nil, limit, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		return int(n), err
	})
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
