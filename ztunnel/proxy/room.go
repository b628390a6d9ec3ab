// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/quota"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// In bulk, an end of a relay that may hold only socket.UnsentOfApp unsent wakes us for
// each half of that, which costs up to 1.4 times the CPU for a byte. So it borrows
// room, as long as there is some: what all of them borrow together is bounded, and a
// pod has a share of it.
const (
	roomOfAll = 128 << 20 // what the kernel may hold for all ends in bulk
	roomMost  = 4 << 20   // for one of them: net.ipv4.tcp_wmem allows hardly more
	roomLeast = 2 * socket.UnsentOfApp
)

// room is what the kernel may hold unsent for one end of a relay. Only whoever
// moves bytes to that end uses it.
type room struct {
	from *quota.Part // nil: nothing is lent
	lent int64       // bytes; 0 while socket.UnsentOfApp is all
}

// widen borrows as much as there is, for bulk.
func (r *room) widen(conn *net.TCPConn) {
	if r.from == nil || r.lent > 0 {
		return
	}
	for n := int64(roomMost); n >= roomLeast; n /= 2 {
		if r.from.Take(n) {
			r.lent = n
			limitUnsent(conn, int(n))
			return
		}
	}
}

// narrow gives the room back, unless the kernel still uses it.
func (r *room) narrow(conn *net.TCPConn) {
	if r.lent > 0 && unsent(conn) <= socket.UnsentOfApp {
		limitUnsent(conn, socket.UnsentOfApp)
		r.end()
	}
}

// end gives the room back, whatever the kernel holds: the socket is closed now.
func (r *room) end() {
	if r.lent > 0 {
		r.from.Add(-r.lent)
		r.lent = 0
	}
}

func limitUnsent(conn *net.TCPConn, n int) {
	if raw, err := conn.SyscallConn(); err == nil {
		socket.LimitUnsent(raw, n)
	}
}

// unsent is what the kernel took for a connection and has not sent, SIOCOUTQNSD
// (Linux 2.6.39); 0 if the connection is closed.
func unsent(conn *net.TCPConn) (n int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
	return n
}
