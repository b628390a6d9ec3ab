// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// acceptor accepts from a listener past whatever is wrong for a while.
type acceptor struct {
	ln      *net.TCPListener
	refused func(src netip.AddrPort, err error)
	spare   spare
	backoff time.Duration
}

const maxBackoff = time.Second

// accept returns the next connection. It fails only once the listener is
// closed. When descriptors run out it refuses connections, which would else
// hang until their clients give up.
func (a *acceptor) accept(ctx context.Context) (*net.TCPConn, error) {
	for {
		a.spare.take()
		conn, err := a.ln.AcceptTCP()
		if short(err) && a.spare.close() {
			conn, err = a.acceptOnSpare(err)
		}
		switch {
		case conn != nil && isLast(conn):
			reset(conn) // of which nothing was read
			a.refused(socket.AddrPort(conn.RemoteAddr()), errScarce)
			continue
		case conn != nil:
			a.backoff = 0
			return conn, nil
		case err == nil:
			continue
		case errors.Is(err, net.ErrClosed):
			return nil, err
		}
		// A network error of a connection that is gone already, or descriptors
		// ran out and there is none to spare: do not spin.
		a.backoff = min(max(5*time.Millisecond, 2*a.backoff), maxBackoff)
		select {
		case <-time.After(a.backoff):
		case <-ctx.Done():
		}
	}
}

// acceptOnSpare accepts one connection into the descriptor that the spare just
// freed, if one comes soon. If a new spare can be opened, the connection is
// served; otherwise it is reset. accept(2) fails for want of a descriptor before
// it looks whether anybody is waiting.
func (a *acceptor) acceptOnSpare(why error) (*net.TCPConn, error) {
	a.ln.SetDeadline(time.Now().Add(maxBackoff))
	conn, err := a.ln.AcceptTCP()
	a.ln.SetDeadline(time.Time{})
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return nil, err
	}
	if a.spare.take() {
		return conn, nil
	}
	reset(conn) // of which nothing was read
	a.refused(socket.AddrPort(conn.RemoteAddr()), why)
	return nil, nil
}

// The last descriptors are not for apps' connections: these may use up their
// own share, but tunnels, which carry many, must find room, and so must calls to
// the CA and the plugin's requests.
const (
	reserveShare = 16   // one in so many of what this process may have
	reserveMost  = 1024 // of them
)

var errScarce = fmt.Errorf("%w: the last descriptors are not for connections of apps", syscall.EMFILE)

// isLast reports that a new connection of an app has one of the last
// descriptors. The kernel gives the lowest number that is free.
func isLast(conn *net.TCPConn) (last bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) { last = isReserved(uint64(fd)) })
	return last
}

func isReserved(fd uint64) bool {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return false
	}
	return fd >= limit.Cur-reserved(limit.Cur)
}

func reserved(limit uint64) uint64 { return min(limit/reserveShare, reserveMost) }

// scarce reports that the next descriptor would be one of the last.
func scarce() bool {
	next, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return true
	}
	unix.Close(next)
	return isReserved(uint64(next))
}

// spare is a descriptor held back for the moment when there are no others.
type spare struct{ file *os.File }

// take reports whether there is one now.
func (s *spare) take() bool {
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull)
	}
	return s.file != nil
}

// close reports whether there was one.
func (s *spare) close() bool {
	if s.file == nil {
		return false
	}
	s.file.Close()
	s.file = nil
	return true
}
