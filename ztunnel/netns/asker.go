// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/binary"
	"errors"
	"iter"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Asker asks the kernel for tables of the netns that it was made in. It reads them
// piece by piece, so that nobody has to hold what a pod has filled them with, and
// it gives up in time. The netlink package reads a table to its end, filters by
// itself and has no deadline.
type Asker struct {
	fd          int
	until       time.Time
	seq         uint32
	interrupted bool // a table changed while it was read
}

// NewAsker opens a socket of a netlink protocol (unix.NETLINK_ROUTE) in the thread's
// netns: call it inside NS.Do, and Close it. Beyond until, Dump returns
// os.ErrDeadlineExceeded. The kernel checks requests strictly, since Linux 4.20:
// otherwise it ignores the filters in them.
func NewAsker(protocol int, until time.Time) (*Asker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket(AF_NETLINK)", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt(NETLINK_GET_STRICT_CHK)", err)
	}
	return &Asker{fd: fd, until: until}, nil
}

// Close closes the socket.
func (a *Asker) Close() { unix.Close(a.fd) }

// Steadily calls read, and again if a table changed while it was read: that may lack
// what was there all the time. If none of three calls found the tables at rest,
// steady is false, and the caller has what the last one read.
func (a *Asker) Steadily(read func() error) (steady bool, err error) {
	for range 3 {
		a.interrupted = false
		if err := read(); err != nil || !a.interrupted {
			return err == nil, err
		}
	}
	return false, nil
}

// datagrams are lent to Dump. All pods of a node are looked at every two seconds by some ten
// Dumps each: with a buffer for each of them, that was most of what an idle node allocated.
var datagrams = sync.Pool{New: func() any { return new([datagramSize]byte) }}

const datagramSize = 1 << 16 // the kernel says no more at once

// Dump calls f with the entries of a table that match the request, each without
// netlink's own header and valid until f returns. kind is that of the request, such as
// unix.RTM_GETLINK. An error of f ends it, and the Asker's use.
func (a *Asker) Dump(kind uint16, request []byte, f func(entry []byte) error) error {
	if err := a.send(kind, request); err != nil {
		return err
	}
	buf := datagrams.Get().(*[datagramSize]byte)
	defer datagrams.Put(buf)
	for {
		left := time.Until(a.until)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		if err := unix.SetsockoptTimeval(a.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, new(unix.NsecToTimeval(left.Nanoseconds()))); err != nil {
			return os.NewSyscallError("setsockopt(SO_RCVTIMEO)", err)
		}
		n, err := unix.Read(a.fd, buf[:])
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read(AF_NETLINK)", err)
		}
		if ended, err := a.each(buf[:n], f); ended || err != nil {
			return err
		}
	}
}

func (a *Asker) send(kind uint16, request []byte) error {
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
func (a *Asker) each(datagram []byte, f func(entry []byte) error) (ended bool, err error) {
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

// Attributes yields what follows the fixed part of an entry, by kind.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
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
