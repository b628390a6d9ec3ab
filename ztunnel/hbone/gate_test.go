// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

// crowd is a Gate of one slot, and doors that a test goes through.
type crowd struct {
	t    *testing.T
	gate *Gate
	got  []string // who got the slot, in order
}

func newCrowd(t *testing.T) *crowd {
	c := &crowd{t: t, gate: NewGate()}
	c.gate.slots = 1
	return c
}

// enter never is evicted.
func (c *crowd) enter(d *Door, addr string) *visitor {
	return d.enter(netip.MustParseAddr(addr), func() { c.t.Errorf("%s was evicted", addr) })
}

// use has v compute for a while, at once.
func (c *crowd) use(v *visitor, took time.Duration) {
	c.t.Helper()
	if err := v.take(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(took) // bubble time
	v.release()
}

// queue has v wait for the slot, and give it back.
func (c *crowd) queue(name string, v *visitor) {
	go func() {
		if v.take(c.t.Context()) == nil {
			c.got = append(c.got, name) // one at a time has the slot
			v.release()
		}
	}()
	synctest.Wait()
}

func (c *crowd) want(names ...string) {
	c.t.Helper()
	synctest.Wait()
	if !slices.Equal(c.got, names) {
		c.t.Errorf("the slot went to %v, want %v", c.got, names)
	}
}

func TestWhoComputedLessLatelyGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		door := c.gate.Door()
		for addr, took := range map[string]time.Duration{"10.0.0.1": 60 * time.Millisecond, "10.0.0.2": 10 * time.Millisecond} {
			v := c.enter(door, addr)
			c.use(v, took)
			v.leave()
		}
		busy := c.enter(door, "10.0.0.9")
		busy.take(t.Context())
		c.queue("dear", c.enter(door, "10.0.0.1"))
		c.queue("cheap", c.enter(door, "10.0.0.2"))
		c.queue("new", c.enter(door, "10.0.0.3"))
		c.queue("new too", c.enter(door, "10.0.0.4"))
		busy.release()
		c.want("new", "new too", "cheap", "dear")
	})
}

func TestAddressThatComesToManyPodsIsOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		for range 8 {
			c.use(c.enter(c.gate.Door(), "10.0.0.1"), 10*time.Millisecond)
		}
		busy := c.enter(c.gate.Door(), "10.0.0.9")
		busy.take(t.Context())
		c.queue("ubiquitous", c.enter(c.gate.Door(), "10.0.0.1"))
		c.queue("other", c.enter(c.gate.Door(), "10.0.0.2"))
		busy.release()
		c.want("other", "ubiquitous")
	})
}

func TestPodThatManyComeToDelaysNoOtherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		besieged, quiet := c.gate.Door(), c.gate.Door()
		for i := range 8 {
			c.use(c.enter(besieged, fmt.Sprintf("10.0.1.%d", i)), 10*time.Millisecond)
		}
		busy := c.enter(c.gate.Door(), "10.0.0.9")
		busy.take(t.Context())
		c.queue("eighth again", c.enter(besieged, "10.0.1.7"))
		c.queue("ninth", c.enter(besieged, "10.0.1.8"))
		c.queue("to another", c.enter(quiet, "10.0.2.1"))
		busy.release()
		c.want("to another", "ninth", "eighth again")
	})
}

func TestWhoHasATunnelGoesFirstUnlessItTakesTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		door := c.gate.Door()
		known, greedy, lately, longAgo := "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"
		for _, addr := range []string{longAgo, lately, known, greedy} {
			door.settled(netip.MustParseAddr(addr))
		}
		door.parted(netip.MustParseAddr(longAgo))
		time.Sleep(knownFor)
		door.parted(netip.MustParseAddr(lately))
		c.use(c.enter(door, known), 10*time.Millisecond)
		c.use(c.enter(door, greedy), time.Second)
		busy := c.enter(c.gate.Door(), "10.0.0.9")
		busy.take(t.Context())
		c.queue("stranger", c.enter(c.gate.Door(), "10.0.0.5"))
		c.queue("long ago", c.enter(c.gate.Door(), longAgo))
		c.queue("greedy", c.enter(door, greedy))
		c.queue("known", c.enter(door, known))
		c.queue("lately", c.enter(door, lately))
		busy.release()
		c.want("known", "lately", "stranger", "long ago", "greedy")
	})
}

func TestNoAddressTakesMoreThanHalfOfTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		c.gate.slots = 4
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var got, late atomic.Int64
		var greedy []*visitor
		door := c.gate.Door()
		for range 20 {
			v := c.enter(door, "10.0.0.1")
			greedy = append(greedy, v)
			go func() {
				if v.take(ctx) == nil {
					got.Add(1)
				} else {
					late.Add(1)
				}
			}()
		}
		synctest.Wait()
		if got.Load() != 2 {
			t.Errorf("%d got in", got.Load())
		}
		other := c.enter(door, "10.0.0.2")
		if other.take(ctx) != nil {
			t.Error("another address was turned away")
		}
		greedy[0].release()
		synctest.Wait()
		if got.Load() != 3 {
			t.Errorf("%d got in", got.Load())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if late.Load() != 17 {
			t.Errorf("%d gave up", late.Load())
		}
		greedy[0].release()
		greedy[0].release()
		other.release()
		time.Sleep(debtLimit) // and all is paid
		for _, v := range append(greedy, other) {
			v.leave()
		}
		if g := c.gate; g.running != 0 || len(g.inside) != 0 || len(g.waiting) != 0 || len(g.accounts) != 0 {
			t.Errorf("left: %d running, %d inside, %d waiting, %d accounts", g.running, len(g.inside), len(g.waiting), len(g.accounts))
		}
	})
}

func TestStrangersMakeRoomFirstThenTheOldestOfTheGreediestAddress(t *testing.T) {
	g := NewGate()
	g.places = 6
	door, other := g.Door(), g.Door()
	var evicted []string
	enter := func(d *Door, addr, name string) {
		d.enter(netip.MustParseAddr(addr), func() { evicted = append(evicted, name) })
	}
	door.settled(netip.MustParseAddr("10.0.0.9"))
	for range 3 {
		enter(door, "10.0.0.9", "known")
	}
	enter(other, "10.0.0.1", "honest")
	enter(other, "10.0.0.2", "first")
	enter(other, "10.0.0.2", "second")
	enter(door, "10.0.0.3", "third")
	enter(door, "10.0.0.4", "fourth") // no address of a stranger has two: of the pod that has more
	if want := []string{"first", "third"}; !slices.Equal(evicted, want) {
		t.Errorf("evicted %v, want %v", evicted, want)
	}
}

// That it is not its turn in time says nothing of the other side.
func TestAHandshakeThatDoesNotGetItsTurnIsOverALimit(t *testing.T) {
	const patience = 50 * time.Millisecond
	// full is a pod's Door of a Gate all of whose slots are taken.
	full := func(t *testing.T) *Door {
		c := newCrowd(t)
		busy := c.enter(c.gate.Door(), "10.0.0.9")
		c.use(busy, 0)
		busy.take(t.Context())
		t.Cleanup(busy.release)
		return c.gate.Door()
	}
	t.Run("the Pool's", func(t *testing.T) {
		l := newLink(t, nil)
		l.pool.cfg.Door, l.pool.cfg.HandshakeTimeout = full(t), patience
		if _, err := l.pool.Open(t.Context(), l.key, l.target(l.key)); !errors.Is(err, ErrLimit) || errors.Is(err, ErrTLS) {
			t.Errorf("it ended with %v, want %v", err, ErrLimit)
		}
	})
	t.Run("the Listener's", func(t *testing.T) {
		f := newFair(t, ListenerConfig{Door: full(t), HandshakeTimeout: patience})
		f.enter(clientID, "127.0.0.2")
		if err := <-f.refused; !errors.Is(err, ErrLimit) || errors.Is(err, ErrTLS) {
			t.Errorf("it ended with %v, want %v", err, ErrLimit)
		}
		if f.ln.Stats().Shed == 0 {
			t.Error("it does not count as shed")
		}
	})
}

// A pod's peers are known, and one of them may be an attacker's.
func TestWhoIsKnownDoesNotCrowdStrangersOut(t *testing.T) {
	g := NewGate()
	door := g.Door()
	evicted := map[string]int{}
	enter := func(addr string) {
		door.enter(netip.MustParseAddr(addr), func() { evicted[addr]++ })
	}
	for _, addr := range []string{"10.0.0.1", "10.0.0.2"} {
		door.settled(netip.MustParseAddr(addr))
		for range handshakesOfPeer {
			enter(addr)
		}
	}
	for i := range 50 {
		enter(fmt.Sprintf("10.0.1.%d", i))
	}
	if evicted["10.0.0.1"]+evicted["10.0.0.2"] != 50 {
		t.Errorf("evicted %v, want none of a stranger", evicted)
	}
}

func TestWhoeverIsSilentMakesRoomBeforeThoseThatGetOn(t *testing.T) {
	g := NewGate()
	g.slots, g.places = 2, 4
	door := g.Door()
	var evicted []string
	enter := func(name string, busy bool) *visitor {
		v := door.enter(netip.MustParseAddr("10.0.0.1"), func() { evicted = append(evicted, name) })
		v.busy = busy
		return v
	}
	enter("first computes", true)
	enter("second is silent", false)
	enter("third waits", true)
	enter("fourth is silent", false)
	for _, name := range []string{"fifth waits", "sixth waits", "seventh waits", "eighth waits"} {
		enter(name, true)
	}
	if want := []string{"second is silent", "fourth is silent", "sixth waits", "seventh waits"}; !slices.Equal(evicted, want) {
		t.Errorf("evicted %v, want %v", evicted, want)
	}
}

func TestAddressAndPodHaveOnlySoManyHandshakes(t *testing.T) {
	g := NewGate()
	var evicted int
	door := g.Door()
	for range handshakesOfPeer + 3 {
		door.enter(netip.MustParseAddr("10.0.0.1"), func() { evicted++ })
	}
	if evicted != 3 {
		t.Errorf("%d of one address were evicted, want 3", evicted)
	}
	for i := range handshakesOfPod {
		door.enter(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), func() { evicted++ })
	}
	if most, underWay := g.Stats(); most != handshakeLimit || underWay != handshakesOfPod {
		t.Errorf("%d of %d are under way, all with one pod, want %d", underWay, most, handshakesOfPod)
	}
}

func TestGateRemembersOnlySoManyAddresses(t *testing.T) {
	g := NewGate()
	door := g.Door()
	for i := range 2 * accountLimit {
		v := door.enter(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), nil)
		v.take(t.Context())
		v.began = v.began.Add(-time.Second)
		v.release()
		v.leave()
	}
	if n := len(g.accounts); n > accountLimit {
		t.Errorf("%d addresses are remembered", n)
	}
}

// The attackers hold many more connections than there are slots, and keep up
// their number.
func TestSlowHandshakesDelayNobody(t *testing.T) {
	for name, attack := range map[string]func(*net.TCPConn, []byte){
		"silent":        func(c *net.TCPConn, _ []byte) {},
		"half-finished": func(c *net.TCPConn, hello []byte) { c.Write(hello) },
		"dripping": func(c *net.TCPConn, hello []byte) {
			for i := range hello {
				if _, err := c.Write(hello[i : i+1]); err != nil {
					return
				}
				<-time.After(20 * time.Millisecond)
			}
		},
	} {
		for _, sources := range []int{2, 50} {
			t.Run(name, func(t *testing.T) {
				l := newLink(t, nil)
				hello := clientHello(t)
				var all sync.WaitGroup
				ctx, stop := context.WithCancel(context.Background())
				defer all.Wait()
				defer stop()
				for i := range 400 {
					all.Go(func() { besiege(ctx, l.key.Addr, byte(2+i%sources), hello, attack) })
				}
				waitUntil(t, func() bool { return l.ln.Stats().Handshakes >= 400 })
				watch := env.NewStopwatch()
				a := l.open()
				a.write("x")
				a.wantRead("x")
				if took := watch.Elapsed(); took > 8*time.Second { // it was ten
					t.Errorf("took %v", took)
				}
			})
		}
	}
}

// besiege attacks from one address until ctx is done.
func besiege(ctx context.Context, to netip.AddrPort, from byte, hello []byte, attack func(*net.TCPConn, []byte)) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
	for ctx.Err() == nil {
		conn, err := d.DialContext(ctx, "tcp4", to.String())
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		attack(conn.(*net.TCPConn), hello)
		io.Copy(io.Discard, conn)
		conn.Close()
		stop()
	}
}

// clientHello is the first flight of a client.
func clientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	ca := newAuthority(t)
	go func() {
		tls.Client(near, ca.credential(clientID, serverID, time.Hour).Config).Handshake()
		near.Close()
	}()
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}
