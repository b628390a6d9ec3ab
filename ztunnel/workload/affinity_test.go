// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// faithful is a Service with session affinity in front of ten pods of two families.
func faithful(pods int) Mesh {
	mesh := Mesh{Services: []Service{{
		Namespace: "shop", Name: "web", Affinity: time.Hour, VIPs: []netip.Addr{addr("10.96.0.5"), addr("fd00:96::5")},
		LoadBalancerIPs: []netip.Addr{addr("203.0.113.5")}, Ports: []ServicePort{{Port: 80, NodePort: 30080}, {Port: 81}},
	}}, Nodes: []Node{{Name: "node-1", Addrs: []netip.Addr{addr("192.168.0.1")}}}}
	for i := range pods {
		w := pod(fmt.Sprint(i), fmt.Sprint("u", i), fmt.Sprintf("10.1.0.%d", i+1), fmt.Sprintf("fd00::%d", i+1))
		mesh.Workloads = append(mesh.Workloads, Pack(w)...)
		for p := range mesh.Services[0].Ports {
			for _, a := range w.Addrs {
				port := &mesh.Services[0].Ports[p]
				port.Endpoints = append(port.Endpoints, Endpoint{Addr: netip.AddrPortFrom(a, 8080)})
			}
		}
	}
	return mesh
}

func leadTo(t *testing.T, r *Registry, from, dst string) netip.AddrPort {
	t.Helper()
	d, err := r.Resolve(addr(from), ap(dst))
	if err != nil {
		t.Fatal(err)
	}
	return d.Target
}

func TestAClientStaysWithItsEndpointByWhicheverAddressOfTheService(t *testing.T) {
	r := registry(t, faithful(10))
	seen := map[netip.AddrPort]bool{}
	for i := range 40 {
		from := fmt.Sprintf("10.2.0.%d", i)
		first := leadTo(t, r, from, "10.96.0.5:80")
		seen[first] = true
		for _, dst := range []string{"10.96.0.5:80", "203.0.113.5:80", "192.168.0.1:30080", "10.96.0.5:80"} {
			if got := leadTo(t, r, from, dst); got != first {
				t.Errorf("%s by %s to %v, before to %v", from, dst, got, first)
			}
		}
	}
	if len(seen) < 5 { // that 40 choose among 4 of 10 has a chance of one in ten billion
		t.Errorf("40 clients are all led to %v", seen)
	}
	six := leadTo(t, r, "fd02::1", "[fd00:96::5]:80")
	for range 20 {
		if got := leadTo(t, r, "fd02::1", "[fd00:96::5]:80"); got != six {
			t.Errorf("by IPv6 to %v, before to %v", got, six)
		}
	}
	mesh := faithful(10)
	mesh.Services[0].Affinity = 0
	r.Replace(mesh)
	seen = map[netip.AddrPort]bool{}
	for range 40 {
		seen[leadTo(t, r, "10.2.0.1", "10.96.0.5:80")] = true
	}
	if len(seen) < 5 {
		t.Errorf("without affinity only to %v", seen)
	}
}

func TestAClientThatStaysAwayIsForgottenAfterTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, faithful(200))
		first := leadTo(t, r, "10.2.0.1", "10.96.0.5:80")
		for range 5 { // each connection begins the time anew
			time.Sleep(59 * time.Minute)
			if got := leadTo(t, r, "10.2.0.1", "10.96.0.5:80"); got != first {
				t.Fatalf("after 59 minutes to %v, before to %v", got, first)
			}
		}
		seen := map[netip.AddrPort]bool{}
		for range 20 {
			time.Sleep(time.Hour)
			seen[leadTo(t, r, "10.2.0.1", "10.96.0.5:80")] = true
		}
		if len(seen) < 5 {
			t.Errorf("after an hour each still to %v", seen)
		}
	})
}

// An endpoint that left and came back may be another pod: nobody is led back to it.
func TestAnEndpointThatLeftIsForgottenAtOnceAndOthersAreKept(t *testing.T) {
	r := registry(t, faithful(2))
	clients := map[string]netip.AddrPort{}
	for i := range 60 {
		from := fmt.Sprintf("10.2.0.%d", i)
		clients[from] = leadTo(t, r, from, "10.96.0.5:80")
	}
	without := faithful(2)
	without.Workloads[0].Terminated = true
	r.Replace(without)
	for from, first := range clients {
		if got := leadTo(t, r, from, "10.96.0.5:80"); got != ap("10.1.0.2:8080") {
			t.Errorf("%s to %v, which left; before to %v", from, got, first)
		}
	}
	r.Replace(faithful(2))
	for from := range clients {
		if got := leadTo(t, r, from, "10.96.0.5:80"); got != ap("10.1.0.2:8080") {
			t.Errorf("%s back to %v", from, got)
		}
	}
}

func TestWhoeverDidNotComeMeanwhileIsNotLedBackEither(t *testing.T) {
	r := registry(t, faithful(2))
	var clients []string
	for i := range 100 {
		from := fmt.Sprintf("10.2.0.%d", i)
		if leadTo(t, r, from, "10.96.0.5:80") == ap("10.1.0.1:8080") {
			clients = append(clients, from)
		}
	}
	without := faithful(2)
	without.Workloads[0].Terminated = true
	r.Replace(without)
	r.Replace(faithful(2))
	for _, from := range clients {
		if leadTo(t, r, from, "10.96.0.5:80") != ap("10.1.0.1:8080") {
			return
		}
	}
	t.Errorf("all %d are led back to what left", len(clients))
}

func TestServicesShareWhatIsRememberedOfClients(t *testing.T) {
	k := &clients{share: 100, after: time.Hour, last: map[netip.Addr]visit{}}
	c := newChoice([]endpoint{{addr: ap("10.1.0.1:80")}}, k)
	for i := range 1000 {
		c.choose(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}))
	}
	if len(k.last) != 100 {
		t.Errorf("%d clients are remembered, want 100", len(k.last))
	}
	if _, ok := k.last[netip.AddrFrom4([4]byte{10, 2, 999 >> 8, 999 & 255})]; !ok {
		t.Error("the last client is not remembered")
	}
	mesh := faithful(1)
	r := registry(t, mesh)
	for key, k := range r.index.Load().clients {
		if k.share != maxClients/2 {
			t.Errorf("one of two ports, %v, may remember %d clients", key, k.share)
		}
	}
}

func TestClientsAreLedWhileSnapshotsChange(t *testing.T) {
	r := registry(t, faithful(4))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 300 {
				if _, err := r.Resolve(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), ap("10.96.0.5:80")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 100 {
		r.Replace(faithful(1 + i%4))
	}
	wg.Wait()
}

func BenchmarkResolveServiceWithAffinity(b *testing.B) {
	mesh := faithful(200)
	r := NewRegistry([]netip.Prefix{prefix("10.0.0.0/8")})
	r.Replace(mesh)
	from, dst := addr("10.2.0.1"), ap("10.96.0.5:80")
	for b.Loop() {
		if _, err := r.Resolve(from, dst); err != nil {
			b.Fatal(err)
		}
	}
}
