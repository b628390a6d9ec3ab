// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// crowded is a pod with 10,000 open connections.
func crowded(b testing.TB) *Pod {
	b.Helper()
	registry := registryOf(meshOf(1, 1))
	p := &Pod{Registry: registry, Policy: policy.NewSet(), Self: func() (workload.Workload, bool) { return registry.ByUID("uid-db") }}
	for i := range 10000 {
		admit(b, p, uint16(i+1))
	}
	return p
}

func admit(b testing.TB, p *Pod, port uint16) *connection {
	c := p.begin(context.Background(), inbound, netip.AddrPortFrom(legacyAddr, port))
	if err := p.admitTo(p.whoWeAre(), c, sa("web"), netip.AddrPortFrom(dbAddr, 80)); err != nil {
		b.Fatal(err)
	}
	return c
}

// changed is the i-th change of a policy that allows port 80.
func changed(namespace string, i int) policy.Objects {
	return policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{
		Object: policy.Object{Namespace: namespace, Name: "a"}, Action: policy.Allow,
		Rules: []policy.Rule{{{{Ports: []uint16{80, uint16(i%2 + 1)}}}}},
	}}}
}

// A pod with 10,000 open connections, and a change of policy that concerns it or not.
func BenchmarkRecheckOfTenThousandConnections(b *testing.B) {
	p := crowded(b)
	for _, namespace := range []string{"shop", "bank"} {
		b.Run("of="+namespace, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				p.Policy.Replace(changed(namespace, i))
				p.Recheck()
			}
		})
	}
}

// A new connection of that pod, while policies change 100 times a second or not. The data
// path of open connections asks no policy; p99 is that of all admissions.
func BenchmarkAdmissionAmidChanges(b *testing.B) {
	for _, c := range []struct{ name, namespace string }{{"none", ""}, {"others", "bank"}, {"own", "shop"}} {
		b.Run("of="+c.name, func(b *testing.B) {
			p := crowded(b)
			ctx, stop := context.WithCancel(context.Background())
			var changes sync.WaitGroup
			if c.namespace != "" {
				changes.Go(func() {
					tick := time.NewTicker(time.Second / 100)
					defer tick.Stop()
					for i := 0; ctx.Err() == nil; i++ {
						<-tick.C
						p.Policy.Replace(changed(c.namespace, i))
						p.Recheck()
					}
				})
			}
			took := make([]time.Duration, 0, 1<<20)
			for b.Loop() {
				began := time.Now()
				p.live.remove(admit(b, p, 1))
				if len(took) < cap(took) {
					took = append(took, time.Since(began))
				}
			}
			b.StopTimer()
			stop()
			changes.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
		})
	}
}
