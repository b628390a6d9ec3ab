// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// chunk is what is read at once. A user of io.Copy has 32 KB.
const chunk = 32 << 10

// Relay hands each connection of ln on to the address, as plain TCP. It copies
// through a buffer, without splice(2), which no tunnel can use.
func Relay(ln net.Listener, to string) error {
	return accept(ln, func(app *net.TCPConn) {
		defer app.Close()
		conn, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer conn.Close()
		far := conn.(*net.TCPConn)
		var both sync.WaitGroup
		both.Go(func() { pass(far, app) })
		both.Go(func() { pass(app, far) })
		both.Wait()
	})
}

// pass copies one direction with its half-close.
func pass(dst, src *net.TCPConn) {
	if err := copyReady(dst, src); err != nil {
		dst.SetLinger(0) // the other side must see that it was no good end
		dst.Close()
		return
	}
	dst.CloseWrite()
}

// buffers are taken for what is there to read: an idle connection has none.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

func copyReady(dst, src *net.TCPConn) error {
	raw, err := src.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var buf *[256 << 10]byte
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[256 << 10]byte)
			n, rerr = unix.Read(int(fd), buf[:])
			if rerr == unix.EAGAIN || rerr == unix.EINTR {
				buffers.Put(buf)
				return false
			}
			return true
		})
		if err != nil {
			return err
		}
		if n > 0 {
			_, err = dst.Write(buf[:n])
		}
		buffers.Put(buf)
		if err := errors.Join(err, rerr); err != nil || n == 0 {
			return err
		}
	}
}

// copyPlain copies without splice.
func copyPlain(dst io.Writer, src io.Reader, size int) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, size))
}

func accept(ln net.Listener, handle func(*net.TCPConn)) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go handle(conn.(*net.TCPConn))
	}
}
