// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLegsHavePortsThatTheClientIsNotGiven(t *testing.T) {
	for _, tc := range []struct {
		client uint16
		want   func(port uint16) bool
	}{
		{40000, func(port uint16) bool { return port&1 == 1 && lowPorts.has(port) }},
		{40001, func(port uint16) bool { return port&1 == 0 && lowPorts.has(port) }},
		{0, func(port uint16) bool { return lowPorts.has(port) }},
		{800, func(port uint16) bool { return reserved.has(port) && port != 800 }},
		{1, func(port uint16) bool { return reserved.has(port) }},
	} {
		for range 1000 {
			for port := range innerPorts(tc.client) {
				if !tc.want(port) {
					t.Fatalf("the first port for a client at %d is %d", tc.client, port)
				}
				break
			}
		}
	}
	seen := make(map[uint16]bool)
	last := uint16(0)
	for port := range innerPorts(513) {
		seen[port], last = true, port
		if port == 513 || port == 0 {
			t.Errorf("port %d is tried for a client at 513", port)
		}
	}
	for port := uint16(1); port < 1024; port++ {
		if !seen[port] && port != 513 {
			t.Errorf("port %d is not tried for a client at 513", port)
		}
	}
	if last < 1024 {
		t.Error("a client at 513 gets no other port when all below 1024 are taken")
	}
}

// The client speaks plaintext to the pod and uses all its ports, of which the
// kernel gives it those of one parity. Each connection has a leg, and all stay
// open: no leg may be where the client's next connection comes from.
func TestAClientMayUseAnyOfItsPortsWhileLegsAreOpen(t *testing.T) {
	const n = 1500
	for _, tc := range []struct {
		given string
		six   bool
	}{{"1024 65535", false}, {"1025 65535", false}, {"32768 60999", true}} {
		t.Run(tc.given+" "+family(tc.six), func(t *testing.T) {
			w := newWorld(t)
			p := w.enrolled()
			w.in(w.ns, func() error { return writeSysctl("net/ipv4/ip_local_port_range", tc.given) })
			to, plaintext := netip.AddrPortFrom(p.addr(tc.six), 8080), p.s.Listeners.Inbound4
			if tc.six {
				plaintext = p.s.Listeners.Inbound6
			}
			app := p.listen(to)
			dial := w.d.DialInner(p.ns)
			for i := range n {
				if err := relayOne(t, w, to, plaintext, app, dial); err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
			}
		})
	}
}

// relayOne opens a client's connection and the leg to the app on its behalf.
func relayOne(t *testing.T, w *world, to netip.AddrPort, plaintext, app *net.TCPListener, dial func(context.Context, netip.AddrPort, netip.AddrPort) (*net.TCPConn, error)) error {
	t.Helper()
	fd := -1
	err := w.ns.Do(func() (err error) {
		fd, err = plainClient(func(fd int) error {
			// A SYN that is not answered is sent again twice.
			return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_SYNCNT, 2)
		})(afOf(to.Addr().Is6()), sockaddr(to))
		return err
	})
	if err != nil {
		return err
	}
	t.Cleanup(func() { unix.Close(fd) })
	plaintext.SetDeadline(time.Now().Add(10 * time.Second))
	in, err := plaintext.AcceptTCP()
	if err != nil {
		return err
	}
	t.Cleanup(func() { in.Close() })
	client := addrPort(in.RemoteAddr())
	leg, err := dial(t.Context(), client, to)
	if err != nil {
		return err
	}
	t.Cleanup(func() { leg.Close() })
	got, err := app.AcceptTCP()
	if err != nil {
		return err
	}
	t.Cleanup(func() { got.Close() })
	seen := addrPort(got.RemoteAddr())
	if seen.Addr() != client.Addr() || seen.Port() == client.Port() || (seen.Port() < 1024) != (client.Port() < 1024) {
		return fmt.Errorf("the app sees %v, the client is %v", seen, client)
	}
	return nil
}

// A ztunnel may run with three capabilities, of which this is none.
func TestWithoutCapNetBindServiceNoPortBelow1024IsTriedTwice(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for i, six := range []bool{false, true} {
		source, to := client4, netip.AddrPortFrom(p.addr(six), 514)
		if six {
			source = client6
		}
		app := p.listen(to)
		err := without(unix.CAP_NET_BIND_SERVICE, func() error {
			leg, err := w.d.DialInner(p.ns)(t.Context(), netip.AddrPortFrom(source, 1023), to)
			if err == nil {
				leg.Close()
			}
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", family(six), err)
		}
		conn, err := app.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if port := addrPort(conn.RemoteAddr()).Port(); port < 1024 {
			t.Errorf("%s: the leg has port %d", family(six), port)
		}
		if n := w.d.Stats()["inner_low_port_forbidden"]; n != uint64(i+1) {
			t.Errorf("%s: %d tries were forbidden, want one of each leg", family(six), n)
		}
	}
}

// without runs f on a thread that lacks a capability.
func without(capability int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		return err
	}
	less := before
	less[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&header, &less[0]); err != nil {
		return err
	}
	return errors.Join(f(), unix.Capset(&header, &before[0]))
}

// rsh and NFS servers look at that.
func TestAClientBelow1024IsSeenBelow1024(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	dial := w.d.DialInner(p.ns)
	for _, six := range []bool{false, true} {
		source, to := client4, netip.AddrPortFrom(p.addr(six), 514)
		if six {
			source = client6
		}
		app := p.listen(to)
		below := 0
		for n := range 1030 {
			leg, err := dial(t.Context(), netip.AddrPortFrom(source, 1023), to)
			if err != nil {
				t.Fatal(err)
			}
			defer leg.Close()
			conn, err := app.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			port := addrPort(conn.RemoteAddr()).Port()
			if port < 1024 {
				below++
			} else if n < 1000 {
				t.Fatalf("leg %d has port %d with others free below 1024", n, port)
			}
		}
		// All but the client's own; the listener's may or may not be given.
		if below != 1022 && below != 1021 {
			t.Errorf("%d legs below 1024, want 1022", below)
		}
	}
	// The refused twin: a client above is not seen below.
	app := p.listen(netip.AddrPortFrom(p.v4, 513))
	leg, err := dial(t.Context(), netip.AddrPortFrom(client4, 1024), netip.AddrPortFrom(p.v4, 513))
	if err != nil {
		t.Fatal(err)
	}
	defer leg.Close()
	if conn, err := app.AcceptTCP(); err != nil || addrPort(conn.RemoteAddr()).Port() < 1024 {
		t.Errorf("the app sees %v, %v", conn.RemoteAddr(), err)
	}
}

// What parity does not avoid is counted: here the client binds the port itself.
func TestASYNThatMeetsALegIsCounted(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for _, six := range []bool{false, true} {
		source, to := client4, netip.AddrPortFrom(p.addr(six), 8080)
		if six {
			source = client6
		}
		app := p.listen(to)
		leg, err := w.d.DialInner(p.ns)(t.Context(), netip.AddrPortFrom(source, 40000), to)
		if err != nil {
			t.Fatal(err)
		}
		defer leg.Close()
		if conn, err := app.AcceptTCP(); err != nil {
			t.Fatal(err)
		} else {
			defer conn.Close()
		}
		before := w.d.Stats()["inbound_syn_met_socket"]
		w.in(w.ns, func() error {
			fd, err := rawClient(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, bindTo(source, addrPort(leg.LocalAddr()).Port()))(afOf(six), sockaddr(to))
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
		// The veth's softirq has run when connect() returned, or soon does.
		deadline := time.Now().Add(10 * time.Second)
		for w.d.Stats()["inbound_syn_met_socket"] == before && time.Now().Before(deadline) {
		}
		if got := w.d.Stats()["inbound_syn_met_socket"]; got != before+1 {
			t.Errorf("%d SYNs are counted, want %d", got, before+1)
		}
	}
}
