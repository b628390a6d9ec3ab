// SPDX-License-Identifier: Apache-2.0

package file

import (
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// An address that is nobody's may be the world outside, which is reached in plaintext.
func TestServicesAndNodesNarrowIfTheyLoseNoAddress(t *testing.T) {
	service := func(spec string) string {
		return "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, " + spec + "}"
	}
	node := func(rest string) string {
		return "{apiVersion: v1, kind: Node, metadata: {name: node-1}, " + rest + "}"
	}
	const full = "spec: {type: LoadBalancer, clusterIP: 10.96.0.5, externalIPs: [192.0.2.1], ports: [{port: 80, nodePort: 30080}]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.7}]}}"
	for _, c := range []struct {
		old, next string
		narrows   bool
	}{
		{service(full), service(strings.Replace(full, "port: 80", "port: 81", 1)), true},
		{service(full), service(strings.Replace(full, "[192.0.2.1]", "[192.0.2.2, 192.0.2.1]", 1)), true},
		{service(full), service(strings.Replace(full, "[192.0.2.1]", "[192.0.2.2]", 1)), false},
		{service(full), service(strings.Replace(full, "10.96.0.5", "10.96.0.6", 1)), false},
		{service(full), service(strings.Replace(full, "192.0.2.7", "192.0.2.8", 1)), false},
		{service(full), service(strings.Replace(full, "30080", "30081", 1)), false},
		{service(full), service(strings.Replace(full, "type: LoadBalancer", "type: ClusterIP", 1)), false},
		{node("spec: {podCIDR: 10.1.0.0/24}"), node("spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, fd00::/64]}"), true},
		{node("spec: {podCIDR: 10.1.0.0/24}"), node("spec: {podCIDR: 10.2.0.0/24}"), false},
		{node("spec: {}"), strings.Replace(node("spec: {}"), "node-1", "node-1, labels: {topology.kubernetes.io/zone: a}", 1), true},
		{node("status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}"), node("status: {}"), false},
	} {
		s := New("", Options{})
		old, next := decodeGood(t, "x.yaml", c.old), decodeGood(t, "x.yaml", c.next)
		if got := s.narrows(old.entries[0].object, next.entries[0].object); got != c.narrows {
			t.Errorf("%s\nto %s: narrows is %v", c.old, c.next, got)
		}
		if old.entries[0].mark == next.entries[0].mark {
			t.Errorf("%s\nto %s: asks for the same", c.old, c.next)
		}
		if !s.narrows(nil, next.entries[0].object) {
			t.Errorf("%s is new, and waits", c.next)
		}
	}
}

func TestPodsNarrowIfNothingThatLeadsToThemGoes(t *testing.T) {
	pod := func(ports, rest string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {name: web, uid: u1}, spec: {containers: [{name: c, ports: [" + ports + "]}], nodeName: n1}, status: {" + rest + "}}"
	}
	const port = "{containerPort: 80, hostPort: 8080}"
	const status = "hostIP: 192.0.2.1, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]"
	full := pod(port, status)
	for _, c := range []struct {
		next    string
		narrows bool
	}{
		{pod(port+", {containerPort: 81, hostPort: 8081}", status), true},
		{pod(port+", {containerPort: 81}", status), true},
		{strings.Replace(full, "80}", "80, protocol: TCP}", 1), true},
		{strings.ReplaceAll(full, "10.0.0.1", "10.0.0.2"), true},
		{strings.Replace(full, "hostIP:", "hostIPs: [{ip: 192.0.2.1}, {ip: 192.0.2.2}], hostIP:", 1), true},
		{pod("", status), false},
		{strings.Replace(full, "8080", "8081", 1), false},
		{strings.Replace(full, "containerPort: 80", "containerPort: 81", 1), false},
		{strings.Replace(full, "hostPort: 8080", "hostPort: 8080, hostIP: 192.0.2.1", 1), false},
		{strings.Replace(full, "192.0.2.1", "192.0.2.2", 1), false},
		{strings.Replace(full, "hostIP: 192.0.2.1, ", "", 1), false},
		{strings.Replace(full, ", {ip: 'fd00::1'}", "", 1), false},
		{strings.Replace(full, ", nodeName: n1", "", 1), false},
		{pod(port, "hostIP: 192.0.2.1"), false},
	} {
		s := New("", Options{})
		old, next := decodeGood(t, "x.yaml", full).entries[0], decodeGood(t, "x.yaml", c.next).entries[0]
		if got := s.narrows(old.object, next.object); got != c.narrows {
			t.Errorf("%s\nto %s: narrows is %v", full, c.next, got)
		}
		if !c.narrows && old.mark == next.mark {
			t.Errorf("%s\nto %s: asks for the same", full, c.next)
		}
	}
}

func TestAuthorizationNarrowsWithFewerRulesAndMoreDenials(t *testing.T) {
	authz := func(name, spec string) object {
		return decodeGood(t, "x.yaml", "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: "+name+", namespace: shop}, spec: "+spec+"}").entries[0].object
	}
	const a, b = "{from: [{source: {namespaces: [a]}}]}", "{from: [{source: {namespaces: [b]}}]}"
	for _, c := range []struct {
		beside, old, next string // empty: there is none
		narrows           bool
	}{
		{"", "", "{rules: [" + a + "]}", true},                                     // nobody but a, of all
		{"{rules: [" + b + "]}", "", "{rules: [" + a + "]}", false},                // a, beside b
		{"{rules: [" + b + "]}", "", "{}", true},                                   // nobody, beside b
		{"{rules: [" + b + "]}", "", "{action: DENY, rules: [" + a + "]}", true},   // not a
		{"{action: DENY, rules: [" + b + "]}", "", "{rules: [" + a + "]}", true},   // only a
		{"", "{rules: [" + a + ", " + b + "]}", "{rules: [" + a + "]}", true},      // b no more
		{"", "{rules: [" + a + "]}", "{rules: [" + b + "]}", false},                // b instead
		{"", "{rules: [" + a + "]}", "{rules: [" + a + "], action: ALLOW}", true},  // the same
		{"", "{rules: [" + a + "]}", "{rules: [" + a + "], action: DENY}", false},  // all but a
		{"", "{rules: [" + a + "]}", "{rules: [" + a + "], action: AUDIT}", false}, // says nothing
		{"", "{}", "{selector: {matchLabels: {app: web}}}", false},                 // others are free
		{"", "{}", "{targetRefs: [{kind: Gateway, name: w}]}", false},              // all are free
		{"", "{action: DENY, rules: [" + a + "]}", "{action: DENY, rules: [" + a + ", " + b + "]}", true},
		{"", "{action: DENY, rules: [" + a + ", " + b + "]}", "{action: DENY, rules: [" + a + "]}", false},
		{"", "{action: DENY, rules: [" + a + "]}", "{action: DENY}", false},
		{"", "{action: DENY, rules: [" + a + "]}", "{action: CUSTOM, rules: [" + a + "]}", false},
	} {
		s := New("", Options{})
		if c.beside != "" {
			other := authz("other", c.beside)
			s.force.entries[key{source.KindAuthorizationPolicy, source.Name{Namespace: "shop", Name: "other"}}] = entry{object: other}
		}
		var old object
		if c.old != "" {
			old = authz("p", c.old)
		}
		if got := s.narrows(old, authz("p", c.next)); got != c.narrows {
			t.Errorf("beside %q, %q to %q: narrows is %v", c.beside, c.old, c.next, got)
		}
	}
}
