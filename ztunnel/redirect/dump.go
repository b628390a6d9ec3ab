// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// asker asks the kernel for tables of the netns that it was made in. It reads them
// piece by piece, so that nobody has to hold what a pod has filled them with, and
// it gives up in time. The netlink package reads a table to its end, filters by
// itself and has no deadline.
type asker struct {
	fd          int
	until       time.Time
	seq         uint32
	interrupted bool // a table changed while it was read
}

// newAsker asks rtnetlink. It makes the kernel check requests strictly, since Linux
// 4.20: otherwise it ignores the filters in them.
func newAsker(until time.Time) (*asker, error) { return askerOf(unix.NETLINK_ROUTE, until) }

func askerOf(protocol int, until time.Time) (*asker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket(AF_NETLINK)", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt(NETLINK_GET_STRICT_CHK)", err)
	}
	return &asker{fd: fd, until: until}, nil
}

func (a *asker) close() { unix.Close(a.fd) }

// dump calls f with the entries of a table that match the request, each without
// netlink's own header. An error of f ends it, and the asker's use.
func (a *asker) dump(kind uint16, request []byte, f func(entry []byte) error) error {
	if err := a.send(kind, request); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		left := time.Until(a.until)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		if err := unix.SetsockoptTimeval(a.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, new(unix.NsecToTimeval(left.Nanoseconds()))); err != nil {
			return os.NewSyscallError("setsockopt(SO_RCVTIMEO)", err)
		}
		n, _, err := unix.Recvfrom(a.fd, buf, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom(AF_NETLINK)", err)
		}
		if ended, err := a.each(buf[:n], f); ended || err != nil {
			return err
		}
	}
}

func (a *asker) send(kind uint16, request []byte) error {
	a.seq++
	message := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(request))
	message = append(message, request...)
	order := binary.NativeEndian // of struct nlmsghdr
	order.PutUint32(message[0:], uint32(len(message)))
	order.PutUint16(message[4:], kind)
	order.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	order.PutUint32(message[8:], a.seq)
	return os.NewSyscallError("sendto(AF_NETLINK)", unix.Sendto(a.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// each calls f with the entries of a datagram, and says whether it was the last.
func (a *asker) each(datagram []byte, f func(entry []byte) error) (ended bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		if m.Header.Seq != a.seq {
			continue
		}
		a.interrupted = a.interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
		switch m.Header.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return true, nil
			}
			if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				return true, unix.Errno(errno)
			}
			return true, nil
		}
		if err := f(m.Data); err != nil {
			return true, err
		}
	}
	return false, nil
}

// attributes yields what follows the fixed part of an entry, by kind.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// attribute32 appends one of a number to a request.
func attribute32(b []byte, kind uint16, value uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return binary.NativeEndian.AppendUint32(b, value)
}

// number reads one.
func number(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b))
}

// atMost counts entries, and is an error once there are more than limit.
func atMost(limit int, what string) func() error {
	n := 0
	return func() error {
		if n++; n > limit {
			return fmt.Errorf("more than %d %s", limit, what)
		}
		return nil
	}
}
