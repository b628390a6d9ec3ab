// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

func TestArrivingConnectionsAreSteered(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	for _, at := range []netip.AddrPort{
		netip.MustParseAddrPort("0.0.0.0:8080"), netip.MustParseAddrPort("[::]:8080"),
		netip.AddrPortFrom(p.v4, hbonePort), netip.AddrPortFrom(p.v6, hbonePort),
	} {
		serve(t, p.listen(at), "app")
	}
	for _, six := range []bool{false, true} {
		to := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(p.addr(six), port) }
		wantServer(t, w.ns, to(8080), "plaintext") // the app's listener is shadowed
		wantServer(t, w.ns, to(5999), "plaintext") // nobody listens
		wantServer(t, w.ns, to(hbonePort), "hbone")
		wantServer(t, p.ns, to(8080), "app")
		wantServer(t, p.ns, to(hbonePort), "app")

		source := client4
		if six {
			source = client6
		}
		got, err := ask(w.ns, to(8080), bindTo(source, 0))
		if want := fmt.Sprintf("plaintext %v %v", source, to(8080)); err != nil || got != want {
			t.Errorf("steered connection says %q, %v; want %q", got, err, want)
		}
	}
}

func TestSYNCookiesAndReusedTuplesAreSteeredTheSame(t *testing.T) {
	for _, cookies := range []string{"1", "2"} {
		t.Run("tcp_syncookies="+cookies, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrolled()
			w.in(p.ns, func() error { return writeSysctl("net/ipv4/tcp_syncookies", cookies) })
			p.serveAll()
			serve(t, p.listen(netip.AddrPortFrom(netip.IPv4Unspecified(), 8080)), "app")
			serve(t, p.listen(netip.AddrPortFrom(netip.IPv6Unspecified(), 8080)), "app")
			for _, six := range []bool{false, true} {
				source, to := client4, netip.AddrPortFrom(p.addr(six), 8080)
				if six {
					source = client6
				}
				// The server closes first: the second connection meets the
				// first one's TIME_WAIT, in the pod.
				for range 3 {
					wantServer(t, w.ns, to, "plaintext", bindTo(source, 40000))
				}
				dial := w.d.DialInner(p.ns)
				for range 20 {
					conn, err := dial(t.Context(), netip.AddrPortFrom(source, 40000), to)
					if err != nil {
						t.Fatal(err)
					}
					if got, err := greeting(conn); err != nil || !strings.HasPrefix(got, "app "+source.String()+" ") {
						t.Fatalf("the leg to the app reaches %q, %v", got, err)
					}
				}
			}
		})
	}
}

func TestLegsToTheAppShowItTheClientsAddress(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	dial := w.d.DialInner(p.ns)
	for _, six := range []bool{false, true} {
		source, to := client4, netip.AddrPortFrom(p.addr(six), 8080)
		if six {
			source = client6
		}
		app := p.listen(to)
		leg, err := dial(t.Context(), netip.AddrPortFrom(source, 40000), to)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := app.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().(*net.TCPAddr).AddrPort(); got != leg.LocalAddr().(*net.TCPAddr).AddrPort() || got.Addr() != source {
			t.Errorf("the app sees %v, want %v", got, source)
		}
		if !w.d.IsInner(conn) { // as an inbound listener would be, to which it is steered back
			t.Error("a leg is not known as one")
		}
		exchange(t, leg, conn)

		// The app's port is closed: refused at once, not timed out.
		app.Close()
		took := env.Best(time.Second/2, func() time.Duration {
			watch := env.NewStopwatch()
			if _, err := dial(t.Context(), netip.AddrPortFrom(source, 40000), to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("leg to a closed port: %v, want ECONNREFUSED", err)
			}
			return watch.Elapsed()
		})
		if took > time.Second { // when a SYN would be sent again
			t.Errorf("refused after %v", took)
		}
	}
	if _, err := dial(t.Context(), netip.AddrPortFrom(client4, 1), netip.AddrPortFrom(p.v6, 80)); err == nil {
		t.Error("a leg from IPv4 to IPv6 was opened")
	}
}

// exchange sends 1 MiB both ways at once, then closes one way after the other.
func exchange(t *testing.T, a, b *net.TCPConn) {
	t.Helper()
	defer a.Close()
	defer b.Close()
	const size = 1 << 20
	done := make(chan error, 4)
	for _, conn := range []*net.TCPConn{a, b} {
		conn.SetDeadline(time.Now().Add(patience))
		go func() {
			_, err := conn.Write(make([]byte, size))
			done <- errors.Join(err, conn.CloseWrite())
		}()
		go func() {
			n, err := io.Copy(io.Discard, conn)
			if err == nil && n != size {
				err = fmt.Errorf("read %d bytes, want %d", n, size)
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestManyLegsUnderOneClientAddress(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	to := netip.AddrPortFrom(p.v4, 8080)
	app := p.listen(to)
	accepted := make(chan net.Conn, 1)
	go func() {
		for {
			conn, err := app.AcceptTCP()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	dial := w.d.DialInner(p.ns)
	seen := make(map[string]bool)
	for range 1000 {
		leg, err := dial(t.Context(), netip.AddrPortFrom(client4, 40000), to)
		if err != nil {
			t.Fatal(err)
		}
		defer leg.Close()
		conn := <-accepted
		defer conn.Close()
		if from := conn.RemoteAddr().String(); seen[from] {
			t.Fatalf("two live connections from %s", from)
		} else {
			seen[from] = true
		}
	}
	app.Close()
	if n := count(t, w.d.mesh.Inner); n != 0 {
		t.Errorf("%d entries left in the map inner with all legs established", n)
	}
}

// The entry of a leg lets every SYN of its tuple pass, so it must go also if nothing is
// written on the leg.
func TestALegThatIsAbortedUnwrittenLeavesNoEntry(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	dial := w.d.DialInner(p.ns)
	for _, six := range []bool{false, true} {
		source, to := client4, netip.AddrPortFrom(p.addr(six), 8080)
		if six {
			source = client6
		}
		p.listen(to)
		leg, err := dial(socket.WritesAtOnce(t.Context()), netip.AddrPortFrom(source, 40000), to)
		if err != nil {
			t.Fatal(err)
		}
		socket.Abort(leg)
		if n := count(t, w.d.mesh.Inner); n != 0 {
			t.Errorf("%v: %d entries left in the map inner", to, n)
		}
	}
}

func TestLegNeverDisturbsALiveConnectionOfTheClient(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	to := netip.AddrPortFrom(p.v4, 8080)
	app := p.listen(to)
	direct, err := w.ns.Dial(t.Context(), to, bindTo(client4, 20000)) // before enrolment
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := app.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	p.enroll(w.d)
	for range 5 {
		leg, err := w.d.dialInner(t.Context(), p.ns, netip.AddrPortFrom(client4, 20000), to)
		if err == nil {
			leg.Close()
		}
		if !isTaken(err) {
			t.Errorf("a leg under the tuple of a live connection: %v", err)
		}
	}
	if n := count(t, w.d.mesh.Inner); n != 0 {
		t.Errorf("%d entries left of refused legs", n)
	}
	exchange(t, direct, theirs)
}

func TestFullInnerMapRefusesTheLeg(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	m := w.d.mesh.Inner
	keys := make([]meshFlow, m.MaxEntries())
	for i := range keys {
		keys[i] = meshFlow{Netns: 1<<40 | uint64(i)}
	}
	if _, err := m.BatchUpdate(keys, make([]uint64, len(keys)), nil); err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(p.v4, 8080)
	serve(t, p.listen(to), "app")
	_, err := w.d.DialInner(p.ns)(t.Context(), netip.AddrPortFrom(client4, 40000), to)
	if !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("leg with a full map: %v, want ENOBUFS", err)
	}
}

// A pod with CAP_NET_RAW can pose as anybody, towards itself. It gets what
// anybody gets: ztunnel's plaintext listener.
func TestForgedClientDoesNotReachTheAppUnsteered(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	to := netip.AddrPortFrom(p.v4, 8080)
	serve(t, p.listen(to), "app")
	forged := func(fd int) error { return pose(fd, netip.AddrPortFrom(client4, 12345)) }
	wantServer(t, p.ns, to, "plaintext", forged)
}

// An entry of the map inner is good for one handshake: whoever sends a SYN
// under the tuple of a leg that exists, or did, is steered.
func TestTupleOfALegIsOfNoUseToOthers(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	to := netip.AddrPortFrom(p.v4, 8080)
	serve(t, p.listen(to), "app")
	leg, err := w.d.DialInner(p.ns)(t.Context(), netip.AddrPortFrom(client4, 40000), to)
	if err != nil {
		t.Fatal(err)
	}
	port := leg.LocalAddr().(*net.TCPAddr).AddrPort().Port()
	if got, err := greeting(leg); err != nil {
		t.Fatal(got, err)
	}
	// The app closed first: its TIME_WAIT socket has the tuple.
	wantServer(t, w.ns, to, "plaintext", bindTo(client4, port))

	// An entry that was forgotten is too old to count.
	flow := wireFlow(p.ns.Cookie(), netip.AddrPortFrom(client4, 33333), to)
	if err := w.d.mesh.Inner.Put(flow, monotonic()-uint64(131*time.Second)); err != nil {
		t.Fatal(err)
	}
	wantServer(t, w.ns, to, "plaintext", bindTo(client4, 33333))
}

func TestUnenrolledPodKeepsItsConnectionsAndItsOwnListeners(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	app := p.listen(netip.AddrPortFrom(p.v4, 8080))
	node, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	type pair struct {
		name string
		a, b *net.TCPConn
	}
	var pairs []pair
	connect := func(name string, from, ns *netns.NS, ln *net.TCPListener, to netip.AddrPort) {
		t.Helper()
		a, err := from.Dial(t.Context(), to, nil)
		if err != nil {
			t.Fatal(err)
		}
		ln.SetDeadline(time.Now().Add(patience))
		b, err := ln.AcceptTCP()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pairs = append(pairs, pair{name, a, b})
	}
	toApp, toNode := netip.AddrPortFrom(p.v4, 8080), netip.AddrPortFrom(node4, 8080)
	connect("in before", w.ns, p.ns, app, toApp)
	connect("out before", p.ns, w.ns, node, toNode)

	p.enroll(w.d)
	connect("in during", w.ns, p.ns, p.s.Listeners.Inbound4, toApp)
	connect("out during", p.ns, p.ns, p.s.Listeners.Outbound4, toNode)
	leg, err := w.d.DialInner(p.ns)(t.Context(), netip.AddrPortFrom(client4, 4), toApp)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := app.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	pairs = append(pairs, pair{"leg", leg, theirs})

	if err := errors.Join(w.d.UnsteerOutbound(p.ns.Cookie()), w.d.UnsteerInbound(p.ns.Cookie())); err != nil {
		t.Fatal(err)
	}
	connect("in after", w.ns, p.ns, app, toApp)
	connect("out after", p.ns, w.ns, node, toNode)
	if err := errors.Join(w.d.UnsteerOutbound(p.ns.Cookie()), w.d.UnsteerInbound(p.ns.Cookie())); err != nil {
		t.Errorf("a second time: %v", err)
	}
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) { exchange(t, pair.a, pair.b) })
	}
}

// TestNothingBreaksUnderLoad enrols and un-enrols a pod whose connections,
// each way, are opened and used all the time.
func TestNothingBreaksUnderLoad(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	app := p.listen(netip.AddrPortFrom(p.v4, 8080))
	serve(t, app, "app")
	node, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, node, "node")
	p.enroll(w.d)
	p.serveAll()
	unsteer := func() error {
		return errors.Join(w.d.UnsteerOutbound(p.ns.Cookie()), w.d.UnsteerInbound(p.ns.Cookie()))
	}

	ctx, cancel := context.WithCancel(t.Context())
	problems := make(chan error, 2)
	load := func(from *netns.NS, to netip.AddrPort) {
		for n := 0; ctx.Err() == nil; n++ {
			if got, err := ask(from, to, nil); err != nil {
				problems <- fmt.Errorf("connection %d to %v: %q, %w", n, to, got, err)
				return
			}
		}
		problems <- nil
	}
	toApp, toNode := netip.AddrPortFrom(p.v4, 8080), netip.AddrPortFrom(node4, 8080)
	go load(w.ns, toApp)
	go load(p.ns, toNode)
	for range 100 {
		if err := unsteer(); err != nil {
			t.Error(err)
		}
		wantServer(t, w.ns, toApp, "app")
		wantServer(t, p.ns, toNode, "node")
		if err := errors.Join(w.d.SteerInbound(p.s), w.d.SteerOutbound(p.s)); err != nil {
			t.Error(err)
		}
		wantServer(t, w.ns, toApp, "plaintext")
		wantServer(t, p.ns, toNode, "outbound")
	}
	cancel()
	for range 2 {
		if err := <-problems; err != nil {
			t.Error(err)
		}
	}
}

// Whoever reserves a flow anew must keep the entry that it makes: without one
// its SYN would be steered back to us.
func TestAFlowIsReservedUntilItsEntryIsGone(t *testing.T) {
	l := legs{room: 4}
	flow := meshFlow{Netns: 1}
	if l.begin(flow) != nil || l.begin(flow) == nil {
		t.Fatal("a flow is reserved twice")
	}
	l.finish(flow)
	l.done[0].at = time.Now().Add(-2 * legLinger)
	if old := l.expired(); len(old) != 1 || l.begin(flow) == nil {
		t.Errorf("%d flows to sweep; or one is free before its entry is gone", len(old))
	}
	if l.abort(flow); l.begin(flow) != nil {
		t.Error("a flow is never free again")
	}
}
