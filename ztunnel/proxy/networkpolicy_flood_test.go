// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// arrival is a connection that NetworkPolicies are asked about.
func (b *bench) arrival(peer spiffeid.ID, from netip.Addr) *connection {
	c := b.begin(context.Background(), inbound, netip.AddrPortFrom(from, 40000))
	c.src.identity = peer.String()
	self := b.whoWeAre()
	if w, known := b.Registry.ByAddr(from); known && w.ID == peer {
		c.src.workload = &w
	}
	c.arrives(self, peer, netip.AddrPortFrom(self.Addrs[0], 5432))
	return c
}

// Sources that nobody knows wait at their destination. 10,000 of them, of one peer, leave
// places for other peers and other pods, and those whose source is known do not wait.
func TestConnectionsOfUnknownSourcesHoldUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := registryOf(meshOf(5432, 80))
		set := networkpolicy.NewSet()
		n := &network{set: set, mode: networkpolicy.Enforce}
		n.replace(networkpolicy.Policy{Namespace: "shop", Name: "in", Ingress: side(ofRole("client"))})
		budget := NewBudget()
		db, web := newBench(t, registry, "db"), newBench(t, registry, "web")
		for _, b := range []*bench{db, web} {
			b.NetworkPolicies, b.Share = set, budget.Share("shop/"+b.whoWeAre().Name)
		}
		flooder := spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/flooder")
		words := make(chan Word, 10000)
		var flood sync.WaitGroup
		for range 10000 {
			flood.Go(func() { words <- wordOf(db.admitNetwork(db.arrival(flooder, ghostAddr))) })
		}
		synctest.Wait()
		_, used := budget.Stats()
		if refused := len(words); used["waits"] > waitsMost*16/25 || refused+int(used["waits"]) != 10000 {
			t.Errorf("%v wait, %d are refused at once", used["waits"], refused)
		}
		for range len(words) {
			if word := <-words; word != Limit {
				t.Fatalf("one more is refused as %s", word)
			}
		}

		late := pod("late", netip.MustParseAddr("127.0.1.20"), true)
		late.Labels = workload.NewLabels(map[string]string{"role": "client"})
		var others sync.WaitGroup
		for _, b := range []*bench{db, web} {
			others.Go(func() {
				if err := b.admitNetwork(b.arrival(late.ID, late.Addrs[0])); err != nil {
					t.Errorf("one whose pod is known a moment later: %v", err)
				}
			})
		}
		synctest.Wait()
		mesh := meshOf(5432, 80)
		mesh.Workloads = append(mesh.Workloads, workload.Pack(late)...)
		registry.Replace(mesh)
		others.Wait()
		began := time.Now()
		if err := db.admitNetwork(db.arrival(late.ID, late.Addrs[0])); err != nil || time.Since(began) > 0 {
			t.Errorf("one whose pod is known: %v after %v", err, time.Since(began))
		}

		flood.Wait()
		for range len(words) {
			if word := <-words; word != Denied {
				t.Fatalf("one that has waited is refused as %s", word)
			}
		}
		if _, used := budget.Stats(); used["waits"] != 0 {
			t.Errorf("%v still wait", used["waits"])
		}
	})
}

// Snapshots that do not have its source yet do not end a connection that waits for it. Once
// it is admitted, only a policy ends it, not that the source is gone again.
func TestRecheckLeavesConnectionsThatWaitForTheirSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		without := meshOf(5432, 80)
		late := pod("late", netip.MustParseAddr("127.0.1.20"), true)
		late.Labels = workload.NewLabels(map[string]string{"role": "client"})
		with := meshOf(5432, 80)
		with.Workloads = append(with.Workloads, workload.Pack(late)...)
		n := &network{set: networkpolicy.NewSet(), mode: networkpolicy.Enforce}
		n.replace(ingress(ofRole("client")))
		registry := registryOf(without)
		db := newBench(t, registry, "db")
		db.NetworkPolicies, db.Share = n.set, NewBudget().Share("shop/db")
		c := db.arrival(late.ID, late.Addrs[0])
		c.register(func() error { return nil })
		goesOn := func(while string) {
			t.Helper()
			db.Recheck()
			if c.ctx.Err() != nil {
				t.Fatalf("while %s, Recheck ends the connection: %v", while, context.Cause(c.ctx))
			}
		}

		goesOn("it is not asked about") // as while admitOrigin waits
		admitted := make(chan error, 1)
		go func() { admitted <- db.admitNetwork(c) }()
		synctest.Wait()
		registry.Replace(meshOf(5432, 80))
		goesOn("its source is waited for")
		registry.Replace(with)
		if err := <-admitted; err != nil {
			t.Fatal(err)
		}
		registry.Replace(without)
		goesOn("its source is gone again")

		n.replace(ingress(ofRole("other")))
		db.Recheck()
		if c.ctx.Err() == nil {
			t.Error("a policy that does not admit it any more leaves it open")
		}
	})
}

// 10,000 open connections of which one peer's labels change cost that peer's questions.
func TestOnlyConnectionsThatAChangeConcernsAreAskedAgain(t *testing.T) {
	for name, tell := range paths {
		t.Run(name, func(t *testing.T) {
			n := &network{mode: networkpolicy.Enforce}
			s := tell(t, withNetwork(n))
			n.replace(ingress(ofRole("client")))
			s.registry.Replace(relabelled(s, "client"))
			greet(t, webAddr, s.to)
			asked := func(what string, change func(), want bool) {
				t.Helper()
				var c *connection
				for c = range s.db.live.all(inbound) {
				}
				before := c.inMesh.judged.Load()
				change()
				s.db.Recheck()
				if got := c.inMesh.judged.Load() != before; got != want {
					t.Errorf("%s: asked again: %v", what, got)
				}
			}
			asked("nothing", func() {}, false)
			asked("a snapshot that says the same", func() { s.registry.Replace(relabelled(s, "client")) }, false)
			asked("a policy of other pods", func() {
				of := networkpolicy.Policy{Namespace: "shop", Name: "other", Pods: networkpolicy.Selector{{Key: "app", Operator: networkpolicy.In, Values: []string{"x"}}}}
				n.replace(ingress(ofRole("client")), of)
			}, false)
			asked("one more rule", func() { n.replace(ingress(ofRole("client"), atPort(1))) }, true)
			asked("a label of the peer", func() {
				mesh := relabelled(s, "client")
				web := mesh.Workloads[0].Workload()
				web.Labels = workload.NewLabels(map[string]string{"role": "client", "a": "b"})
				mesh.Workloads[0] = workload.Pack(web)[0]
				s.registry.Replace(mesh)
			}, true)
		})
	}
}
