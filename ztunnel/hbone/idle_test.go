// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// idleTunnel bounds what one end of a tunnel without streams takes, beside what
// the kernel holds. It takes 3 to 4 KB, and under the race detector 6; with a goroutine and
// the keys 5 more. The peer's chain is shared: TestTunnelsOfOnePeerShareItsChain.
const idleTunnel = 7 << 10

func TestATunnelWithoutStreamsIsSmall(t *testing.T) {
	const many = 300
	l := newLinkOf(t, OwnRecords, (*Stream).Reset)
	l.pool.connect = func(ctx context.Context, _ Key) (net.Conn, error) { return dialTCP(ctx, l.key.Addr) }
	port := uint16(0)
	open := func(n int) {
		for range n {
			port++
			key := Key{serverID, netip.AddrPortFrom(l.key.Addr.Addr(), port)}
			l.pool.mu.Lock()
			d := l.pool.dialLocked(key, l.pool.of(key))
			l.pool.mu.Unlock()
			if <-d.done; d.err != nil {
				t.Fatal(d.err)
			}
		}
	}
	open(20) // so that pools and tables are there
	waitUntil(t, func() bool { return allRest(l.ln.all()) && allRest(l.pool.all()) })
	before := memoryInUse()
	open(many)
	var each int
	defer func() { t.Logf("%d bytes", each) }()
	waitUntil(t, func() bool {
		each = (memoryInUse() - before) / (2 * many)
		return l.ln.Stats().Tunnels == 20+many && each <= idleTunnel
	})
}

func allRest(conns []*conn) bool {
	return !slices.ContainsFunc(conns, func(c *conn) bool {
		c.mu.Lock()
		defer c.unlock()
		return c.resting == 0
	})
}

// restless is a wire that does not rest.
type restless struct {
	wire
	asked atomic.Int32
}

func (r *restless) Rest(func()) socket.Ticket {
	r.asked.Add(1)
	return 0
}

// A new tunnel's first stream finds a goroutine that waits, with keys.
func TestANewTunnelRestsOnlyWhenNoStreamCameForAWhile(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.pool.mu.Lock()
		d := b.pool.dialLocked(b.key, b.pool.of(b.key))
		b.pool.mu.Unlock()
		<-d.done
		synctest.Wait()
		c := b.ln.all()[0]
		w := &restless{wire: c.wire}
		c.mu.Lock()
		c.wire = w
		c.mu.Unlock()
		pass(firstRest / 2)
		if w.asked.Load() != 0 {
			t.Error("it rests at once")
		}
		pass(firstRest)
		if n := w.asked.Load(); n != 1 || c.over() {
			t.Errorf("it was asked %d times to rest, want once; over: %v", n, c.over())
		}
	})
}

func memoryInUse() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

func TestATunnelIsUnusedAgainATickAfterItsLastStream(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.open()
		both := func() (unused bool) {
			synctest.Wait()
			if near.c.quiet.Load() != far.c.quiet.Load() {
				t.Error("the ends do not agree")
			}
			return near.c.quiet.Load()
		}
		if pass(time.Minute); both() {
			t.Error("unused while a stream is open")
		}
		near.Reset()
		far.Reset()
		if both() {
			t.Error("unused at once")
		}
		if pass(2 * pingInterval); !both() {
			t.Error("it counts as used for ever")
		}
		if near, far = b.open(); both() {
			t.Error("a new stream is no use")
		}
		near.Reset()
		far.Reset()
	})
}
