// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestNodesHaveTheirOwnAddressesAndThoseThatTheirPodsTell(t *testing.T) {
	s := mustBuild(t, Objects{
		Nodes: []*corev1.Node{parse[corev1.Node](t, `
metadata: {name: node-1, labels: {topology.kubernetes.io/region: atlantis, topology.kubernetes.io/zone: east}}
status:
  addresses:
  - {type: InternalIP, address: 192.168.0.1}
  - {type: ExternalIP, address: "2001:db8::1"}
  - {type: Hostname, address: 10.9.9.9}
`)},
		Pods: []*corev1.Pod{
			parse[corev1.Pod](t, `{metadata: {name: a, namespace: shop, uid: a}, spec: {nodeName: node-1}, status: {hostIP: 192.168.0.1, hostIPs: [{ip: 192.168.0.1}, {ip: 192.168.5.1}]}}`),
			parse[corev1.Pod](t, `{metadata: {name: b, namespace: shop, uid: b}, spec: {nodeName: node-2}, status: {hostIP: 192.168.0.2}}`),
		},
	})
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	want := []workload.Node{
		{Name: "node-1", Region: "atlantis", Zone: "east", Addrs: addrs("192.168.0.1", "192.168.5.1", "2001:db8::1")},
		{Name: "node-2", Addrs: addrs("192.168.0.2")},
	}
	if diff := cmp.Diff(want, s.Mesh.Nodes, values); diff != "" {
		t.Error(diff)
	}
}

func TestHostPortsAreThoseOfPodsWithANetworkOfTheirOwn(t *testing.T) {
	const pod = `
metadata: {name: a, namespace: shop, uid: a}
spec:
  initContainers:
  - {name: once, ports: [{containerPort: 1, hostPort: 1}]}
  - {name: side, restartPolicy: Always, ports: [{containerPort: 9, hostPort: 99}]}
  containers:
  - name: web
    ports:
    - {containerPort: 8080, hostPort: 80, hostIP: 192.168.0.1}
    - {containerPort: 53, hostPort: 53, protocol: UDP}
    - {containerPort: 8081}
`
	want := []workload.HostPort{
		{Addr: netip.MustParseAddr("192.168.0.1"), Port: 80, To: 8080},
		{Port: 99, To: 9},
	}
	if diff := cmp.Diff(want, onlyWorkload(t, pod).HostPorts, values); diff != "" {
		t.Error(diff)
	}
	if got := onlyWorkload(t, pod+"  hostNetwork: true\n").HostPorts; got != nil {
		t.Errorf("in the node's own network: %v", got)
	}
}

func TestNodePortsAreThoseOfTypesThatHaveThem(t *testing.T) {
	for kind, want := range map[string]uint16{"NodePort": 30080, "LoadBalancer": 30080, "ClusterIP": 0} {
		s := mustBuild(t, Objects{Services: []*corev1.Service{parse[corev1.Service](t, `
metadata: {name: web, namespace: shop}
spec: {type: `+kind+`, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}, {port: 53, nodePort: 30053, protocol: UDP}]}
`)}}).Mesh.Services[0]
		if len(s.Ports) != 1 || s.Ports[0].NodePort != want || !s.Local {
			t.Errorf("%s: %+v", kind, s)
		}
	}
}
