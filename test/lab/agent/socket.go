// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a socket made by hand, so that a test chooses every flag and
// option; package net would choose MPTCP, SO_REUSEADDR and blocking for it.
type socket struct {
	file   *os.File
	raw    syscall.RawConn
	family int
	stream bool
}

func openSocket(spec Socket, peer netip.AddrPort) (*socket, error) {
	family, kind, err := spec.family(peer)
	if err != nil {
		return nil, err
	}
	proto := 0
	if spec.MPTCP {
		proto = unix.IPPROTO_MPTCP
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := prepare(fd, family, spec); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return wrap(fd, family, kind)
}

func wrap(fd, family, kind int) (*socket, error) {
	s := &socket{file: os.NewFile(uintptr(fd), "socket"), family: family, stream: kind == unix.SOCK_STREAM}
	var err error
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

func (spec Socket) family(peer netip.AddrPort) (family, kind int, err error) {
	kind = unix.SOCK_STREAM
	if strings.HasPrefix(spec.Network, "udp") {
		kind = unix.SOCK_DGRAM
	}
	addr := peer.Addr()
	if !addr.IsValid() {
		addr = spec.Bind.Addr()
	}
	switch spec.Network {
	case "tcp4", "udp4":
		return unix.AF_INET, kind, nil
	case "tcp6", "udp6":
		return unix.AF_INET6, kind, nil
	case "tcp", "udp":
		if addr.Is4() {
			return unix.AF_INET, kind, nil
		}
		return unix.AF_INET6, kind, nil
	}
	return 0, 0, fmt.Errorf("unknown network %q", spec.Network)
}

func prepare(fd, family int, spec Socket) error {
	for _, o := range spec.Options {
		if err := unix.SetsockoptInt(fd, o.Level, o.Name, o.Value); err != nil {
			return fmt.Errorf("setsockopt(%d, %d, %d): %w", o.Level, o.Name, o.Value, err)
		}
	}
	if spec.Device != "" {
		if err := unix.BindToDevice(fd, spec.Device); err != nil {
			return fmt.Errorf("SO_BINDTODEVICE %s: %w", spec.Device, err)
		}
	}
	if !spec.Bind.IsValid() {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, sockaddr(family, spec.Bind)); err != nil {
		return fmt.Errorf("bind %v: %w", spec.Bind, err)
	}
	return nil
}

func (s *socket) connect(ctx context.Context, c Connect) error {
	to := sockaddr(s.family, c.To)
	if c.Blocking {
		return s.connectBlocking(to)
	}
	sent, err := 0, error(nil)
	if cerr := s.raw.Control(func(fd uintptr) {
		if len(c.FastOpen) > 0 {
			sent, err = unix.SendmsgN(int(fd), c.FastOpen, nil, to, unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL)
		} else {
			err = unix.Connect(int(fd), to)
		}
	}); cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.EINPROGRESS) {
		err = s.established(ctx)
	}
	if err != nil || sent >= len(c.FastOpen) {
		return err
	}
	// Without a cookie the kernel sends a bare SYN and queues nothing.
	_, err = s.file.Write(c.FastOpen[max(sent, 0):])
	return err
}

// established waits until a connect in progress has an outcome.
func (s *socket) established(ctx context.Context) error {
	stop := s.until(ctx, s.file.SetWriteDeadline)
	defer stop()
	var outcome error
	err := s.raw.Write(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(poll, 0); n == 0 {
			return false
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			outcome = err
		case code != 0:
			outcome = syscall.Errno(code)
		}
		return true
	})
	return errors.Join(err, outcome)
}

func (s *socket) connectBlocking(to unix.Sockaddr) error {
	var err error
	if cerr := s.raw.Control(func(fd uintptr) {
		if err = unix.SetNonblock(int(fd), false); err != nil {
			return
		}
		err = unix.Connect(int(fd), to)
		if nerr := unix.SetNonblock(int(fd), true); err == nil {
			err = nerr
		}
	}); cerr != nil {
		return cerr
	}
	return err
}

func (s *socket) listen(backlog int) error {
	var err error
	if cerr := s.raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), backlog) }); cerr != nil {
		return cerr
	}
	return err
}

func (s *socket) accept(ctx context.Context) (*socket, error) {
	stop := s.until(ctx, s.file.SetReadDeadline)
	defer stop()
	var nfd int
	var err error
	rerr := s.raw.Read(func(fd uintptr) bool {
		nfd, _, err = unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return err != unix.EAGAIN && err != unix.ECONNABORTED
	})
	if rerr != nil {
		return nil, rerr
	}
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return wrap(nfd, s.family, unix.SOCK_STREAM)
}

// until applies ctx to one direction of the socket, until stop is called.
func (s *socket) until(ctx context.Context, set func(time.Time) error) (stop func() bool) {
	deadline, _ := ctx.Deadline()
	_ = set(deadline)
	return context.AfterFunc(ctx, func() { _ = set(time.Unix(1, 0)) })
}

func (s *socket) names() (n Names) {
	_ = s.raw.Control(func(fd uintptr) {
		if sa, err := unix.Getsockname(int(fd)); err == nil {
			n.Local = addrPort(sa)
		}
		if sa, err := unix.Getpeername(int(fd)); err == nil {
			n.Peer = addrPort(sa)
		}
	})
	return n
}

func (s *socket) closeWrite() error {
	var err error
	if cerr := s.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); cerr != nil {
		return cerr
	}
	return err
}

// reset closes with RST instead of FIN.
func (s *socket) reset() error {
	_ = s.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	return s.file.Close()
}

func sockaddr(family int, a netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().Unmap().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// addrPort keeps a v4-mapped address mapped: it is what the program sees.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
