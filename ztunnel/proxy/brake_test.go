// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var (
	caller   = peer{"spiffe://cluster.local/ns/shop/sa/web", netip.MustParseAddr("10.0.0.1")}
	bystand  = peer{"spiffe://cluster.local/ns/shop/sa/cart", netip.MustParseAddr("10.0.0.2")}
	downApp  = netip.MustParseAddrPort("10.0.0.9:80")
	otherApp = netip.MustParseAddrPort("10.0.0.9:81")
)

func TestAnAppThatRefusesIsDialledAFewTimesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b brake
		dials := func(p peer, app netip.AddrPort, n int) (dialled int) {
			for range n {
				if b.refusal(approach{p, app}) == nil {
					b.dialled(approach{p, app}, fail(Dial, syscall.ECONNREFUSED))
					dialled++
				}
			}
			return dialled
		}
		if n := dials(caller, downApp, 1000); n != 101 {
			t.Errorf("%d of 1000 dials, want a burst", n)
		}
		if err := b.refusal(approach{caller, downApp}); !errors.Is(err, syscall.ECONNREFUSED) || wordOf(err) != Dial {
			t.Errorf("answered with %v", err)
		}
		if n := dials(caller, otherApp, 50) + dials(bystand, downApp, 50); n != 100 {
			t.Errorf("%d of 100 dials to another app or of another peer", n)
		}
		time.Sleep(time.Second / 10)
		if n := dials(caller, downApp, 1000); n != 5 {
			t.Errorf("%d dials after a tenth of a second, want 5", n)
		}
		time.Sleep(time.Second / 10)
		b.dialled(approach{caller, downApp}, nil) // the app is back
		for range 1000 {
			if err := b.refusal(approach{caller, downApp}); err != nil {
				t.Fatalf("after a success: %v", err)
			}
		}
		dials(caller, downApp, 1000)
		b.dialled(approach{caller, downApp}, fail(Limit, syscall.EMFILE)) // says nothing
		if b.refusal(approach{caller, downApp}) == nil {
			t.Error("a shortage of ours counts as a success")
		}
		time.Sleep(deadFor + time.Second)
		if n := dials(caller, downApp, 1); n != 1 {
			t.Error("an old refusal counts")
		}
	})
}

// A peer asks 5,000 times a second, which its tunnel allows.
func TestAPeerThatLooksForOpenPortsIsDialledForAFewTimesASecond(t *testing.T) {
	const requests = 50000
	for _, ports := range []int{1, 10, 100, 2000, requests} {
		synctest.Test(t, func(t *testing.T) {
			var b brake
			dialled := 0
			for i := range requests {
				if i%(requests/10) == 0 {
					time.Sleep(time.Second)
				}
				a := approach{caller, netip.AddrPortFrom(downApp.Addr(), uint16(1+i%ports))}
				err := b.refusal(a)
				if err == nil {
					b.dialled(a, fail(Dial, syscall.ECONNREFUSED))
					dialled++
				} else if word := wordOf(err); word != Dial && (word != Limit || !strings.Contains(err.Error(), caller.identity)) {
					t.Fatal(err)
				}
			}
			if dialled > 1500 {
				t.Errorf("%d closed ports: %d dials", ports, dialled)
			}
			if err := b.refusal(approach{bystand, downApp}); err != nil {
				t.Errorf("another peer is refused: %v", err)
			}
		})
	}
}

func TestAppsThatRefuseAPeerDoNotHideOneThatAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b brake
		for i := range 20000 {
			a := approach{caller, netip.AddrPortFrom(downApp.Addr(), uint16(1000+i%10))}
			if b.refusal(a) == nil {
				b.dialled(a, fail(Dial, syscall.ECONNREFUSED))
			}
			up := approach{caller, otherApp}
			if err := b.refusal(up); err != nil {
				t.Fatalf("after %d requests to ten apps that refuse: %v", i, err)
			}
			b.dialled(up, nil)
			time.Sleep(time.Millisecond)
		}
	})
}

func TestPeersWithoutEndDoNotMakeTheBrakeForgetTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b brake
		addr := caller.addr
		for range 3 * brakesMost {
			time.Sleep(time.Millisecond)
			addr = addr.Next()
			other := peer{bystand.identity, addr}
			b.ended(other)
			b.dialled(approach{other, downApp}, fail(Dial, syscall.ECONNREFUSED))
			for range 3 { // the last burst is spent soon
				b.ended(caller)
			}
		}
		if b.turn(caller) == 0 {
			t.Error("a peer has a new burst")
		}
		if len(b.peers) > brakesMost || len(b.dead) > brakesMost {
			t.Errorf("%d peers and %d approaches are remembered", len(b.peers), len(b.dead))
		}
	})
}

func TestConnectionsThatAreBrokenOffAtOnceWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b brake
		start := time.Now()
		for range 1500 {
			if err := b.wait(t.Context(), caller, func() {}); err != nil {
				t.Fatal(err)
			}
			b.ended(caller)
		}
		if d := time.Since(start); d < 900*time.Millisecond || d > 1100*time.Millisecond {
			t.Errorf("1500 took %v, want a burst of 1000 and one second", d)
		}
		if err := b.wait(t.Context(), bystand, func() {}); err != nil || b.turn(bystand) != 0 {
			t.Errorf("another peer waits, or %v", err)
		}
	})
}

func TestConnectionsWithoutATurnAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b brake
		for range 1000 {
			b.ended(caller)
		}
		var waiting, refused atomic.Int32
		for range 2000 {
			go func() {
				if err := b.wait(t.Context(), caller, func() {}); wordOf(err) == Limit {
					refused.Add(1)
				} else if err == nil {
					waiting.Add(1)
				}
			}()
		}
		time.Sleep(2 * turnMost)
		if w, r := waiting.Load(), refused.Load(); w+r != 2000 || w < 490 || w > 510 {
			t.Errorf("%d had their turn in a second, %d were refused", w, r)
		}
	})
}

// A peer with many clients of a service that is down keeps its tunnel, and reaches
// the service when it is back.
func TestAServiceThatIsDownCostsAPeerNeitherItsTunnelNorTheWayBack(t *testing.T) {
	s := tell(t, echo(t, dbAddr), func(s *story) { s.db.Log = slog.New(slog.DiscardHandler) })
	var down atomic.Bool
	var dials atomic.Int32
	inner := s.db.Inner
	s.db.Inner = func(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
		if dials.Add(1); down.Load() {
			return nil, syscall.ECONNREFUSED
		}
		return inner(ctx, from, to)
	}
	key := hbone.Key{Dst: sa("db"), Addr: netip.AddrPortFrom(dbAddr, workload.HBONEPort)}
	open := func() error {
		stream, err := s.web.Tunnels.Open(t.Context(), key, hbone.Target{Authority: s.app})
		if err == nil {
			stream.Reset()
		}
		return err
	}
	down.Store(true)
	const many = 2000
	for range many {
		var status *hbone.StatusError
		if err := open(); !errors.As(err, &status) || status.Code != http.StatusServiceUnavailable {
			t.Fatalf("%v, want 503", err)
		}
	}
	if n := dials.Load(); n > many/2 {
		t.Errorf("%d dials for %d streams", n, many)
	}
	down.Store(false)
	eventually(t, "the service is reached again", func() bool { return open() == nil })
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d tunnels", n)
	}
}

func TestOnlyWhatIsBrokenOffAtOnceIsBraked(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	braked := func() bool {
		s.db.brake.mu.Lock()
		defer s.db.brake.mu.Unlock()
		return len(s.db.brake.peers) > 0
	}
	talk := func(text string) *net.TCPConn {
		conn := s.dial()
		send(t, conn, text)
		expect(t, conn, text)
		return conn
	}
	silent := func() *net.TCPConn {
		conn := s.dial()
		eventually(t, "it is carried", func() bool {
			for c := range s.db.live.all(inbound) {
				return c.stream.Load() != nil
			}
			return false
		})
		return conn
	}
	for _, tt := range []struct {
		story string
		conn  func() *net.TCPConn
		close func(*net.TCPConn) error
		word  Word
		want  bool
	}{
		{"a probe", silent, (*net.TCPConn).CloseWrite, OK, false},
		{"a short question and its answer", func() *net.TCPConn { return talk("?") }, (*net.TCPConn).CloseWrite, OK, false},
		{"a talk that is broken off", func() *net.TCPConn { return talk(strings.Repeat("hello ", 20)) }, abort, Reset, false},
		{"a byte that is broken off", func() *net.TCPConn { return talk("?") }, abort, Reset, true},
		{"silence that is broken off", silent, abort, Reset, true},
	} {
		got := !tt.want
		for try := 0; try < 10 && got != tt.want; try++ { // a machine that stands still for hastyFor breaks nothing off at once
			s.db.brake.mu.Lock()
			s.db.brake.dead, s.db.brake.peers = nil, nil
			s.db.brake.mu.Unlock()
			tt.close(tt.conn())
			s.db.record(tt.word)
			if got = braked(); !tt.want {
				break
			}
		}
		if got != tt.want {
			t.Errorf("%s: braked %v, want %v", tt.story, got, tt.want)
		}
	}
}

// abort breaks a connection off.
func abort(conn *net.TCPConn) error {
	return errors.Join(conn.SetLinger(0), conn.Close())
}

func TestHowLittleAndHowSoonIsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reset := fail(Reset, errors.New("broken off"))
		for _, tt := range []struct {
			story            string
			answer, question uint64
			after            time.Duration
			err              error
			want             bool
		}{
			{"a byte", 0, 1, 0, reset, true},
			{"a word each way", 32, 32, 0, reset, true},
			{"a question and an answer", 32, 33, 0, reset, false},
			{"much that nobody answered", 0, 1 << 20, 0, reset, true},
			{"a byte, and a while", 0, 1, hastyFor + 1, reset, false},
			{"a byte, and an end in order", 0, 1, 0, nil, false},
			{"a byte, and the end of the certificates", 0, 1, 0, fail(Expired, errors.New("ran out")), false},
			{"nothing, and a while", 0, 0, time.Hour, reset, true},
		} {
			p := new(Pod)
			c := &connection{pod: p, ctx: t.Context(), record: record{direction: inbound, start: time.Now().Add(-time.Hour)}}
			c.src.identity, c.src.addr = caller.identity, netip.AddrPortFrom(caller.addr, 1)
			c.bytes.sent.Store(tt.answer)
			c.bytes.received.Store(tt.question)
			began := time.Now()
			time.Sleep(tt.after)
			if c.brake(tt.err, began); (len(p.brake.peers) > 0) != tt.want {
				t.Errorf("%s: braked %v, want %v", tt.story, !tt.want, tt.want)
			}
		}
	})
}

// The CA of another trust domain makes identities as it likes: none of them begins anew.
func TestIdentitiesOfAnotherTrustDomainAreOnePeer(t *testing.T) {
	of := func(id, addr string) peer {
		c := &connection{}
		c.src.identity, c.src.addr = id, netip.MustParseAddrPort(addr)
		c.dst.workload = &workload.Workload{ID: sa("db")}
		return c.peer()
	}
	const a, b = "spiffe://other.example/ns/shop/sa/a", "spiffe://other.example/ns/shop/sa/b"
	if of(a, "192.0.2.1:1") != of(b, "192.0.2.1:2") {
		t.Error("two identities of another trust domain at an address are two peers")
	}
	if of(a, "192.0.2.1:1") == of(a, "192.0.2.2:1") {
		t.Error("two addresses are one peer")
	}
	if of(sa("web").String(), "192.0.2.1:1") == of(sa("bank").String(), "192.0.2.1:1") {
		t.Error("two identities of ours are one peer")
	}
}
