// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"slices"
	"testing"
)

func TestServicesWithNobodyReadyAreListedByFamilyAndPort(t *testing.T) {
	web := pod("web", "u1", "10.1.0.2", "fd00::2")
	svc := Service{
		Namespace: "shop", Name: "web",
		VIPs:            []netip.Addr{addr("10.96.0.1"), addr("fd00:96::1")},
		LoadBalancerIPs: []netip.Addr{addr("203.0.113.1"), addr("10.1.0.2")}, // the second is a pod's
		Ports: []ServicePort{
			{Name: "both", Port: 80, Endpoints: ready("10.1.0.2:8080", "[fd00::2]:8080")},
			{Name: "four", Port: 81, Endpoints: ready("10.1.0.2:8080")},
			{Name: "none", Port: 82},
			{Name: "stale", Port: 83, Endpoints: ready("10.9.9.9:8080")},
		},
	}
	headless := Service{Namespace: "shop", Name: "headless", Headless: true, Ports: []ServicePort{{Port: 80}}}
	r := registry(t, Mesh{Workloads: Pack(web), Services: []Service{svc, headless}})
	want := []netip.AddrPort{
		ap("10.96.0.1:82"), ap("10.96.0.1:83"), ap("203.0.113.1:82"), ap("203.0.113.1:83"),
		ap("[fd00:96::1]:81"), ap("[fd00:96::1]:82"), ap("[fd00:96::1]:83"),
	}
	got := r.Nobody()
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	for _, dst := range got {
		refused(t, r, dst.String(), ErrNoEndpoint, "")
	}
	if d := resolve(t, r, "10.96.0.1:81"); !d.Only {
		t.Error("the only endpoint is not said to be")
	}

	// The next snapshot has somebody.
	svc.Ports[2].Endpoints = svc.Ports[0].Endpoints
	svc.Ports = svc.Ports[:3]
	svc.VIPs, svc.LoadBalancerIPs = svc.VIPs[:1], nil
	r.Replace(Mesh{Workloads: Pack(web), Services: []Service{svc}})
	if got := r.Nobody(); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
	if got := NewRegistry(nil).Nobody(); len(got) != 0 {
		t.Errorf("before the first snapshot: %v", got)
	}
}
