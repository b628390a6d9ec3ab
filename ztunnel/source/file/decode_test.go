// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// names shows what a file holds, and where.
func names(c contents) []string {
	var out []string
	for _, e := range c.entries {
		out = append(out, fmt.Sprintf("%v: %v", e.place, e.key))
	}
	return out
}

func decodeGood(t *testing.T, name, text string) contents {
	t.Helper()
	c := decode(name, []byte(text), nil)
	if err := errors.Join(c.errs.list...); err != nil {
		t.Fatal(err)
	}
	return c
}

const onePod = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u1}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
`

func TestAFileHoldsDocumentsOfManyKinds(t *testing.T) {
	c := decodeGood(t, "shop.yaml", `# the shop
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
--- # a comment
`+onePod+`
---
# nothing but a comment
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80, targetPort: http}], selector: {app: web}}}
...
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop}
addressType: IPv4
endpoints: []
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.1.0.0/24}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: Hostname, address: node-1}]}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: secure}
handler: kata-qemu
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
status: {conditions: [{type: Reconciled}]}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec: {}
`)
	want := []string{
		"shop.yaml: document 1: Namespace shop",
		"shop.yaml: document 2: Pod shop/web",
		"shop.yaml: document 3: Service shop/web",
		"shop.yaml: document 4: EndpointSlice shop/web-1",
		"shop.yaml: document 5: ServiceAccount default/web",
		"shop.yaml: document 6: Node node-1",
		"shop.yaml: document 7: RuntimeClass secure",
		"shop.yaml: document 8: PeerAuthentication istio-system/default",
		"shop.yaml: document 9: AuthorizationPolicy shop/deny",
	}
	if diff := cmp.Diff(want, names(c)); diff != "" {
		t.Error(diff)
	}
}

func TestEveryLineEndOfYAMLSeparatesDocuments(t *testing.T) {
	const doc = `{apiVersion: v1, kind: Namespace, metadata: {name: %s}}`
	for _, end := range []string{"\n", "\r\n", "\r", "\u0085", "\u2028", "\u2029"} {
		text := fmt.Sprintf(doc, "a") + end + "---" + end + fmt.Sprintf(doc, "b") + end + "..." + end + fmt.Sprintf(doc, "c")
		if got := names(decodeGood(t, "x.yaml", "\ufeff"+text)); len(got) != 3 {
			t.Errorf("line end %q: %v", end, got)
		}
	}
	for _, inner := range []string{"----", "---x", " ---", "x ---"} {
		c := decodeGood(t, "x.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations:\n    x: |\n      "+inner+"\n")
		if len(c.entries) != 1 {
			t.Errorf("%q separates documents", inner)
		}
	}
}

func TestJSONFilesHoldOneValueAfterAnother(t *testing.T) {
	c := decodeGood(t, "x.json", "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\n\t\"metadata\":{\"name\":\"a\"}}\n{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"b\"}}")
	if want := []string{"x.json: document 1: Namespace a", "x.json: document 2: Namespace b"}; !cmp.Equal(names(c), want) {
		t.Errorf("%v", names(c))
	}
}

func TestListsHoldObjects(t *testing.T) {
	c := decodeGood(t, "all.yaml", `
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
---
apiVersion: v1
kind: NamespaceList
items:
- {metadata: {name: b}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthenticationList
items:
- {metadata: {name: default, namespace: shop}, spec: {}}
`)
	want := []string{
		"all.yaml: document 1: items[0]: Namespace a",
		"all.yaml: document 2: items[0]: Namespace b",
		"all.yaml: document 3: items[0]: PeerAuthentication shop/default",
	}
	if diff := cmp.Diff(want, names(c)); diff != "" {
		t.Error(diff)
	}
}

func TestKindsThatTheMeshDoesNotNeedAreIgnored(t *testing.T) {
	c := decodeGood(t, "x.yaml", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {whatever: 1}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: web}}
---
{apiVersion: v1, kind: ConfigMapList, items: []}
`)
	want := []string{
		"x.yaml: document 1: Deployment shop/web (apps/v1)",
		"x.yaml: document 2: ConfigMap web (v1)",
		"x.yaml: document 3: ConfigMapList (v1)",
	}
	if diff := cmp.Diff(want, c.ignored); diff != "" || len(c.entries) != 0 {
		t.Error(diff, names(c))
	}
}

// TestMistakesAreNamedByFileDocumentAndField has one row per kind of mistake.
func TestMistakesAreNamedByFileDocumentAndField(t *testing.T) {
	pod := func(rest string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, uid: u1}, " + rest + "}"
	}
	container := func(rest string) string { return pod("spec: {containers: [{name: c, " + rest + "}]}") }
	service := func(spec string) string {
		return "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: " + spec + "}"
	}
	slice := func(rest string) string {
		return "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, namespace: shop}, " + rest + "}"
	}
	peer := func(spec string) string {
		return "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: shop}, spec: " + spec + "}"
	}
	for _, c := range []struct{ text, want string }{
		// not objects
		{"", "x.yaml: empty; delete the file to delete its objects"},
		{" \n\t\n", "x.yaml: empty; delete the file"},
		{"\xff\xfea\x00", "x.yaml: not UTF-8"},
		{"a: [", "x.yaml: document 1: yaml: line 1: did not find expected node content"},
		{"\n---\na: 1\n---\nb: [\n", "x.yaml: document 2: yaml: line 5: did not find expected node content"},
		{"just text", "x.yaml: document 1: not a Kubernetes object"},
		{"[1, 2]", "x.yaml: document 1: not a Kubernetes object"},
		{"null", "x.yaml: document 1: not a Kubernetes object"},
		{"{apiVersion: v1}", "x.yaml: document 1: kind: required"},
		{"{kind: Pod, metadata: {name: web}}", "x.yaml: document 1: Pod: apiVersion: required"},
		{"{apiVersion: v1, kind: List, items: [{kind: Pod}]}", "x.yaml: document 1: items[0]: Pod: apiVersion: required"},
		{"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: []}]}", "items[0]: List: a list in a list"},

		// kinds and versions
		{"{apiVersion: v2, kind: Pod, metadata: {name: web, namespace: shop}}", `x.yaml: document 1: Pod shop/web: apiVersion: "v2": not v1`},
		{"{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice}", `apiVersion: "discovery.k8s.io/v1beta1": not discovery.k8s.io/v1`},
		{"{apiVersion: security.istio.io/v1alpha1, kind: PeerAuthentication, metadata: {name: p}}", `not security.istio.io/v1 or security.istio.io/v1beta1`},
		{"{apiVersion: security.istio.io/v1, kind: PeerAuthenticaton, metadata: {name: p}}", `PeerAuthenticaton p: kind: "PeerAuthenticaton": not one of security.istio.io`},

		{"{apiVersion: v1, kind: pod, metadata: {name: web}}", `pod web: kind: "pod": not Pod`},

		// fields that do not exist, twice or in the wrong type
		{container("port: []"), `x.yaml: document 1: Pod shop/web: unknown field "spec.containers[0].port"`},
		{container("Ports: []"), `unknown field "spec.containers[0].Ports"`},
		{container("ports: [{containerPort: 1}, {containerPort: http}]"), `Pod shop/web: spec.containers[0].ports[1].containerPort: "http": cannot unmarshal string into`},
		{container("resources: {limits: {cpu: lots}}"), `spec.containers[0].resources.limits.cpu: "lots": `},
		{"{apiVersion: v1, kind: Namespace, metadata: {name: a, creationTimestamp: yesterday}}", `metadata.creationTimestamp: "yesterday": `},
		{"{apiVersion: v1, kind: Namespace, metadata: {name: 7}}", `Namespace: metadata.name: 7: cannot unmarshal number`},
		{"{apiVersion: v1, kind: Namespace, metadata: [a]}", `metadata[0]: "a": cannot unmarshal`},
		{peer("{mtls: {mode: STRICT, strict: true}}"), `unknown field "spec.mtls.strict"`},
		{peer("{mtls: {mode: 1}}"), `spec.mtls.mode: 1: `},
		{"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {rules: [{from: [{source: {principal: [a]}}]}]}}",
			`AuthorizationPolicy shop/p: unknown field "spec.rules[0].from[0].source.principal"`},

		// names and labels
		{"{apiVersion: v1, kind: Namespace}", "metadata.name: required"},
		{"{apiVersion: v1, kind: Namespace, metadata: {name: Shop}}", `metadata.name: "Shop": a lowercase RFC 1123 label`},
		{"{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: a.b}}", `metadata.namespace: "a.b": `},
		{"{apiVersion: v1, kind: ServiceAccount, metadata: {name: a_b}}", `ServiceAccount default/a_b: metadata.name: "a_b": `},
		{"{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {culvert.dev/mesh: \"true\"}}}", `metadata.labels[culvert.dev/mesh]: "true": not enabled or disabled`},

		// pods
		{"{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {containers: [{name: c}]}}", "Pod shop/web: metadata.uid: required"},
		{pod("spec: {containers: []}"), "spec.containers: required"},
		{pod("spec: {containers: [{name: c}], serviceAccountName: A}"), `spec.serviceAccountName: "A": `},
		{container("ports: [{containerPort: 8080}, {containerPort: 70000}]"), "spec.containers[0].ports[1].containerPort: 70000: not a port from 1 to 65535"},
		{container("ports: [{name: h, containerPort: 1}, {name: h, containerPort: 2}]"), `spec.containers[0].ports[1].name: "h": twice`},
		{container("ports: [{name: UP, containerPort: 1}]"), `spec.containers[0].ports[0].name: "UP": `},
		{container("ports: [{containerPort: 1, protocol: HTTP}]"), `spec.containers[0].ports[0].protocol: "HTTP": not TCP, UDP or SCTP`},
		{container("livenessProbe: {httpGet: {port: http}}"), `spec.containers[0].livenessProbe.httpGet.port: "http": no port of this container`},
		{container("readinessProbe: {tcpSocket: {port: 0}}"), "spec.containers[0].readinessProbe.tcpSocket.port: 0: not a port"},
		{container("startupProbe: {grpc: {port: -1}}"), "spec.containers[0].startupProbe.grpc.port: -1: not a port"},
		{container("lifecycle: {preStop: {httpGet: {port: \"0\"}}}"), `spec.containers[0].lifecycle.preStop.httpGet.port: "0": no port`},
		{container("lifecycle: {postStart: {tcpSocket: {port: x}}}"), `lifecycle.postStart.tcpSocket.port: "x"`},
		{pod("spec: {containers: [{name: c}], initContainers: [{name: i, ports: [{containerPort: 0}]}]}"), "spec.initContainers[0].ports[0].containerPort: 0"},
		{pod("spec: {containers: [{name: c}]}, status: {podIP: 10.0.0.256}"), `status.podIP: "10.0.0.256": not an IP address`},
		{pod("spec: {containers: [{name: c}]}, status: {podIPs: [{ip: 10.0.0.1}, {ip: fe80::1%eth0}]}"), `status.podIPs[1].ip: "fe80::1%eth0": not an IP address`},
		{pod("spec: {containers: [{name: c}]}, status: {hostIP: node-1}"), `status.hostIP: "node-1"`},
		{pod("spec: {containers: [{name: c}]}, status: {hostIPs: [{ip: x}]}"), `status.hostIPs[0].ip: "x"`},
		{pod("spec: {containers: [{name: c}]}, status: {phase: Up}"), `status.phase: "Up": not Pending`},
		{pod("spec: {containers: [{name: c}]}, status: {conditions: [{type: Ready, status: yes}]}"), `status.conditions[0].status: true: `},
		{pod("spec: {containers: [{name: c}]}, status: {conditions: [{type: Ready, status: \"yes\"}]}"), `status.conditions[0].status: "yes": not True, False or Unknown`},

		// services
		{container("ports: [{containerPort: 1, hostPort: 70000}]"), `spec.containers[0].ports[0].hostPort: 70000: not a port`},
		{container("ports: [{containerPort: 1, hostPort: 1, hostIP: node}]"), `spec.containers[0].ports[0].hostIP: "node": not an IP address`},
		{"{apiVersion: v1, kind: Node, metadata: {name: node-1}, status: {addresses: [{type: InternalIP, address: there}]}}", `Node node-1: status.addresses[0].address: "there": not an IP address`},
		{service("{internalTrafficPolicy: local}"), `spec.internalTrafficPolicy: "local": not Cluster or Local`},
		{service("{trafficDistribution: PreferZone}"), `spec.trafficDistribution: "PreferZone": not one of PreferClose, PreferSameZone, PreferSameNode`},
		{service("{sessionAffinity: Cookie}"), `spec.sessionAffinity: "Cookie": not None or ClientIP`},
		{service("{sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}"), `spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0: not 1 to 86400`},
		{service("{loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.1]}"), `spec.loadBalancerSourceRanges[1]: "10.0.0.1": not a CIDR`},
		{service("{externalIPs: [x]}"), `spec.externalIPs[0]: "x": not an IP address`},
		{service("{externalTrafficPolicy: local}"), `spec.externalTrafficPolicy: "local": not Cluster or Local`},
		{service("{ports: [{port: 80, nodePort: -1}]}"), `spec.ports[0].nodePort: -1: not a port`},
		{service("{type: Cluster}"), `spec.type: "Cluster": not ClusterIP`},
		{service("{clusterIP: none}"), `spec.clusterIP: "none": not an IP address`},
		{service("{clusterIPs: [10.0.0.1, x]}"), `spec.clusterIPs[1]: "x"`},
		{service("{ports: [{port: 0}]}"), "spec.ports[0].port: 0: not a port"},
		{service("{ports: [{port: 80, targetPort: 70000}]}"), "spec.ports[0].targetPort: 70000: not a port"},
		{service("{ports: [{port: 80, targetPort: H_T}]}"), `spec.ports[0].targetPort: "H_T": `},
		{service("{ports: [{port: 80}, {name: b, port: 81}]}"), "spec.ports[0].name: required with more than one port"},
		{service("{ports: [{name: a, port: 80}, {name: a, port: 81}]}"), `spec.ports[1].name: "a": twice`},
		{service("{ports: [{name: a, port: 80}, {name: b, port: 80, protocol: TCP}]}"), "spec.ports[1].port: 80: twice"},
		{"{apiVersion: v1, kind: Service, metadata: {name: web}, status: {loadBalancer: {ingress: [{ip: x}]}}}", `status.loadBalancer.ingress[0].ip: "x"`},

		// slices
		{slice("addressType: IP"), `EndpointSlice shop/web-1: addressType: "IP": not IPv4, IPv6 or FQDN`},
		{slice("addressType: IPv4, endpoints: [{addresses: [10.0.0.1, x]}]"), `endpoints[0].addresses[1]: "x": not an IP address`},
		{slice("addressType: IPv6, endpoints: [{addresses: [10.0.0.1]}]"), `endpoints[0].addresses[0]: "10.0.0.1": not IPv6`},
		{slice("addressType: IPv4, endpoints: [], ports: [{port: 0}]"), "ports[0].port: 0: not a port"},
		{slice("addressType: IPv4, endpoints: [], ports: [{protocol: X}]"), `ports[0].protocol: "X"`},

		// policies
		{peer("{mtls: {mode: strict}}"), `PeerAuthentication shop/p: spec.mtls.mode: "strict": not UNSET, DISABLE, PERMISSIVE or STRICT`},
		{peer("{portLevelMtls: {80: {mode: STRICT}}}"), "PeerAuthentication shop/p: spec.portLevelMtls: needs spec.selector.matchLabels"},
		{"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {action: REFUSE}}", `AuthorizationPolicy shop/p: spec.action: "REFUSE"`},
	} {
		got := decode("x.yaml", []byte(c.text), nil)
		err := report(got.errs.list)
		if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "x.yaml: ") {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		}
		if slices.ContainsFunc(got.entries, func(e entry) bool { return !e.broken }) {
			t.Errorf("%q: read in spite of %v", c.text, err)
		}
	}
}

func TestAllMistakesOfAFileAreReported(t *testing.T) {
	c := decode("x.yaml", []byte(onePod+"---\n{kind: Pod}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: A}}\n"), nil)
	want := []string{
		"x.yaml: document 2: Pod: apiVersion: required",
		`x.yaml: document 3: Pod default/A: metadata.name: "A": `,
		"x.yaml: document 3: Pod default/A: metadata.uid: required",
		"x.yaml: document 3: Pod default/A: spec.containers: required",
	}
	if len(c.errs.list) != len(want) || len(c.entries) != 2 || c.entries[0].broken || !c.entries[1].broken || !c.blind {
		t.Fatalf("errors %v of %+v", c.errs, c.entries)
	}
	for i := range want {
		if !strings.HasPrefix(c.errs.list[i].Error(), want[i]) {
			t.Errorf("%v, want %s", c.errs.list[i], want[i])
		}
	}
}

func TestAnObjectMayStandOnlyOnce(t *testing.T) {
	twin := strings.Replace(onePod, "name: web", "name: twin", 1)
	for _, c := range []struct{ a, b, want string }{
		{onePod, onePod, "b.yaml: document 1: Pod shop/web: is also in a.yaml: document 1"},
		{onePod, twin, `b.yaml: document 1: Pod shop/twin: metadata.uid: "u1": is also that of Pod shop/web in a.yaml: document 1`},
		{onePod, strings.Replace(twin, "u1", "u2", 1), ""},
		{"{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p}}", "{apiVersion: security.istio.io/v1beta1, kind: PeerAuthentication, metadata: {name: p, namespace: default}}",
			"b.yaml: document 1: PeerAuthentication default/p: is also in a.yaml: document 1"},
	} {
		v := &seen{claims: map[key][]entry{}}
		v.claim(decodeGood(t, "a.yaml", c.a))
		v.claim(decodeGood(t, "b.yaml", c.b))
		v.doubt()
		if got := v.errs.Error(); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
}

func TestAReportOfManyErrorsIsShort(t *testing.T) {
	var r report
	for i := range 25 {
		r = append(r, fmt.Errorf("error %d", i))
	}
	lines := strings.Split(r.Error(), "\n")
	if len(lines) != 21 || lines[20] != "and 5 more" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}
