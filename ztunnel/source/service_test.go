// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const webService = `
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.5
  clusterIPs: [10.96.0.5, "fd00:96::5"]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: admin, port: 81, targetPort: 9090}
  - {name: dns, port: 53, protocol: UDP}
`

// endpoints shows a snapshot's only service as "name: addresses", a ! after those
// that are on their way out.
func endpoints(t *testing.T, o Objects) map[string]string {
	t.Helper()
	s := mustBuild(t, o)
	if len(s.Mesh.Services) != 1 {
		t.Fatalf("%d services", len(s.Mesh.Services))
	}
	out := map[string]string{}
	for _, p := range s.Mesh.Services[0].Ports {
		addrs := []string{}
		for _, e := range p.Endpoints {
			addr := e.Addr.String()
			if e.Leaving {
				addr += "!"
			}
			addrs = append(addrs, addr)
		}
		out[fmt.Sprintf("%s %d", p.Name, p.Port)] = fmt.Sprint(addrs)
	}
	return out
}

func webPod(t *testing.T, name, ip string, more string) *corev1.Pod {
	t.Helper()
	return parse[corev1.Pod](t, fmt.Sprintf(`
metadata: {name: %s, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 80%s}]}]}
status: {podIPs: [{ip: %s}, {ip: "fd00::%s"}]%s}`, name, ip[len(ip)-2:], ip, ip[len(ip)-2:], more))
}

func TestWithoutSlicesEndpointsAreTheReadyPodsThatMatch(t *testing.T) {
	svc := parse[corev1.Service](t, webService)
	elsewhere := webPod(t, "elsewhere", "10.1.0.14", "")
	elsewhere.Namespace = "bank"
	unlike := webPod(t, "unlike", "10.1.0.15", "")
	unlike.Labels = map[string]string{"app": "db"}
	nameless := webPod(t, "nameless", "10.1.0.16", "")
	nameless.Spec.Containers[0].Ports[0].Name = "other"
	got := endpoints(t, Objects{
		Services: []*corev1.Service{svc},
		Pods: []*corev1.Pod{
			webPod(t, "b", "10.1.0.12", ""), webPod(t, "a", "10.1.0.11", ""),
			webPod(t, "unready", "10.1.0.13", `, conditions: [{type: Ready, status: "False"}]`),
			webPod(t, "done", "10.1.0.17", `, phase: Succeeded`),
			elsewhere, unlike, nameless,
		},
	})
	want := map[string]string{
		"http 80":  "[10.1.0.11:8011 10.1.0.12:8012 [fd00::11]:8011 [fd00::12]:8012]",
		"admin 81": "[10.1.0.11:9090 10.1.0.12:9090 10.1.0.16:9090 [fd00::11]:9090 [fd00::12]:9090 [fd00::16]:9090]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestASnapshotOfPodsPublishesUnreadyOnesWhenTheServiceSaysSo(t *testing.T) {
	svc := parse[corev1.Service](t, webService)
	svc.Spec.PublishNotReadyAddresses = true
	got := endpoints(t, Objects{Services: []*corev1.Service{svc}, Pods: []*corev1.Pod{
		webPod(t, "unready", "10.1.0.13", `, conditions: [{type: Ready, status: "False"}]`),
		webPod(t, "done", "10.1.0.17", `, phase: Failed`),
	}})
	if want := "[10.1.0.13:8013 [fd00::13]:8013]"; got["http 80"] != want {
		t.Errorf("endpoints %v, want %s", got, want)
	}
}

func TestPodsOnTheirWayOutAreToldAsSuchWhileTheyServe(t *testing.T) {
	svc := parse[corev1.Service](t, webService)
	leaving := webPod(t, "leaving", "10.1.0.13", `, conditions: [{type: Ready, status: "True"}]`)
	leaving.DeletionTimestamp = &leaving.CreationTimestamp
	broken := webPod(t, "broken", "10.1.0.14", `, conditions: [{type: Ready, status: "False"}]`)
	broken.DeletionTimestamp = &broken.CreationTimestamp
	objects := Objects{Services: []*corev1.Service{svc}, Pods: []*corev1.Pod{leaving, broken, webPod(t, "staying", "10.1.0.15", "")}}
	if got, want := endpoints(t, objects)["http 80"], "[10.1.0.13:8013! 10.1.0.15:8015 [fd00::13]:8013! [fd00::15]:8015]"; got != want {
		t.Errorf("endpoints %s, want %s", got, want)
	}
}

func TestSlicesAreTakenTogetherAndReplacePods(t *testing.T) {
	svc := parse[corev1.Service](t, webService)
	got := endpoints(t, Objects{
		Services: []*corev1.Service{svc},
		Pods:     []*corev1.Pod{webPod(t, "not-in-a-slice", "10.1.0.11", "")},
		EndpointSlices: []*discoveryv1.EndpointSlice{
			slice(t, `
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: admin, port: 9090}, {name: dns, port: 53, protocol: UDP}, {name: http}]
endpoints:
- addresses: [10.1.0.21]
- {addresses: [10.1.0.22], conditions: {ready: true}}
- {addresses: [10.1.0.23], conditions: {ready: false}}
- {addresses: [10.1.0.24], conditions: {ready: false, serving: true, terminating: true}}`),
			slice(t, `
metadata: {name: web-2, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8081}]
endpoints: [{addresses: [10.1.0.25]}, {addresses: [10.1.0.25]}]`),
			slice(t, `
metadata: {name: web-6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ["fd00::24"], conditions: {ready: false, serving: true, terminating: true}}, {addresses: ["fd00::26"], conditions: {ready: false, serving: false, terminating: true}}, {addresses: ["fd00::27", "fd00::28"], conditions: {ready: false, terminating: true}}]`),
			slice(t, `
metadata: {name: web-name, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: FQDN
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [web.example]}]`),
			slice(t, `
metadata: {name: other, namespace: shop, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.31]}]`),
			slice(t, `
metadata: {name: web-1, namespace: bank, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.32]}]`),
		},
	})
	want := map[string]string{
		"http 80":  "[10.1.0.21:8080 10.1.0.22:8080 10.1.0.24:8080! 10.1.0.25:8081 [fd00::24]:8080! [fd00::27]:8080!]",
		"admin 81": "[10.1.0.21:9090 10.1.0.22:9090 10.1.0.24:9090!]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUnreadyEndpointsInSlicesArePublishedWhenTheServiceSaysSo(t *testing.T) {
	svc := parse[corev1.Service](t, webService)
	svc.Spec.PublishNotReadyAddresses = true
	got := endpoints(t, Objects{Services: []*corev1.Service{svc}, EndpointSlices: []*discoveryv1.EndpointSlice{slice(t, `
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.23], conditions: {ready: false}}]`)}})
	if got["http 80"] != "[10.1.0.23:8080]" {
		t.Errorf("endpoints %v", got)
	}
}

func TestAServiceWithoutSelectorHasOnlyItsSlices(t *testing.T) {
	svc := parse[corev1.Service](t, `{metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.96.0.6, ports: [{port: 5432}]}}`)
	objects := Objects{Services: []*corev1.Service{svc}, Pods: []*corev1.Pod{webPod(t, "a", "10.1.0.11", "")}}
	if got := endpoints(t, objects); got[" 5432"] != "[]" {
		t.Errorf("endpoints %v", got)
	}
	objects.EndpointSlices = []*discoveryv1.EndpointSlice{slice(t, `
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: "", port: 15432}]
endpoints: [{addresses: [192.0.2.7]}]`)}
	if got := endpoints(t, objects); got[" 5432"] != "[192.0.2.7:15432]" {
		t.Errorf("endpoints %v", got)
	}
}

func TestVirtualAddressesOfServices(t *testing.T) {
	for _, c := range []struct {
		spec, status string
		vips, lbs    string
		headless     bool
	}{
		{`{clusterIP: 10.96.0.5}`, `{}`, "[10.96.0.5]", "[]", false},
		{`{clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, "fd00::5"]}`, `{}`, "[10.96.0.5 fd00::5]", "[]", false},
		{`{clusterIP: None, clusterIPs: [None]}`, `{}`, "[]", "[]", true},
		{`{}`, `{}`, "[]", "[]", false},
		{`{clusterIP: 10.96.0.5, type: LoadBalancer}`,
			`{loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: Proxy}, {ip: 203.0.113.3, ipMode: VIP}, {hostname: lb.example}]}}`,
			"[10.96.0.5]", "[203.0.113.1 203.0.113.3]", false},
		{`{clusterIP: 10.96.0.5, externalIPs: [198.51.100.7]}`, `{}`, "[10.96.0.5]", "[198.51.100.7]", false},
	} {
		svc := parse[corev1.Service](t, `{metadata: {name: web, namespace: shop}, spec: `+c.spec+`, status: `+c.status+`}`)
		s := mustBuild(t, Objects{Services: []*corev1.Service{svc}}).Mesh.Services[0]
		lbs := fmt.Sprint(slices.Concat(s.LoadBalancerIPs, s.ExternalIPs))
		if got := fmt.Sprint(s.VIPs); got != c.vips || lbs != c.lbs || s.Headless != c.headless {
			t.Errorf("%s: VIPs %s, load balancer %v, headless %v", c.spec, got, lbs, s.Headless)
		}
	}
}

func TestSourceRangesArePrefixesWhateverSpacesAndBitsTheyHave(t *testing.T) {
	svc := parse[corev1.Service](t, `{metadata: {name: web, namespace: shop}, spec: {type: LoadBalancer, loadBalancerSourceRanges: [" 10.1.2.3/16 ", "fd00::/8", there]}}`)
	s := mustBuild(t, Objects{Services: []*corev1.Service{svc}}).Mesh.Services[0]
	if got := fmt.Sprint(s.SourceRanges); got != "[10.1.0.0/16 fd00::/8]" {
		t.Errorf("got %s", got)
	}
}

func TestExternalNamesAreNoServicesOfOurs(t *testing.T) {
	svc := parse[corev1.Service](t, `{metadata: {name: web, namespace: shop}, spec: {type: ExternalName, externalName: example.org, ports: [{port: 80}]}}`)
	if got := mustBuild(t, Objects{Services: []*corev1.Service{svc}}).Mesh.Services; len(got) != 0 {
		t.Errorf("services %v", got)
	}
}

func TestATargetPortThatIsNotSaidIsThePort(t *testing.T) {
	svc := parse[corev1.Service](t, `{metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 8080}]}}`)
	got := endpoints(t, Objects{Services: []*corev1.Service{svc}, Pods: []*corev1.Pod{webPod(t, "a", "10.1.0.11", "")}})
	if got[" 8080"] != "[10.1.0.11:8080 [fd00::11]:8080]" {
		t.Errorf("endpoints %v", got)
	}
}

// What hints say is kept as it is said: who follows them knows the node.
func TestSlicesSayWhereEndpointsAreAndForWhom(t *testing.T) {
	svc := parse[corev1.Service](t, webService)
	local := corev1.ServiceInternalTrafficPolicyLocal
	svc.Spec.InternalTrafficPolicy = &local
	s := mustBuild(t, Objects{Services: []*corev1.Service{svc}, EndpointSlices: []*discoveryv1.EndpointSlice{slice(t, `
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.21], nodeName: node-1, zone: east, hints: {forNodes: [{name: node-1}], forZones: [{name: east}, {name: west}]}}
- {addresses: [10.1.0.22], nodeName: node-2, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.23]}`), slice(t, `
metadata: {name: web-2, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.22], nodeName: node-2}, {addresses: [10.1.0.23], conditions: {ready: false, serving: true, terminating: true}}]`)}}).Mesh.Services[0]
	want := []workload.Endpoint{
		{Addr: netip.MustParseAddrPort("10.1.0.21:8080"), Node: "node-1",
			Hints: &workload.Hints{Nodes: []string{"node-1"}, Zones: []string{"east", "west"}}},
		{Addr: netip.MustParseAddrPort("10.1.0.22:8080"), Node: "node-2"}, // ready by one of two slices
		{Addr: netip.MustParseAddrPort("10.1.0.23:8080")},
	}
	if diff := cmp.Diff(want, s.Ports[0].Endpoints, values); diff != "" || !s.InternalLocal {
		t.Errorf("internalTrafficPolicy Local: %v\n%s", s.InternalLocal, diff)
	}
}

func TestSessionAffinityHasItsTimeoutOrKubernetesDefault(t *testing.T) {
	for spec, want := range map[string]time.Duration{
		`{clusterIP: 10.96.0.5}`:                            0,
		`{clusterIP: 10.96.0.5, sessionAffinity: None}`:     0,
		`{clusterIP: 10.96.0.5, sessionAffinity: ClientIP}`: 3 * time.Hour,
		`{clusterIP: 10.96.0.5, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10}}}`: 10 * time.Second,
	} {
		svc := parse[corev1.Service](t, `{metadata: {name: web, namespace: shop}, spec: `+spec+`}`)
		if got := mustBuild(t, Objects{Services: []*corev1.Service{svc}}).Mesh.Services[0].Affinity; got != want {
			t.Errorf("%s: %v, want %v", spec, got, want)
		}
	}
}

// With EndpointSlices the cluster's own controller writes the hints.
func TestWithoutSlicesHintsFollowTrafficDistribution(t *testing.T) {
	web := webPod(t, "a", "10.1.0.11", "")
	web.Spec.NodeName = "node-1"
	hints := func(b *Builder) *workload.Hints { return b.Snapshot().Mesh.Services[0].Ports[0].Endpoints[0].Hints }
	node := func(zone string) *corev1.Node {
		return parse[corev1.Node](t, `{metadata: {name: node-1, labels: {topology.kubernetes.io/zone: "`+zone+`"}}}`)
	}
	for distribution, want := range map[string]*workload.Hints{
		"":               nil,
		"PreferSomebody": nil,
		"PreferClose":    {Zones: []string{"east"}},
		"PreferSameZone": {Zones: []string{"east"}},
		"PreferSameNode": {Nodes: []string{"node-1"}, Zones: []string{"east"}},
	} {
		svc := parse[corev1.Service](t, webService)
		svc.Spec.TrafficDistribution = &distribution
		b := NewBuilder(options)
		for _, o := range []Object{node("west"), web, svc} {
			if err := b.Set(o); err != nil {
				t.Fatal(err)
			}
		}
		hints(b)
		if err := b.Set(node("east")); err != nil { // a node's zone may become known late
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, hints(b)); diff != "" {
			t.Errorf("%q: %s", distribution, diff)
		}
	}
}
