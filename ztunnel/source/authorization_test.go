// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// guarded is the workload that vectors try to reach, at 10.0.1.1 or fd00::1.
var guarded = workload.Workload{UID: "u1", Namespace: "shop", Name: "db-1", ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db"), Labels: workload.NewLabels(map[string]string{"app": "db"})}

// attempt reads "PEER SOURCE PORT", for instance "shop/web 10.0.0.1 8080". PEER is a
// ServiceAccount, a SPIFFE ID, or "-" for plaintext.
func attempt(t *testing.T, text string) policy.Request {
	t.Helper()
	parts := strings.Fields(text)
	r := policy.Request{Src: netip.MustParseAddr(parts[1]), Dst: guarded, Addr: netip.MustParseAddr("10.0.1.1")}
	if r.Src.Is6() && !r.Src.Is4In6() {
		r.Addr = netip.MustParseAddr("fd00::1")
	}
	switch namespace, name, _ := strings.Cut(parts[0], "/"); {
	case strings.HasPrefix(parts[0], "spiffe://"):
		r.Peer = spiffeid.RequireFromString(parts[0])
	case parts[0] != "-":
		r.Peer = spiffeid.RequireFromSegments(td, "ns", namespace, "sa", name)
	}
	port, err := strconv.ParseUint(parts[2], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	r.Port = uint16(port)
	return r
}

// enforced puts policies in force: each "NAMESPACE/NAME SPEC".
func enforced(t *testing.T, policies ...string) *policy.Set {
	t.Helper()
	var o Objects
	for _, text := range policies {
		name, spec, _ := strings.Cut(text, " ")
		namespace, name, _ := strings.Cut(name, "/")
		if mode, ok := strings.CutPrefix(spec, "mtls "); ok {
			o.PeerAuthentications = append(o.PeerAuthentications, parse[PeerAuthentication](t,
				fmt.Sprintf("{metadata: {name: %s, namespace: %s}, spec: {mtls: {mode: %s}}}", name, namespace, mode)))
			continue
		}
		o.AuthorizationPolicies = append(o.AuthorizationPolicies, parse[AuthorizationPolicy](t,
			fmt.Sprintf("{metadata: {name: %s, namespace: %s}, spec: %s}", name, namespace, spec)))
	}
	s := policy.NewSet()
	s.Replace(mustBuild(t, o).Policies)
	return s
}

func allow(rules string) string { return "shop/a {action: ALLOW, rules: [" + rules + "]}" }
func deny(rules string) string  { return "shop/d {action: DENY, rules: [" + rules + "]}" }
func source(fields string) string {
	return "{from: [{source: {" + fields + "}}]}"
}
func operation(fields string) string {
	return "{to: [{operation: {" + fields + "}}]}"
}

// authorizationVectors is Appendix B: each policy with what it lets in and its refused
// twin. Every field has a row, in its positive and its negative form.
var authorizationVectors = []struct {
	name     string
	policies []string
	lets     []string
	refuses  []string
}{
	{"nothing said", nil, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 80"}, nil},
	{"spec: {}", []string{"shop/a {}"}, nil, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 80"}},
	{"ALLOW without rules", []string{"shop/a {action: ALLOW}"}, nil, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 80"}},
	{"DENY without rules", []string{"shop/a {action: DENY}"}, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 80"}, nil},
	{"ALLOW all", []string{allow("{}")}, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 80"}, nil},
	{"ALLOW all under STRICT", []string{allow("{}"), "shop/p mtls STRICT"}, []string{"shop/web 10.0.0.1 80"}, []string{"- 10.0.0.1 80"}},
	{"DENY all", []string{deny("{}")}, nil, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 80"}},

	{"anybody with an identity", []string{allow(source(`principals: ["*"]`))}, []string{"shop/web 10.0.0.1 80", "bank/x 10.0.0.1 80"}, []string{"- 10.0.0.1 80"}},
	{"DENY notPrincipals * is STRICT", []string{deny(source(`notPrincipals: ["*"]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"- 10.0.0.1 80"}},
	{"exact principal", []string{allow(source(`principals: [cluster.local/ns/shop/sa/web]`))},
		[]string{"shop/web 10.0.0.1 80"}, []string{"shop/we 10.0.0.1 80", "shop/web2 10.0.0.1 80", "bank/web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"principal by prefix", []string{allow(source(`principals: ["cluster.local/ns/shop/*"]`))},
		[]string{"shop/web 10.0.0.1 80", "shop/x 10.0.0.1 80"}, []string{"shop2/web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"principal by suffix", []string{allow(source(`principals: ["*/sa/web"]`))},
		[]string{"shop/web 10.0.0.1 80", "bank/web 10.0.0.1 80"}, []string{"shop/my-web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"a * in the middle is itself", []string{allow(source(`principals: ["cluster.local/ns/*/sa/web"]`))}, nil, []string{"shop/web 10.0.0.1 80"}},
	{"a * at both ends is itself", []string{allow(source(`principals: ["*sa/web*"]`))}, nil, []string{"shop/web 10.0.0.1 80"}},
	{"names with dots are compared exactly", []string{allow(source(`principals: [cluster.local/ns/shop/sa/a.b]`))},
		[]string{"shop/a.b 10.0.0.1 80"}, []string{"shop/axb 10.0.0.1 80"}}, // CVE-2026-39350: no regular expressions
	{"case is compared", []string{allow(source(`principals: [cluster.local/ns/shop/sa/Web]`))}, nil, []string{"shop/web 10.0.0.1 80"}},
	{"DENY principal", []string{deny(source(`principals: [cluster.local/ns/shop/sa/web]`))}, []string{"shop/x 10.0.0.1 80", "- 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 80"}},
	{"ALLOW notPrincipals", []string{allow(source(`notPrincipals: [cluster.local/ns/shop/sa/web]`))}, []string{"shop/x 10.0.0.1 80", "- 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 80"}},
	{"positive and negative together", []string{allow(source(`principals: ["cluster.local/ns/shop/*"], notPrincipals: ["*/sa/web"]`))},
		[]string{"shop/x 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 80", "bank/x 10.0.0.1 80"}},

	{"namespace", []string{allow(source(`namespaces: [shop]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"shop2/web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"namespaces by prefix", []string{allow(source(`namespaces: ["team-*"]`))}, []string{"team-a/web 10.0.0.1 80"}, []string{"team/web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"namespaces by suffix", []string{allow(source(`namespaces: ["*-prod"]`))}, []string{"a-prod/web 10.0.0.1 80"}, []string{"prod/web 10.0.0.1 80"}},
	{"an ID of another form has no namespace", []string{allow(source(`namespaces: ["*"]`))},
		[]string{"shop/web 10.0.0.1 80"}, []string{"spiffe://cluster.local/ns/shop/sa/web/x 10.0.0.1 80", "spiffe://cluster.local/shop 10.0.0.1 80"}},
	{"DENY namespace", []string{deny(source(`namespaces: [bank]`))}, []string{"shop/web 10.0.0.1 80", "- 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80"}},
	{"ALLOW notNamespaces", []string{allow(source(`notNamespaces: [bank]`))}, []string{"shop/web 10.0.0.1 80", "- 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80"}},

	{"a ServiceAccount of the policy's namespace", []string{allow(source(`serviceAccounts: [web]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80", "shop/x 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"a ServiceAccount of another", []string{allow(source(`serviceAccounts: [bank/web]`))}, []string{"bank/web 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 80"}},
	{"a ServiceAccount of the root namespace's policy", []string{"istio-system/a {rules: [" + source(`serviceAccounts: [web]`) + "]}"}, []string{"istio-system/web 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 80"}},
	{"a ServiceAccount with a dot", []string{allow(source(`serviceAccounts: [a.b]`))}, []string{"shop/a.b 10.0.0.1 80"}, []string{"shop/axb 10.0.0.1 80"}}, // CVE-2026-39350
	{"notServiceAccounts", []string{allow(source(`notServiceAccounts: [web]`))}, []string{"bank/web 10.0.0.1 80", "- 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 80"}},

	{"trustDomains", []string{allow(source(`trustDomains: [cluster.local]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"spiffe://other.example/ns/shop/sa/web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"trustDomains narrow principals", []string{allow(source(`principals: ["*/sa/web"], trustDomains: [other.example]`))},
		[]string{"spiffe://other.example/ns/shop/sa/web 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 80"}},
	{"DENY notTrustDomains", []string{deny(source(`notTrustDomains: [cluster.local]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"spiffe://other.example/ns/shop/sa/web 10.0.0.1 80", "- 10.0.0.1 80"}},

	{"ipBlocks of IPv4", []string{allow(source(`ipBlocks: [10.0.0.0/24]`))}, []string{"- 10.0.0.9 80", "shop/web 10.0.0.255 80", "- ::ffff:10.0.0.9 80"}, []string{"- 10.0.1.0 80", "- fd00::a00:9 80"}},
	{"ipBlocks of IPv6", []string{allow(source(`ipBlocks: ["fd00:1::/64"]`))}, []string{"- fd00:1::9 80"}, []string{"- fd00:1:0:1::9 80", "- 10.0.0.1 80"}},
	{"one address", []string{allow(source(`ipBlocks: [10.0.0.1, "fd00::9"]`))}, []string{"- 10.0.0.1 80", "- fd00::9 80"}, []string{"- 10.0.0.2 80", "- fd00::8 80"}},
	{"host bits", []string{allow(source(`ipBlocks: [10.0.0.77/24]`))}, []string{"- 10.0.0.1 80"}, []string{"- 10.0.1.1 80"}},
	{"v4-mapped is IPv4", []string{allow(source(`ipBlocks: ["::ffff:10.0.0.0/120", "::ffff:10.0.2.1"]`))}, []string{"- 10.0.0.1 80", "- 10.0.2.1 80"}, []string{"- 10.0.1.1 80", "- fd00::1 80"}},
	{"all of a family", []string{allow(source(`ipBlocks: [0.0.0.0/0]`))}, []string{"- 255.255.255.255 80"}, []string{"- fd00::1 80"}},
	{"a zone is not compared", []string{allow(source(`ipBlocks: ["fe80::/10"]`))}, []string{"- fe80::1%eth0 80"}, []string{"- fd00::1%eth0 80"}},
	{"blocks that overlap", []string{allow(source(`ipBlocks: [10.0.0.0/8, 10.1.0.0/16, 10.0.0.1, 12.0.0.0/8]`))}, []string{"- 10.2.0.1 80", "- 12.0.0.1 80"}, []string{"- 11.0.0.1 80", "- 13.0.0.0 80"}},
	{"DENY ipBlocks", []string{deny(source(`ipBlocks: [10.0.0.0/24]`))}, []string{"- 10.0.1.1 80"}, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 80"}},
	{"ALLOW notIpBlocks", []string{allow(source(`notIpBlocks: [10.0.0.0/24]`))}, []string{"- 10.0.1.1 80"}, []string{"- 10.0.0.1 80"}},

	{"ports", []string{allow(operation(`ports: ["8080", "9090"]`))}, []string{"- 10.0.0.1 8080", "shop/web 10.0.0.1 9090"}, []string{"- 10.0.0.1 80", "shop/web 10.0.0.1 15008"}},
	{"notPorts", []string{allow(operation(`notPorts: ["22"]`))}, []string{"- 10.0.0.1 80"}, []string{"- 10.0.0.1 22"}},
	{"DENY ports", []string{deny(operation(`ports: ["22"]`))}, []string{"- 10.0.0.1 80"}, []string{"shop/web 10.0.0.1 22"}},

	{"when source.ip", []string{allow(`{when: [{key: source.ip, values: [10.0.0.0/24]}]}`)}, []string{"- 10.0.0.1 80"}, []string{"- 10.0.1.1 80"}},
	{"when source.namespace", []string{allow(`{when: [{key: source.namespace, values: [shop]}]}`)}, []string{"shop/web 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"when source.principal", []string{allow(`{when: [{key: source.principal, values: ["*/sa/web"], notValues: ["*/bank/sa/web"]}]}`)}, []string{"shop/web 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80", "- 10.0.0.1 80"}},
	{"when destination.ip", []string{allow(`{when: [{key: destination.ip, values: [10.0.1.1]}]}`)}, []string{"- 10.0.0.1 80"}, []string{"- fd00::9 80"}},
	{"when destination.port", []string{allow(`{when: [{key: destination.port, notValues: ["22"]}]}`)}, []string{"- 10.0.0.1 80"}, []string{"- 10.0.0.1 22"}},

	{"from and to and when", []string{allow(`{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ["80"]}}], when: [{key: source.ip, values: [10.0.0.0/24]}]}`)},
		[]string{"shop/web 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80", "shop/web 10.0.0.1 81", "shop/web 10.0.1.1 80"}},
	{"several of from and of to are alternatives", []string{allow(`{from: [{source: {namespaces: [shop]}}, {source: {namespaces: [bank]}}], to: [{operation: {ports: ["80"]}}, {operation: {ports: ["81"]}}]}`)},
		[]string{"shop/web 10.0.0.1 80", "bank/web 10.0.0.1 81"}, []string{"x/web 10.0.0.1 80", "shop/web 10.0.0.1 82"}},
	{"fields of a source go together", []string{allow(source(`namespaces: [shop], ipBlocks: [10.0.0.0/24]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"shop/web 10.0.1.1 80", "bank/web 10.0.0.1 80"}},
	{"conditions go together", []string{allow(`{when: [{key: source.ip, values: [10.0.0.0/8]}, {key: source.ip, notValues: [10.0.0.1]}]}`)}, []string{"- 10.0.0.2 80"}, []string{"- 10.0.0.1 80"}},
	{"rules are alternatives", []string{allow(source(`namespaces: [shop]`) + "," + operation(`ports: ["80"]`))}, []string{"shop/web 10.0.0.1 22", "- 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 22"}},

	{"DENY before ALLOW", []string{allow("{}"), deny(source(`namespaces: [bank]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80"}},
	{"ALLOW policies add up", []string{allow(source(`namespaces: [shop]`)), "istio-system/a {rules: [" + source(`namespaces: [bank]`) + "]}"},
		[]string{"shop/web 10.0.0.1 80", "bank/web 10.0.0.1 80"}, []string{"x/web 10.0.0.1 80"}},
	{"DENY of the root namespace is not overridden", []string{allow("{}"), "istio-system/d {action: DENY, rules: [" + source(`namespaces: [bank]`) + "]}"},
		[]string{"shop/web 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80"}},
	{"one that allows nothing adds nothing", []string{"shop/n {}", allow(source(`namespaces: [shop]`))}, []string{"shop/web 10.0.0.1 80"}, []string{"bank/web 10.0.0.1 80"}},
	{"of another namespace", []string{"bank/a {}", "bank/d {action: DENY, rules: [{}]}"}, []string{"- 10.0.0.1 80"}, nil}, // ISTIO-SECURITY-2026-002
	{"of other labels", []string{"shop/a {selector: {matchLabels: {app: web}}}"}, []string{"- 10.0.0.1 80"}, nil},
	{"of these labels", []string{"shop/a {selector: {matchLabels: {app: db}}}"}, nil, []string{"- 10.0.0.1 80"}},
	{"of these labels in all namespaces", []string{"istio-system/a {selector: {matchLabels: {app: db}}}"}, nil, []string{"- 10.0.0.1 80"}},
	{"of these labels in another namespace", []string{"bank/a {selector: {matchLabels: {app: db}}}"}, []string{"- 10.0.0.1 80"}, nil},
	{"for a waypoint", []string{"shop/a {targetRefs: [{kind: Gateway, name: w}]}", "shop/b {targetRef: {kind: Service, name: w}, action: DENY, rules: [{}]}"}, []string{"- 10.0.0.1 80"}, nil},
	{"AUDIT", []string{"shop/a {action: AUDIT, rules: [{}]}"}, []string{"- 10.0.0.1 80"}, nil},
}

// Istio's API, unchanged where it is about layer 4.
func TestAuthorizationAsInAppendixB(t *testing.T) {
	for _, v := range authorizationVectors {
		t.Run(v.name, func(t *testing.T) {
			s := enforced(t, v.policies...)
			for _, text := range v.lets {
				if err := s.AllowInbound(attempt(t, text)); err != nil {
					t.Errorf("%s is refused: %v", text, err)
				}
			}
			for _, text := range v.refuses {
				if err := s.AllowInbound(attempt(t, text)); err == nil {
					t.Errorf("%s is let in", text)
				}
			}
		})
	}
}

// What cannot be judged never widens: the rule of an ALLOW policy that holds it matches
// nothing, and elsewhere it counts as true. Where Istio's conversion for its ztunnel
// widens, the row says so.
func TestWhatCannotBeJudgedNeverWidens(t *testing.T) {
	const web, bank = "shop/web 10.0.0.1 80", "bank/web 10.0.0.1 80"
	for _, v := range []struct {
		name, rule string
		denied     []string // by DENY
		not        []string
		warning    string
	}{
		{"a broken CIDR beside a principal", source(`namespaces: [shop], ipBlocks: [10.0.0.0/33]`), []string{web}, []string{bank}, `spec.rules[0].from[0].source.ipBlocks[0]: "10.0.0.0/33": not an address or a CIDR`}, // Istio: from anywhere
		{"one broken CIDR of two", source(`ipBlocks: [10.0.0.0/33, 10.9.0.0/16]`), []string{web, bank}, nil, "ipBlocks[0]"},
		{"a broken CIDR in a Not list", source(`namespaces: [shop], notIpBlocks: [x]`), []string{web}, []string{bank}, "notIpBlocks[0]"},
		{"a CIDR with a zone", source(`ipBlocks: ["fe80::1%eth0"]`), []string{web}, nil, "ipBlocks[0]"}, // CVE-2026-26310
		{"a CIDR of both families", source(`ipBlocks: ["::ffff:0:0/90"]`), []string{web}, nil, "of IPv4 and of IPv6"},
		{"an octet with a zero before it", source(`ipBlocks: [010.0.0.1]`), []string{web}, nil, "ipBlocks[0]"},
		{"methods only", operation(`methods: [POST]`), []string{web, bank}, nil, "spec.rules[0].to[0].operation.methods: is about requests"}, // Istio: DENY does nothing
		{"methods and the wrong port", operation(`methods: [POST], ports: ["81"]`), nil, []string{web}, "methods"},
		{"methods and the port", operation(`methods: [POST], ports: ["80"]`), []string{web, bank}, nil, "methods"},
		{"hosts", operation(`hosts: [a]`), []string{web}, nil, "hosts"},
		{"notHosts", operation(`notHosts: [a]`), []string{web}, nil, "notHosts"},
		{"notMethods", operation(`notMethods: [a]`), []string{web}, nil, "notMethods"},
		{"paths", operation(`paths: [a]`), []string{web}, nil, "paths"},
		{"notPaths", operation(`notPaths: [a]`), []string{web}, nil, "notPaths"},
		{"requestPrincipals", source(`requestPrincipals: ["*"]`), []string{web}, nil, "requestPrincipals"},
		{"notRequestPrincipals", source(`notRequestPrincipals: ["*"]`), []string{web}, nil, "notRequestPrincipals"},
		{"remoteIpBlocks", source(`remoteIpBlocks: [10.0.0.0/8], namespaces: [shop]`), []string{web}, []string{bank}, "remoteIpBlocks"},
		{"notRemoteIpBlocks", source(`notRemoteIpBlocks: [10.0.0.0/8]`), []string{web}, nil, "notRemoteIpBlocks"},
		{"an unknown key", `{from: [{source: {namespaces: [shop]}}], when: [{key: "request.headers[x]", values: [a]}]}`, []string{web}, []string{bank}, `spec.rules[0].when[0].key: "request.headers[x]": not known`}, // Istio: DENY does nothing
		{"a condition without values", `{when: [{key: source.ip}]}`, []string{web}, nil, "when[0]: neither"},
		{"one alternative of two", `{to: [{operation: {ports: ["81"]}}, {operation: {paths: [a]}}]}`, []string{web}, nil, "paths"},
		{"a port by name", operation(`ports: [http]`), []string{web}, nil, `ports[0]: "http": not a port`},
		{"port 0", operation(`ports: ["0"]`), []string{web}, nil, "ports[0]"},
		{"port 65536", operation(`ports: ["65536"]`), []string{web}, nil, "ports[0]"},
		{"a port with a zero before it", operation(`ports: ["08080"]`), []string{web}, nil, "ports[0]"},
		{"a port with a sign", operation(`ports: ["+80"]`), []string{web}, nil, "ports[0]"},
		{"an empty list", source(`namespaces: [shop], principals: []`), []string{web}, []string{bank}, "principals: an empty list"},
		{"an empty list of ports", operation(`ports: []`), []string{web}, nil, "ports: an empty list"},
		{"an empty from", `{from: []}`, []string{web}, nil, "from: an empty list"},
		{"an empty to", `{to: []}`, []string{web}, nil, "to: an empty list"},
		{"an empty when", `{when: []}`, []string{web}, nil, "when: an empty list"},
		{"a source that names nothing", `{from: [{source: {}}]}`, []string{web}, nil, "source: names nothing"},
		{"no source", `{from: [{}]}`, []string{web}, nil, "source: required"},
		{"a null source", `{from: [null]}`, []string{web}, nil, "source: required"},
		{"an operation that names nothing", `{to: [{operation: {}}]}`, []string{web}, nil, "operation: names nothing"},
		{"a null operation", `{to: [null]}`, []string{web}, nil, "operation: required"},
		{"a null condition", `{when: [null]}`, []string{web}, nil, "when[0]: null"},
		{"a null rule", `null`, []string{web}, nil, "spec.rules[0]: null"},
		{"an empty word", source(`principals: [""]`), []string{web}, nil, "principals[0]"},
		{"a NUL", source(`principals: ["cluster.local/ns/shop/sa/web\0x"]`), []string{web}, nil, `no such name has the byte '\x00'`}, // CVE-2025-66220 // CVE-2025-66220, CVE-2026-47778
		{"a percent sign", source(`principals: ["cluster.local/ns/shop/sa/w%65b"]`), []string{web}, nil, "principals[0]"},
		{"a scheme", source(`principals: ["spiffe://cluster.local/ns/shop/sa/web"]`), []string{web}, nil, "written without spiffe://"},
		{"a slash in a namespace", source(`namespaces: ["shop/web"]`), []string{web}, nil, "namespaces[0]"},
		{"a space in a trust domain", source(`trustDomains: ["cluster.local "]`), []string{web}, nil, "trustDomains[0]"},
		{"a * in a ServiceAccount", source(`serviceAccounts: ["shop/*"]`), []string{web}, nil, "serviceAccounts[0]"},
		{"two slashes in a ServiceAccount", source(`notServiceAccounts: ["a/b/c"]`), []string{web}, nil, "notServiceAccounts[0]"},
	} {
		t.Run(v.name, func(t *testing.T) {
			beside := enforced(t, allow(v.rule+","+source(`namespaces: [other]`)))
			for _, text := range []string{web, bank, "- 10.9.0.1 80", "- 10.0.0.1 81", "- fd00::1 443"} {
				if beside.AllowInbound(attempt(t, text)) == nil {
					t.Errorf("ALLOW lets %s in", text)
				}
			}
			if err := beside.AllowInbound(attempt(t, "other/x 10.0.0.1 80")); err != nil {
				t.Errorf("the rule beside it: %v", err)
			}
			denies := enforced(t, deny(v.rule))
			for _, text := range v.denied {
				if denies.AllowInbound(attempt(t, text)) == nil {
					t.Errorf("DENY lets %s in", text)
				}
			}
			for _, text := range v.not {
				if err := denies.AllowInbound(attempt(t, text)); err != nil {
					t.Errorf("DENY refuses %s by what it could judge: %v", text, err)
				}
			}
			warnings := enforced(t, deny(v.rule)).All().AuthorizationPolicies[0].Warnings
			if !strings.Contains(strings.Join(warnings, "\n"), v.warning) {
				t.Errorf("warnings %q, want %q", warnings, v.warning)
			}
		})
	}
}

func TestADenialNamesThePolicyAndItsRule(t *testing.T) {
	for _, v := range []struct {
		policies []string
		want     string
	}{
		{[]string{deny(source(`namespaces: [x]`) + "," + source(`namespaces: [shop]`))}, "AuthorizationPolicy shop/d: rule 1 denies it"},
		{[]string{allow(source(`namespaces: [x]`))}, "AuthorizationPolicy shop/a: no rule allows it"},
		{[]string{"shop/b {}", "shop/a {}", "istio-system/c {}"}, "AuthorizationPolicy istio-system/c: no rule of it or of 2 more allows it"},
	} {
		err := enforced(t, v.policies...).AllowInbound(attempt(t, "shop/web 10.0.0.1 80"))
		if err == nil || err.Error() != v.want {
			t.Errorf("%v, want %s", err, v.want)
		}
	}
}

// Appendix B: they have no effect, and say so.
// Whoever is told of rule 1 finds it as the second of the object.
func TestARuleThatCannotBeJudgedKeepsItsPlace(t *testing.T) {
	s := enforced(t, `shop/a {rules: [{to: [{operation: {methods: [GET]}}]}, {from: [{source: {namespaces: [bank]}}]}]}`)
	rules := s.All().AuthorizationPolicies[0].Rules
	if len(rules) != 2 || !rules[0].Never() || rules[1].Never() {
		t.Errorf("the rules are %v", rules)
	}
	if err := s.AllowInbound(attempt(t, "bank/pay 10.0.0.1 80")); err != nil {
		t.Errorf("rule 1 allows it, and yet: %v", err)
	}
	if s.AllowInbound(attempt(t, "shop/web 10.0.0.1 80")) == nil {
		t.Error("the rule that cannot be judged let it in")
	}
}

func TestActionsOfLayer7HaveNoEffect(t *testing.T) {
	for _, action := range []string{"CUSTOM", "AUDIT"} {
		s := enforced(t, "shop/c {action: "+action+", provider: {name: x}, rules: [{}]}")
		if err := s.AllowInbound(attempt(t, "- 10.0.0.1 80")); err != nil {
			t.Errorf("%s: %v", action, err)
		}
		if got, want := s.All().AuthorizationPolicies[0].Warnings, []string{"spec.action: " + action + ": has no effect at layer 4"}; !slices.Equal(got, want) {
			t.Errorf("%s: warnings %q, want %q", action, got, want)
		}
		beside := enforced(t, "shop/c {action: "+action+", rules: [{}]}", allow(source(`namespaces: [other]`)))
		if beside.AllowInbound(attempt(t, "shop/web 10.0.0.1 80")) == nil {
			t.Errorf("%s lets in what no ALLOW does", action)
		}
	}
}

// A dry run that was enforced could let in what other policies refuse, or refuse all. One
// that is misspelt is none, and an error where the object is checked.
// istio/istio PR 58657: a node that did not know the field enforced it.
func TestADryRunIsNotEnforced(t *testing.T) {
	const refuses = "AuthorizationPolicy shop/a: no rule allows it"
	for annotation, want := range map[string]string{`"true"`: "", `"false"`: refuses, `"flase"`: refuses} {
		p := parse[AuthorizationPolicy](t, "{metadata: {name: a, namespace: shop, annotations: {istio.io/dry-run: "+annotation+"}}}")
		snapshot, err := Build(Objects{AuthorizationPolicies: []*AuthorizationPolicy{p}}, options)
		if err != nil {
			t.Fatal(err)
		}
		if wrong := p.Check(); (wrong != nil) != (annotation == `"flase"`) {
			t.Errorf("%s: %v", annotation, wrong)
		}
		s := policy.NewSet()
		s.Replace(snapshot.Policies)
		got := ""
		if err := s.AllowInbound(attempt(t, "shop/web 10.0.0.1 80")); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", annotation, got, want)
		}
	}
}

// Whatever it means, it says that it is not to be enforced.
func TestADryRunThatIsNotUnderstoodIsNotEnforced(t *testing.T) {
	for annotation, in := range map[string]bool{"true": true, "false": false, "flase": false} {
		p := parse[AuthorizationPolicy](t, "{metadata: {name: a, namespace: shop, annotations: {istio.io/dry-run: '"+annotation+"'}}, spec: {action: ALOW}}")
		if err := inForce([]*AuthorizationPolicy{p}).AllowInbound(attempt(t, "shop/web 10.0.0.1 80")); (err == nil) != in {
			t.Errorf("%s: %v", annotation, err)
		}
	}
}

// Fields of a newer version narrow the rules that they stand in, and no other.
func TestFieldsThatAreNotKnownNarrowTheirRule(t *testing.T) {
	const web, bank = "shop/web 10.0.0.1 80", "bank/web 10.0.0.1 80"
	for name, v := range map[string]struct {
		action, said string
		in, out      []string
		err          bool
	}{
		"of an ALLOW": {"ALLOW", `unknown field "spec.rules[0].from[0].source.mood"`, []string{bank}, []string{web}, false},
		"of a DENY":   {"DENY", `unknown field "spec.rules[0].to"`, nil, []string{web, bank}, false},
		"elsewhere":   {"ALLOW", `unknown field "spec.mood"`, nil, nil, true},
	} {
		p := parse[AuthorizationPolicy](t, "{metadata: {name: a, namespace: shop}, spec: {action: "+v.action+", rules: ["+source("namespaces: [shop]")+", "+source("namespaces: [bank]")+"]}}")
		err := p.Judge(runtime.NewStrictDecodingError([]error{errors.New(v.said)}))
		if (err != nil) != v.err {
			t.Errorf("%s: %v", name, err)
		}
		if v.err {
			continue
		}
		snapshot, err := Build(Objects{AuthorizationPolicies: []*AuthorizationPolicy{p}}, options)
		if err != nil {
			t.Fatal(err)
		}
		s := policy.NewSet()
		s.Replace(snapshot.Policies)
		for _, text := range v.in {
			if err := s.AllowInbound(attempt(t, text)); err != nil {
				t.Errorf("%s: %s: %v", name, text, err)
			}
		}
		for _, text := range v.out {
			if s.AllowInbound(attempt(t, text)) == nil {
				t.Errorf("%s: %s is let in", name, text)
			}
		}
		if got := s.All().AuthorizationPolicies[0].Warnings; len(got) != 1 || !strings.Contains(got[0], "spec.rules[0].") {
			t.Errorf("%s: warnings %q", name, got)
		}
	}
	if err := new(AuthorizationPolicy).Judge(errors.New("no object")); err == nil {
		t.Error("any other error is none")
	}
}

// ISTIO-SECURITY-2026-006: what users write is bounded before it costs anybody.
func TestWarningsOfAnObjectAreBounded(t *testing.T) {
	p := parse[AuthorizationPolicy](t, "{metadata: {name: a, namespace: shop}, spec: {rules: ["+strings.Repeat("{from: []},", 16384)+"]}}")
	if wrong := strings.Count(p.Check().Error(), "\n") + 1; wrong != maxWarnings {
		t.Errorf("%d mistakes are told, want %d", wrong, maxWarnings)
	}
	got, err := p.Policy()
	if err != nil || len(got.Warnings) != maxWarnings+1 || got.Warnings[maxWarnings] != "and 16364 more" || len(got.Rules) != 16384 {
		t.Errorf("%d warnings, the last %q; %d rules; %v", len(got.Warnings), got.Warnings[len(got.Warnings)-1], len(got.Rules), err)
	}
}

// What was never understood has no former meaning: it is the strictest by what it says now.
func TestAPolicyThatWasNeverUnderstoodIsADryRunOnlyWhileItSaysSo(t *testing.T) {
	b := NewBuilder(Options{})
	for _, dryRun := range []string{"true", "false", "true"} {
		p := &AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", Annotations: map[string]string{DryRun: dryRun}}}
		b.Distrust(p)
		got := b.Snapshot().Policies.AuthorizationPolicies[0]
		if got.Action != policy.Refuse || got.DryRun != (dryRun == "true") {
			t.Errorf("dry-run %s: action %v, dry run %v", dryRun, got.Action, got.DryRun)
		}
	}
}
