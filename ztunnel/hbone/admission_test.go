// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestNoAddressTakesAllSlotsAndTheNextHasTheFewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(4, 100)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var got, late atomic.Int64
		var greedy []*visitor
		for range 20 {
			v := a.enter(netip.MustParseAddr("10.0.0.1"), func() { t.Error("evicted") })
			greedy = append(greedy, v)
			go func() {
				if a.take(ctx, v) == nil {
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
		other := a.enter(netip.MustParseAddr("10.0.0.2"), nil)
		if a.take(ctx, other) != nil {
			t.Error("another address was turned away")
		}
		a.release(greedy[0])
		synctest.Wait()
		if got.Load() != 3 {
			t.Errorf("%d got in", got.Load())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if late.Load() != 17 {
			t.Errorf("%d gave up", late.Load())
		}
		a.release(greedy[0])
		a.release(greedy[0])
		a.release(other)
		a.leave(other)
		for _, v := range greedy {
			a.leave(v)
		}
		if a.running != 0 || a.inside != 0 || len(a.waiting) != 0 || len(a.sources) != 0 {
			t.Errorf("left: %d running, %d inside, %d waiting, %d sources", a.running, a.inside, len(a.waiting), len(a.sources))
		}
	})
}

func TestTheOldestHandshakeOfTheGreediestAddressMakesRoom(t *testing.T) {
	a := newAdmission(4, 4)
	var evicted []string
	enter := func(addr, name string) {
		a.enter(netip.MustParseAddr(addr), func() { evicted = append(evicted, name) })
	}
	enter("10.0.0.1", "honest")
	enter("10.0.0.2", "first")
	enter("10.0.0.2", "second")
	enter("10.0.0.2", "third")
	enter("10.0.0.2", "fourth")
	enter("10.0.0.3", "another")
	if len(evicted) != 2 || evicted[0] != "first" || evicted[1] != "second" {
		t.Errorf("evicted %v", evicted)
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
				begin := time.Now()
				a := l.open()
				a.write("x")
				a.wantRead("x")
				if took := time.Since(begin); took > 5*time.Second { // a loaded machine; it was ten
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
