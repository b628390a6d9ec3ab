// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// UnsentOfApp is how many bytes the kernel takes for an app, or for a peer outside
// the mesh, before it sends some. Without a limit it takes as many as
// net.ipv4.tcp_wmem allows, 4 MB and more, for each connection whose other end reads
// no more: memory that all pods of the node share, and that nobody here counts.
//
// What is sent and not acknowledged does not count, so a long path is filled as before,
// up to the congestion window (net/ipv4/tcp.c, tcp_stream_memory_free; Linux 3.12).
const UnsentOfApp = 128 << 10

// LimitUnsent has the kernel take no more for a connection while it holds n bytes that
// it has not sent: a write gets EAGAIN then, and the poller reports room at half of
// that. One write may exceed n by a buffer of the kernel's, 64 KiB.
func LimitUnsent(raw syscall.RawConn, n int) {
	raw.Control(func(fd uintptr) { SetOption(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n) })
}
