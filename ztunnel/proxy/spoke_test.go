// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

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
		t.Error(err)
		return false
	}
	defer unix.Close(fd)
	if err := socket.SaveAck(ctx, uintptr(fd)); err != nil {
		t.Error(err)
	}
	quick, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUICKACK)
	if err != nil {
		t.Error(err)
	}
	return quick == 0
}

// A client that speaks and breaks off before its app was reached leaves no connection
// that the app never hears of: what steers the leg's SYN to it would stay in the kernel.
func TestAnAppHearsOfAClientThatBreaksOffBeforeItsBytesAreWritten(t *testing.T) {
	app := listen(t, dbAddr)
	defer app.Close()
	reached, gone := make(chan struct{}), make(chan struct{})
	s := tell(t, socket.AddrPort(app.Addr()).Port(), func(s *story) {
		s.db.Inner = func(ctx context.Context, _, to netip.AddrPort) (*net.TCPConn, error) {
			dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
				if failed := c.Control(func(fd uintptr) { err = socket.SaveAck(socket.WritesAtOnce(ctx), fd) }); failed != nil {
					return failed
				}
				return err
			}}
			conn, err := dialer.DialContext(ctx, "tcp", to.String())
			close(reached)
			<-gone
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		}
	})
	key := hbone.Key{Dst: sa("db"), Addr: netip.AddrPortFrom(dbAddr, workload.HBONEPort)}
	client, near := tcpPair(t)
	send(t, client, "hello")
	ctx, giveUp := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		_, err := s.web.Tunnels.OpenFor(ctx, key, hbone.Target{Authority: s.app}, near)
		given <- err
	}()
	<-reached
	giveUp()
	if err := <-given; err == nil {
		t.Error("a stream that nobody answered is open")
	}
	eventually(t, "the pod knows that the client gave up", func() bool { return s.ln.Stats().Streams == 0 })
	close(gone)
	app.SetDeadline(time.Now().Add(patience))
	conn, err := app.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
