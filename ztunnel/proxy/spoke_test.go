// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Only an app that is written to at once may be reached without an acknowledgement by
// itself: another would hear of its client 200 ms late.
func TestAnAppIsReachedByAnAcknowledgementUnlessItsClientHasSpoken(t *testing.T) {
	saved := make(chan bool, 1)
	s := tell(t, echo(t, dbAddr), func(s *story) {
		inner := s.db.Inner
		s.db.Inner = func(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
			saved <- savesAck(t, ctx)
			return inner(ctx, from, to)
		}
	})
	key := hbone.Key{Dst: sa("db"), Addr: netip.AddrPortFrom(dbAddr, workload.HBONEPort)}
	reach := func(said string) bool {
		client, app := tcpPair(t)
		send(t, client, said)
		stream, err := s.web.Tunnels.OpenFor(t.Context(), key, hbone.Target{Authority: s.app}, app)
		if err != nil {
			t.Fatal(err)
		}
		<-s.db.dialled
		stream.Reset()
		return <-saved
	}
	for range 10 {
		if reach("") {
			t.Fatal("a silent client's app is not told of it")
		}
	}
	eventually(t, "the bytes of the client acknowledge its app", func() bool { return reach("hello") })
}

// savesAck reports what socket.SaveAck does for a dial.
func savesAck(t *testing.T, ctx context.Context) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := socket.SaveAck(ctx, uintptr(fd)); err != nil {
		t.Fatal(err)
	}
	quick, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUICKACK)
	if err != nil {
		t.Fatal(err)
	}
	return quick == 0
}
