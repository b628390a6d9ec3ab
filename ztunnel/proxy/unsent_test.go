// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// An end that stops reading after it read fast leaves little in the kernel, copied or
// spliced: what else is for it waits in its peer.
func TestKernelHoldsLittleForAnEndThatReadsNoMore(t *testing.T) {
	r := startRelay(t)
	go r.client.Write(make([]byte, 64<<20))
	if _, err := io.CopyN(io.Discard, r.server, 16<<20); err != nil {
		t.Fatal(err)
	}
	before, unsent := uint64(0), 0
	eventually(t, "nothing gets on", func() bool {
		before = r.bytes.sent.Load()
		time.Sleep(100 * time.Millisecond)
		unsent = unsentBytes(r.legs[1])
		return unsent > 0 && r.bytes.sent.Load() == before
	})
	if most := socket.UnsentOfApp + 64<<10; unsent > most {
		t.Errorf("the kernel holds %d bytes that it has not sent, want %d at most", unsent, most)
	}
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
