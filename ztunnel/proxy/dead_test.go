// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// deaths are what a pod's proxies called dead.
type deaths struct {
	mu   sync.Mutex
	dsts []netip.AddrPort
}

func (d *deaths) of(b *bench) *deaths {
	b.Dead = func(dst netip.AddrPort) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.dsts = append(d.dsts, dst)
	}
	return d
}

func (d *deaths) want(t *testing.T, want ...netip.AddrPort) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.dsts, want) {
		t.Errorf("called dead: %v, want %v", d.dsts, want)
	}
}

// closedPort returns a port where nobody listens, nor will: it is taken until the test ends.
func closedPort(t *testing.T, addr netip.Addr) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.As4()}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(at.(*unix.SockaddrInet4).Port)
}

func TestADestinationWithoutAListenerIsToldBeforeTheAppIsReset(t *testing.T) {
	outside := netip.MustParseAddrPort("192.0.2.1:80")
	for _, row := range []struct {
		name string
		dst  netip.AddrPort
		err  error // of the dial
		dead bool
	}{
		{"refused", outside, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		{"no route to the host", outside, syscall.EHOSTUNREACH, true},
		{"no route to the network", outside, syscall.ENETUNREACH, true},
		{"no answer", outside, os.ErrDeadlineExceeded, true},
		{"a service with nobody ready", emptyVIP, nil, true},
		{"a port that the service does not have", netip.AddrPortFrom(emptyVIP.Addr(), 1), nil, true},
		{"the only pod of a service", legacyVIP, syscall.ECONNREFUSED, true},
		{"one of two pods of a service", webVIP, syscall.ECONNREFUSED, false},
		{"out of descriptors", outside, syscall.EMFILE, false},
		{"out of ports", outside, syscall.EADDRNOTAVAIL, false},
		{"refused by a policy of ours", outside, &policy.Denied{Reason: "so"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			mesh := meshOf(1, 1)
			mesh.Services = append(mesh.Services,
				service("two", webVIP, netip.AddrPortFrom(legacyAddr, 1), netip.AddrPortFrom(legacyAddr, 2)))
			b := newBench(t, registryOf(mesh), "web")
			b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return row.dst, nil }
			b.Direct = func(context.Context, netip.Addr, netip.AddrPort) (*net.TCPConn, error) { return nil, row.err }
			told := new(deaths).of(b)
			expectRefused(t, webAddr, b.serve(webAddr, Outbound{b.Pod}.Serve))
			if row.dead {
				told.want(t, row.dst)
			} else {
				told.want(t)
			}
		})
	}
}

func TestWhatATunnelDoesNotReachIsDeadAndWhatItRefusesIsNot(t *testing.T) {
	lock := policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "lock"}}}}
	for _, row := range []struct {
		name   string
		change plot // nil: the app is closed
		dead   bool
	}{
		{"the app is closed", nil, true},
		{"nobody takes the tunnel", func(s *story) { s.leadTunnelsTo(netip.AddrPortFrom(dbAddr, closedPort(s.t, dbAddr))) }, true},
		{"a policy refuses", func(s *story) { s.db.policy.Replace(lock) }, false},
		{"another identity is there", func(s *story) { s.dbID = sa("legacy") }, false},
		{"no certificate of ours", func(s *story) { s.noSVID.Store(true) }, false},
		{"the peer is out of descriptors", func(s *story) {
			s.db.Inner = func(context.Context, netip.AddrPort, netip.AddrPort) (*net.TCPConn, error) {
				return nil, syscall.EMFILE
			}
		}, false},
	} {
		for _, where := range []string{"on another node", "on this node"} {
			t.Run(row.name+" "+where, func(t *testing.T) {
				port := closedPort(t, dbAddr)
				told := new(deaths)
				change := func(s *story) {
					told.of(s.web)
					if row.change != nil {
						s.app = netip.AddrPortFrom(dbAddr, echo(t, dbAddr))
						s.registry.Replace(meshOf(s.app.Port(), 1))
						row.change(s)
					}
				}
				var s *story
				if where == "on this node" {
					s = tellNear(t, port, change).story
				} else {
					s = tell(t, port, change)
				}
				if row.name == "nobody takes the tunnel" {
					row.change(s) // its listener was opened meanwhile
				}
				expectRefused(t, webAddr, s.to)
				if row.dead {
					told.want(t, dbVIP)
				} else {
					told.want(t)
				}
			})
		}
	}
}

func TestDeadIsOnlyWhatANextConnectWouldMeetAgain(t *testing.T) {
	for _, row := range []struct {
		err  error
		dead bool
	}{
		{fmt.Errorf("%w: tunnel: %w", hbone.ErrDial, syscall.ECONNREFUSED), true},
		{fmt.Errorf("%w: tunnel: %w", hbone.ErrDial, context.DeadlineExceeded), true},
		{&hbone.NoAnswerError{Why: context.DeadlineExceeded}, true},
		{&hbone.StatusError{Code: 503}, true},
		{&hbone.StatusError{Code: 429}, false},
		{&hbone.StatusError{Code: 401}, false},
		{fmt.Errorf("%w: handshake: %w", hbone.ErrTLS, os.ErrDeadlineExceeded), false},
		{fmt.Errorf("%w: %w", hbone.ErrIdentity, context.DeadlineExceeded), false},
		{fmt.Errorf("%w: %w", workload.ErrUnknownPeer, errors.New("10.0.0.1:80")), false},
		{workload.ErrSource, false}, // another client may
		{fail(Reset, syscall.ETIMEDOUT), false},
		{errors.New("whatever"), false},
	} {
		if got := isDead(row.err); got != row.dead {
			t.Errorf("%v: dead %v", row.err, got)
		}
	}
}
