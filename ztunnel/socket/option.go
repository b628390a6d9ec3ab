// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetOption is setsockopt(2) of an int.
func SetOption(fd uintptr, level, option, value int) error {
	v := int32(value)
	_, _, errno := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

type writesAtOnce struct{}

// WritesAtOnce is a context for a dial whose caller has something to write as soon as it is
// connected. See SaveAck.
func WritesAtOnce(ctx context.Context) context.Context {
	return context.WithValue(ctx, writesAtOnce{}, true)
}

// SaveAck has the first data of a TCP connection acknowledge the peer's SYN, in place of a
// segment that does nothing else, if ctx is of WritesAtOnce. A connection on which nothing is
// written is complete for its peer only 200 ms later (Linux 5.15 to 6.18,
// tcp_rcv_synsent_state_process); one that is reset before never is. It is called before
// connect().
func SaveAck(ctx context.Context, fd uintptr) error {
	if ctx.Value(writesAtOnce{}) == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt(TCP_QUICKACK)", SetOption(fd, unix.SOL_TCP, unix.TCP_QUICKACK, 0))
}

// Abort closes a connection by a reset, of which its peer hears even if SaveAck saved an
// acknowledgement that no data brought: a peer that had only our SYN would forget it, and
// who waits for the connection to be complete there (the entry of package redirect's map
// inner) would wait in vain.
func Abort(conn *net.TCPConn) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = SetOption(fd, unix.SOL_TCP, unix.TCP_QUICKACK, 1) })
	}
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
