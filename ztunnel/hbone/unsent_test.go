// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// An app that stops reading after it read fast, so that its window is wide, leaves
// little in the kernel: what is for it waits in our queues, which Memory counts.
func TestKernelHoldsLittleForAnAppThatReadsNoMore(t *testing.T) {
	near, far := socketPair(t)
	far.SetReadBuffer(1 << 20) // of an app that once read fast it may grow to 32 MB: to all there is
	l := newLink(t, func(s *Stream) {
		s.Accept()
		carryAll(s, near)
	})
	a := l.open()
	go a.Write(make([]byte, 32<<20))
	(&app{TCPConn: far, t: t}).take(8 << 20)

	const most = socket.UnsentOfApp + 64<<10
	unsent, held := 0, 0
	defer func() { t.Logf("the kernel holds %d bytes that it has not sent, the tunnel %d", unsent, held) }()
	c := l.ln.all()[0]
	waitUntil(t, func() bool { // nothing gets on any more, and the kernel holds little
		before := held + unsent
		time.Sleep(100 * time.Millisecond)
		held, unsent = c.heldBytes(), unsentBytes(near)
		return held > 0 && unsent <= most && held+unsent == before
	})
	far.Close()
	l.pool.Close()
}

// unsentBytes is what the kernel took for a connection and has not sent, SIOCOUTQNSD.
func unsentBytes(conn *net.TCPConn) (n int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
	return n
}
