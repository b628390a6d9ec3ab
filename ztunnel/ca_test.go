// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestTheCAIsFoundByTheEndpointsOfItsService(t *testing.T) {
	registry := workload.NewRegistry(nil)
	find := replicas("culvert-identity.culvert-system.svc:15012", registry)
	if got := find(); got != nil {
		t.Errorf("before the first snapshot: %v", got)
	}
	endpoint := func(addr string, leaving bool) workload.Endpoint {
		return workload.Endpoint{Addr: netip.MustParseAddrPort(addr), Leaving: leaving}
	}
	for _, test := range []struct {
		endpoints []workload.Endpoint
		want      string
	}{
		{nil, "[]"},
		{[]workload.Endpoint{endpoint("[fd00::1]:15012", false), endpoint("10.0.0.1:15012", false), endpoint("10.0.0.2:15012", true)}, "[10.0.0.1:15012 [fd00::1]:15012]"},
		{[]workload.Endpoint{endpoint("10.0.0.2:15012", true)}, "[10.0.0.2:15012]"},
	} {
		other := workload.ServicePort{Port: 80, Endpoints: []workload.Endpoint{endpoint("10.0.0.9:80", false)}}
		registry.Replace(workload.Mesh{Services: []workload.Service{
			{Namespace: "other", Name: "culvert-identity", Ports: []workload.ServicePort{{Port: 15012, Endpoints: []workload.Endpoint{endpoint("10.0.0.8:1", false)}}}},
			{Namespace: "culvert-system", Name: "culvert-identity", Ports: []workload.ServicePort{other, {Port: 15012, Endpoints: test.endpoints}}},
		}})
		if got := fmt.Sprint(find()); got != test.want {
			t.Errorf("%v, want %s", got, test.want)
		}
	}
	for _, address := range []string{"ca.example:15012", "10.0.0.1:15012", "[fd00::1]:15012", "culvert-identity.culvert-system.svc"} {
		if replicas(address, registry) != nil {
			t.Errorf("%s names a Service", address)
		}
	}
	if replicas("culvert-identity.culvert-system.svc.cluster.local:15012", registry) == nil {
		t.Error("a full name names none")
	}
}
