// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// rich are objects in which everything that means something stands beside much
// that does not.
func rich(t *testing.T) []source.Object {
	meta := func(name string) string {
		return `{name: ` + name + `, namespace: shop, uid: u-` + name + `, creationTimestamp: "2026-01-02T03:04:05Z", resourceVersion: "7",
 labels: {app: web, kubernetes.io/service-name: web, pod-template-hash: abc}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-abc, uid: r, controller: true}],
 annotations: {culvert.dev/may-forward: "true", kubernetes.io/config.hash: h-` + name + `, kubernetes.io/config.mirror: m, superfluous: "superfluous"}, managedFields: [{manager: superfluous}]}`
	}
	return []source.Object{
		parse[corev1.Namespace](t, `{metadata: {name: shop, labels: {culvert.dev/mesh: enabled}, annotations: {a: superfluous}}}`),
		parse[corev1.Node](t, `{metadata: {name: node-1, labels: {a: superfluous, topology.kubernetes.io/zone: z, topology.kubernetes.io/region: r}}, spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, "fd00::/64"], providerID: superfluous},
 status: {addresses: [{type: InternalIP, address: 192.168.0.1}], images: [{names: [superfluous]}], nodeInfo: {kernelVersion: superfluous}}}`),
		parse[nodev1.RuntimeClass](t, `{metadata: {name: secure, annotations: {a: superfluous}}, handler: kata}`),
		parse[corev1.Pod](t, `
metadata: `+meta("web")+`
spec:
  nodeName: node-1
  serviceAccountName: web
  volumes: [{name: superfluous}]
  initContainers:
  - {name: side, restartPolicy: Always, image: superfluous, ports: [{containerPort: 9, hostPort: 99}], startupProbe: {httpGet: {port: 9}}}
  containers:
  - name: a
    image: superfluous
    env: [{name: superfluous}]
    ports: [{name: http, containerPort: 8080, hostPort: 80, hostIP: 192.168.0.1}]
    livenessProbe: {httpGet: {port: http}}
    readinessProbe: {grpc: {port: 8090}}
    startupProbe: {tcpSocket: {port: 8080, host: 10.1.0.9}}
    lifecycle: {postStart: {httpGet: {port: 8091}}, preStop: {tcpSocket: {port: 8092}}}
status:
  phase: Running
  hostIP: 192.168.0.1
  hostIPs: [{ip: 192.168.0.1}, {ip: 192.168.0.2}]
  podIP: 10.1.0.2
  podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]
  conditions: [{type: Initialized, status: "True", message: superfluous}, {type: Ready, status: "True", reason: superfluous}]
  containerStatuses: [{name: superfluous}]
`),
		parse[corev1.Pod](t, `{metadata: {name: vm, namespace: shop, uid: vm, deletionTimestamp: "2026-01-02T03:04:05Z", annotations: {sidecar.istio.io/status: ""}}, spec: {runtimeClassName: secure, containers: []}, status: {podIP: 10.1.0.3}}`),
		parse[corev1.Pod](t, `{metadata: {name: host, namespace: shop, uid: host}, spec: {hostNetwork: true, containers: []}, status: {phase: Failed, podIP: 192.168.0.1}}`),
		parse[corev1.Service](t, `{metadata: `+meta("web")+`, spec: {type: LoadBalancer, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, "fd96::7"], externalIPs: [192.0.2.7], externalTrafficPolicy: Local, internalTrafficPolicy: Local,
 selector: {app: web}, ports: [{name: web, port: 80, targetPort: http, nodePort: 30080}]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.8}]}}}`),
		parse[corev1.Service](t, `{metadata: {name: bare, namespace: shop}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}`),
		parse[discoveryv1.EndpointSlice](t, `{metadata: `+meta("web-1")+`, addressType: IPv4, ports: [{name: web, port: 8080}],
 endpoints: [{addresses: [10.1.0.2], conditions: {ready: true, serving: true, terminating: false}, targetRef: {name: superfluous}, nodeName: node-1, zone: a, hints: {forZones: [{name: a}], forNodes: [{name: node-1}]}}]}`),
	}
}

func build(t *testing.T, objects []source.Object) source.Snapshot {
	t.Helper()
	b := source.NewBuilder(source.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	for _, o := range objects {
		if err := b.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	return b.Snapshot()
}

func TestWhatIsTrimmedOffMeansNothing(t *testing.T) {
	whole, kept := build(t, rich(t)), []source.Object{}
	for _, o := range rich(t) {
		kept = append(kept, trim(o))
		if data, _ := o.(interface{ Marshal() ([]byte, error) }).Marshal(); strings.Contains(string(data), "superfluous") {
			t.Errorf("%s %s keeps what is superfluous: %q", source.KindOf(o), o.GetName(), data)
		}
	}
	values := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}, spiffeid.ID{})
	if diff := cmp.Diff(whole, build(t, kept), values); diff != "" {
		t.Error(diff)
	}
	if w := whole.Mesh.Workloads[0]; len(w.ProbePorts) < 4 || len(w.ForeignProbes) != 1 || len(w.HostPorts) != 2 || !w.MayForward || !w.Static || !w.Meshed {
		t.Errorf("the pod does not show all that counts: %+v", w)
	}
}
