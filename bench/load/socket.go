// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// patience is how long a socket waits: a proxy that is stuck costs no run.
const patience = 10

// socket is a blocking TCP socket.
type socket int

func newSocket() (socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	return socket(fd), err
}

// prepare sets what every connection of the load has.
func (s socket) prepare() error {
	if err := unix.SetsockoptInt(int(s), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	wait := unix.Timeval{Sec: patience}
	if err := unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	return unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
}

func connect(to netip.AddrPort) (socket, error) {
	s, err := newSocket()
	if err != nil {
		return -1, err
	}
	if err = s.prepare(); err == nil {
		// With a timeout, a signal ends connect(): Go's runtime sends some. The
		// next call waits for the same handshake.
		for again := true; again; again = err == unix.EINTR {
			err = unix.Connect(int(s), &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		}
	}
	if err != nil {
		s.close()
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return s, nil
}

func listen(port uint16) (socket, error) {
	s, err := newSocket()
	if err != nil {
		return -1, err
	}
	if err = unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(int(s), &unix.SockaddrInet4{Port: int(port)})
	}
	if err == nil {
		err = unix.Listen(int(s), 4096)
	}
	if err != nil {
		s.close()
		return -1, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return s, nil
}

func (s socket) accept() (socket, error) {
	for {
		fd, _, err := unix.Accept4(int(s), unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		return socket(fd), err
	}
}

// Read is io.Reader's.
func (s socket) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(s), p)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read: %w", err)
		}
		if n == 0 && len(p) > 0 {
			return 0, io.EOF
		}
		return n, nil
	}
}

// Write is io.Writer's.
func (s socket) Write(p []byte) (int, error) {
	for done := 0; ; {
		n, err := unix.Write(int(s), p[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("write: %w", err)
		}
		if done += n; done == len(p) {
			return done, nil
		}
	}
}

func (s socket) closeWrite() error { return unix.Shutdown(int(s), unix.SHUT_WR) }

func (s socket) close() { unix.Close(int(s)) }
