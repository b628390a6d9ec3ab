// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

var dbAddr = netip.MustParseAddrPort("10.0.0.2:15008")

// fair is a listener of few places that lets in any identity from any address.
type fair struct {
	*link
	refused chan error
}

func newFair(t *testing.T, cfg ListenerConfig) *fair {
	f := &fair{link: &link{t: t, ca: newAuthority(t)}, refused: make(chan error, 100)}
	server := f.ca.credential(serverID, spiffeid.ID{}, time.Hour)
	cfg.Records = testRecords()
	cfg.Credential = func(context.Context) (Credential, error) { return server, nil }
	cfg.Refused = func(_ netip.AddrPort, err error) { f.refused <- err }
	f.ln = startListener(t, cfg)
	f.key = Key{serverID, f.ln.Addr()}
	f.pool = NewPool(PoolConfig{})
	f.acceptAll(f.echo)
	return f
}

// guest is a peer with one tunnel.
type guest struct {
	f      *fair
	pool   *Pool
	stream *Stream
	err    error
}

// enter opens a tunnel and a stream in it.
func (f *fair) enter(id spiffeid.ID, from string) *guest {
	f.t.Helper()
	client := f.ca.credential(id, serverID, time.Hour)
	pool := NewPool(PoolConfig{
		Records:    testRecords(),
		Credential: func(context.Context, Key) (Credential, error) { return client, nil },
		Dial: func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			conn, err := d.DialContext(ctx, "tcp", to.String())
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		},
	})
	f.t.Cleanup(pool.Close)
	g := &guest{f: f, pool: pool}
	g.stream, g.err = pool.Open(f.t.Context(), f.key, f.target(f.key))
	return g
}

// rest has the guest's tunnel stay without a stream.
func (g *guest) rest() *guest {
	g.f.t.Helper()
	if g.err != nil {
		g.f.t.Fatal(g.err)
	}
	g.stream.Reset()
	waitUntil(g.f.t, func() bool { return g.f.ln.Stats().Streams == 0 || g.idleThere() })
	return g
}

func (g *guest) idleThere() bool {
	for _, c := range g.f.ln.all() {
		if c.remote == g.stream.LocalAddr() && c.count() > 0 {
			return false
		}
	}
	return true
}

func (g *guest) wantTunnels(n int) {
	g.f.t.Helper()
	waitUntil(g.f.t, func() bool { return g.pool.Stats().Tunnels == n })
}

// wantAlive shows that the guest's stream is open at both ends.
func (g *guest) wantOpen() {
	g.f.t.Helper()
	if g.err != nil {
		g.f.t.Fatal(g.err)
	}
	select {
	case <-g.stream.Done():
		g.f.t.Errorf("stream ended by %v", g.stream.result())
	default:
	}
	g.wantTunnels(1)
}

func (f *fair) wantRefused(g *guest, named string) {
	f.t.Helper()
	if g.err == nil {
		f.t.Fatal("was let in")
	}
	for late := time.After(patience); ; {
		select {
		case err := <-f.refused:
			if errors.Is(err, ErrLimit) && strings.Contains(err.Error(), named) {
				return
			}
			f.t.Logf("refused by %v, want %v that names %v", err, ErrLimit, named) // one before may have tried twice
		case <-late:
			f.t.Fatal("nobody was told of the refusal")
		}
	}
}

func TestAPeerWithItsMostTunnelsLosesItsOwnIdleOnes(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: holderLeast * 2})
	busy := f.enter(clientID, "127.0.0.2")
	first := f.enter(clientID, "127.0.0.2").rest()
	for range holderLeast - 2 {
		f.enter(clientID, "127.0.0.2").rest()
	}
	other := f.enter(otherID, "127.0.0.2").rest() // another identity at the address, and another address of the identity
	replica := f.enter(clientID, "127.0.0.3").rest()
	first.wantTunnels(1)

	f.enter(clientID, "127.0.0.2").rest()
	first.wantTunnels(0)
	busy.wantOpen()
	other.wantTunnels(1)
	replica.wantTunnels(1)
}

func TestAPeerWhoseTunnelsAreAllInUseGetsNoMore(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: holderLeast * 2})
	var guests []*guest
	for range holderLeast {
		guests = append(guests, f.enter(clientID, "127.0.0.2"))
	}
	f.wantRefused(f.enter(clientID, "127.0.0.2"), clientID.String())
	for _, g := range guests {
		g.wantOpen()
	}
	f.enter(otherID, "127.0.0.2").wantOpen()
	f.enter(clientID, "127.0.0.3").wantOpen()
}

// The peers are raw: a Pool opens a younger tunnel beside each that it has to leave.
func TestTunnelsThatOutlivedTheirCertificatesKeepNobodyOut(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: holderLeast * 2})
	var old []*rawPeer
	for range holderLeast {
		p := f.greetedClient()
		p.opened(1)
		old = append(old, p)
	}
	f.ln.Retire(Rotated)
	f.enter(clientID, "127.0.0.1").wantOpen()
	old[0].until(func(frame http2.Frame) bool {
		g, ok := frame.(*http2.GoAwayFrame)
		return ok && g.ErrCode == http2.ErrCodeEnhanceYourCalm
	})
	for _, p := range old[1:] {
		p.wantAlive()
	}
}

func TestWhoHoldsMostMakesRoomForWhoComes(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: 6})
	small := f.enter(otherID, "127.0.0.3").rest() // idle for longest, but small
	busy := f.enter(clientID, "127.0.0.2")
	greedy := []*guest{f.enter(clientID, "127.0.0.2").rest(), f.enter(clientID, "127.0.0.2").rest(), f.enter(clientID, "127.0.0.2").rest()}
	f.enter(clientID, "127.0.0.4").wantOpen()

	newcomer := f.enter(serverID, "127.0.0.5")
	newcomer.wantOpen()
	greedy[0].wantTunnels(0)
	for _, g := range greedy[1:] {
		g.wantTunnels(1)
	}
	busy.wantOpen()
	small.wantTunnels(1)
	if n := f.ln.Stats().Shed; n != 0 {
		t.Errorf("%d shed", n)
	}
}

// A pod has a Listener of each IP version, and its places once.
func TestListenersOfAPodShareItsPlaces(t *testing.T) {
	cfg := ListenerConfig{MaxTunnels: 3, Census: NewCensus()}
	f, other := newFair(t, cfg), newFair(t, cfg)
	idle := f.enter(clientID, "127.0.0.2").rest()
	f.enter(clientID, "127.0.0.3").wantOpen()
	busy := other.enter(otherID, "127.0.0.3")
	busy.wantOpen()

	if other.ln.Yield(0) || !f.ln.Yield(0) {
		t.Error("a Listener yields its own")
	}
	idle.wantTunnels(0)
	waitUntil(t, func() bool { return f.ln.Stats().Tunnels == 1 && other.ln.Stats().Tunnels == 1 })
	idle = f.enter(clientID, "127.0.0.2").rest()

	other.enter(otherID, "127.0.0.4").wantOpen()
	idle.wantTunnels(0)
	other.wantRefused(other.enter(otherID, "127.0.0.5"), "tunnels are in use")
	other.ln.Close() // gives back what was its own
	f.enter(otherID, "127.0.0.5").wantOpen()
	busy.wantTunnels(0)
}

func TestWhoHoldsMuchMoreLosesEvenWhatIsInUse(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: 4})
	first := f.enter(clientID, "127.0.0.2")
	f.enter(clientID, "127.0.0.2").wantOpen()
	youngest := f.enter(clientID, "127.0.0.2")
	f.enter(clientID, "127.0.0.3").wantOpen()

	newcomer := f.enter(otherID, "127.0.0.4")
	newcomer.wantOpen()
	if <-youngest.stream.Done(); !errors.Is(youngest.stream.result(), ErrReset) || !strings.Contains(youngest.stream.result().Error(), "ENHANCE_YOUR_CALM") {
		t.Errorf("stream of the one with most ended by %v", youngest.stream.result())
	}
	first.wantOpen()

	f.enter(otherID, "127.0.0.4") // 2 of 4 by now: nobody has twice as many
	f.wantRefused(f.enter(otherID, "127.0.0.4"), otherID.String())
	newcomer.wantOpen()
}

func TestEqualsLoseNothingToEachOther(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: 2})
	a, b := f.enter(clientID, "127.0.0.2"), f.enter(otherID, "127.0.0.3")
	f.wantRefused(f.enter(serverID, "127.0.0.4"), serverID.String())
	a.wantOpen()
	b.wantOpen()
}

func TestIdleTunnelsGiveTheirPlaceInThePodsShareToWhoComes(t *testing.T) {
	var share counted
	share.most.Store(4)
	f := newFair(t, ListenerConfig{Share: &share})
	oldest := f.enter(clientID, "127.0.0.2").rest()
	f.enter(clientID, "127.0.0.2").rest()
	busy := f.enter(clientID, "127.0.0.2")
	small := f.enter(otherID, "127.0.0.3").rest()

	f.enter(serverID, "127.0.0.4").wantOpen()
	oldest.wantTunnels(0)
	small.wantTunnels(1)
	busy.wantOpen()
	f.enter(serverID, "127.0.0.4").wantOpen()
	f.enter(serverID, "127.0.0.4").wantOpen() // all three idle ones have gone
	if g := f.enter(serverID, "127.0.0.4"); g.err == nil {
		t.Error("a tunnel without a place")
	}
	if err := <-f.refused; !errors.Is(err, ErrLimit) || !errors.Is(err, errNoMore) {
		t.Errorf("refused by %v, want %v", err, errNoMore)
	}
	busy.wantOpen()
}

func TestAPodsOwnIdleTunnelsMakeRoomForItsNextPeer(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		var share counted
		share.most.Store(3)
		b.pool.places.share = &share
		open := func(port uint16) (*Stream, error) {
			return b.pool.Open(t.Context(), Key{serverID, netip.AddrPortFrom(b.key.Addr.Addr(), port)}, Target{Authority: netip.AddrPortFrom(b.key.Addr.Addr(), 80)})
		}
		streams := make([]*Stream, 3)
		for i := range streams {
			var err error
			if streams[i], err = open(uint16(1 + i)); err != nil {
				t.Fatal(err)
			}
			<-b.arrived
			pass(time.Second)
		}
		streams[1].Reset()
		pass(time.Second)
		streams[0].Reset()
		pass(2 * idleLeast)
		if _, err := open(4); err != nil {
			t.Fatal(err)
		}
		b.pool.mu.Lock()
		if _, there := b.pool.keys[Key{serverID, netip.AddrPortFrom(b.key.Addr.Addr(), 2)}]; there || len(b.pool.keys) != 3 {
			t.Errorf("keys %v, without the one that was idle for longest", b.pool.keys)
		}
		b.pool.mu.Unlock()
		if _, err := open(5); err != nil {
			t.Fatal(err)
		}
		if _, err := open(6); !errors.Is(err, ErrLimit) || !errors.Is(err, errNoMore) {
			t.Errorf("with every tunnel in use: %v, want %v", err, errNoMore)
		}
		select {
		case <-streams[2].Done():
			t.Error("an open stream made room")
		default:
		}
	})
}

func TestAListenerYieldsAnIdleTunnelOfAPeerThatHasSeveral(t *testing.T) {
	f := newFair(t, ListenerConfig{})
	f.enter(clientID, "127.0.0.2").wantOpen()
	idle := f.enter(clientID, "127.0.0.2").rest()
	alone := f.enter(otherID, "127.0.0.3").rest()
	if f.ln.Yield(2) || !f.ln.Yield(1) {
		t.Error("only the peer with two tunnels holds more than one")
	}
	idle.wantTunnels(0)
	alone.wantTunnels(1)
	if !f.ln.Yield(0) || f.ln.Yield(0) {
		t.Error("one tunnel is idle, and one in use")
	}
	alone.wantTunnels(0)
}

func TestRequestsThatAreRejectedWithoutEndCostThePeerItsTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which time passes only where it says so
		ce := NewCensus()
		rejected := func(limit int) (n int, c *conn) {
			c = newConn(false, nowhere{}, proof{peer: clientID, local: dbAddr, remote: dbAddr}, &hooks{incoming: func(s *Stream) bool { return s.Reject(503) == nil }})
			c.streamLimit = serverStreams
			ce.add(c)
			if err := c.feed(append([]byte(h2.Preface), h2.AppendSettings(nil)...)); err != nil {
				t.Fatal(err)
			}
			request := h2.AppendConnect(nil, Target{Authority: dbAddr})
			for ; n < limit && !c.over(); n++ {
				c.writer.queue(func([]byte) []byte { return nil }) // as if all were written
				if err := c.feed(h2.AppendBlock(nil, uint32(1+2*n), h2.FlagEndStream|h2.FlagEndHeaders, request, h2.DefaultFrameLimit)); err != nil {
					t.Fatal(err)
				}
			}
			return n, c
		}
		polite, c := rejected(1000)
		if c.over() {
			t.Errorf("ended by %v", c.err)
		}
		n, other := rejected(100000) // in another tunnel
		var bad *tunnelError
		if polite+n != int(rejectRate.Burst)+1 || !errors.As(other.err, &bad) || bad.Code != h2.CodeCalm {
			t.Errorf("after %d: %v", n, other.err)
		}
		ce.remove(other)
		ce.remove(c)
		n, again := rejected(100000)
		if n != 1 {
			t.Errorf("a new tunnel got %d", n)
		}
		time.Sleep(100 * time.Millisecond) // an ended tunnel lingers
		ce.remove(again)
		if n, _ := rejected(100000); n != int(rejectRate.PerSecond)/10+1 {
			t.Errorf("a tenth of a second later, a new tunnel got %d", n)
		}
		c.abort(ErrDrained)
	})
}
