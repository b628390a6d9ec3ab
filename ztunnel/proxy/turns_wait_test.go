// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// What a peer has wait would else take all turns of the pod, one after the other, from
// those of other peers.
func TestAConnectionThatIsMadeToWaitHasNoTurnMeanwhile(t *testing.T) {
	outside := netip.MustParseAddrPort("192.0.2.1:80")
	for name, waits := range map[string]func(b *bench, c *connection){
		"for its peer, whose connections came to nothing": func(b *bench, c *connection) {
			for range 2 * int(emptyRate.Burst) {
				b.brake.ended(c.peer())
			}
			b.braked(c, netip.AddrPortFrom(dbAddr, 5432))
		},
		"for an identity to be at its address": func(b *bench, c *connection) {
			b.Origins.Mode = AtSourceEnforce
			b.admitOrigin(c, sa("web"))
		},
		"for its source, which NetworkPolicies refuse": func(b *bench, c *connection) {
			b.NetworkPolicies = networkpolicy.NewSet()
			n := &network{set: b.NetworkPolicies, mode: networkpolicy.Enforce}
			n.replace(networkpolicy.Policy{Namespace: "shop", Name: "in", Ingress: side(ofRole("client"))})
			b.admitNetwork(c)
		},
		"for the pod to be known": func(b *bench, c *connection) {
			b.Registry.Replace(workload.Mesh{})
			Outbound{b.Pod}.open(c, nil)
		},
		"for the pod of an app in plaintext to be known": func(b *bench, c *connection) {
			b.Registry.Replace(workload.Mesh{})
			Passthrough{b.Pod}.open(c, new(net.TCPConn))
		},
		"for somebody outside the mesh": func(b *bench, c *connection) {
			Outbound{b.Pod}.direct(c, nil, b.whoWeAre(), &workload.Destination{Peer: new(workload.Workload), Target: outside})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, registryOf(meshOf(5432, 80)), "db")
				turns := turnsOf(1, time.Hour).pod()
				b.Share = NewBudget().Share("shop/db")
				b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return outside, nil }
				b.Direct = func(context.Context, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
					time.Sleep(time.Second)
					return nil, io.EOF
				}
				b.Inner = func(context.Context, netip.AddrPort, netip.AddrPort) (*net.TCPConn, error) { return nil, io.EOF }
				alone, local, source := b.arrival(sa("web"), ghostAddr), b.arrival(sa("web"), ghostAddr), new(connection)
				local.twin = source // beside a tunnel, the turn is that of the source's pod
				for c, holds := range map[*connection]*connection{alone: alone, local: source} {
					holds.turn = turns.take(c.ctx)
					over := make(chan struct{})
					go func() {
						defer close(over)
						waits(b, c)
					}()
					synctest.Wait()
					select {
					case <-over:
						t.Fatal("it does not wait")
					default:
					}
					if turns.taken != 0 {
						t.Errorf("it waits with %d turns", turns.taken)
					}
					holds.endTurn()
					<-over
				}
			})
		})
	}
}

// The queue of a listener is for all its peers, and who finds it full is refused. So nobody
// waits in it for a turn.
func TestStreamsThatWaitForATurnAreAcceptedAlready(t *testing.T) {
	budget := NewBudget()
	budget.turns = turnsOf(1, time.Hour)
	s := tell(t, echo(t, dbAddr), func(s *story) { s.db.Share = budget.Share("shop/db") })
	turns := s.db.Share.beginning()
	held := turns.take(t.Context())
	end := sync.OnceFunc(held.end)
	t.Cleanup(end)
	var apps []*net.TCPConn
	for range 3 {
		conn := connect(t, webAddr, s.to)
		send(t, conn, "hello")
		apps = append(apps, conn)
	}
	eventually(t, "all three wait for a turn", func() bool {
		turns.of.mu.Lock()
		defer turns.of.mu.Unlock()
		return len(turns.queue) == 3
	})
	end()
	for _, conn := range apps {
		expect(t, conn, "hello")
	}
}
