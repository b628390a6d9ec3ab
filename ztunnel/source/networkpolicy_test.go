// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// The pods of the vectors, by name. All are at 10.1.0.N, and at fd00::N.
var cast = map[string]*workload.Workload{
	"shop/db":   castPod("shop", "db", map[string]string{"app": "db", "tier": "back"}, workload.NamedPort{Name: "sql", Port: 5432}),
	"shop/web":  castPod("shop", "web", map[string]string{"app": "web"}, workload.NamedPort{Name: "http", Port: 8080}),
	"shop/job":  castPod("shop", "job", map[string]string{"app": "job", "canary": ""}),
	"bank/web":  castPod("bank", "web", map[string]string{"app": "web"}, workload.NamedPort{Name: "http", Port: 80}),
	"lost/web":  castPod("lost", "web", map[string]string{"app": "web"}), // its Namespace is not known
	"bank/none": castPod("bank", "none", nil),
}

func castPod(namespace, name string, labels map[string]string, ports ...workload.NamedPort) *workload.Workload {
	return &workload.Workload{UID: namespace + name, Namespace: namespace, Name: name, Labels: workload.NewLabels(labels), Ports: ports}
}

var castAddrs = map[string]string{"shop/db": "10.1.0.1", "shop/web": "10.1.0.2", "shop/job": "10.1.0.3", "bank/web": "10.1.0.4", "lost/web": "10.1.0.5", "bank/none": "10.1.0.6"}

func castNamespaces(mode string) map[string]workload.Namespace {
	return map[string]workload.Namespace{
		"shop": {Labels: map[string]string{networkpolicy.ModeLabel: mode, "team": "sales"}},
		"bank": {Labels: map[string]string{networkpolicy.ModeLabel: mode, "team": "money", "audited": ""}},
	}
}

// networkSet puts policies in force: each "NAMESPACE/NAME SPEC".
func networkSet(t *testing.T, mode string, texts ...string) *networkpolicy.Set {
	t.Helper()
	var policies []networkpolicy.Policy
	for _, text := range texts {
		p, err := networkPolicyOf(t, text).Policy()
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	s := networkpolicy.NewSet()
	s.Replace(policies, castNamespaces(mode))
	return s
}

func networkPolicyOf(t *testing.T, text string) *NetworkPolicy {
	t.Helper()
	name, spec, _ := strings.Cut(text, " ")
	namespace, name, _ := strings.Cut(name, "/")
	return parse[NetworkPolicy](t, fmt.Sprintf("{metadata: {name: %s, namespace: %s}, spec: %s}", name, namespace, spec))
}

// questions reads "SOURCE DESTINATION PORT", for instance "shop/web shop/db 5432": first
// what the destination is asked, then what the source is. An address is nobody's.
func questions(t *testing.T, text string) (ingress, egress networkpolicy.Question) {
	t.Helper()
	parts := strings.Fields(text)
	port, err := strconv.ParseUint(parts[2], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(name string) netip.Addr {
		if text := castAddrs[name]; text != "" {
			return netip.MustParseAddr(text)
		}
		return netip.MustParseAddr(name)
	}
	src, dst := cast[parts[0]], cast[parts[1]]
	return networkpolicy.Question{Direction: networkpolicy.Ingress, Self: dst, Peer: src, Addr: addr(parts[0]), Port: uint16(port)},
		networkpolicy.Question{Direction: networkpolicy.Egress, Self: src, Peer: dst, Addr: addr(parts[1]), Port: uint16(port)}
}

// refusedBy asks both ends, as the mesh does. It is empty if both admit.
func refusedBy(t *testing.T, s *networkpolicy.Set, text string) string {
	ingress, egress := questions(t, text)
	for _, q := range []networkpolicy.Question{egress, ingress} {
		if q.Self == nil {
			continue
		}
		if denied, _ := s.Ask(&q); denied != nil {
			return denied.Error()
		}
	}
	return ""
}

// to is ingress rules for app db of namespace shop; out is egress rules for app web.
func to(rules string) string {
	return "shop/in {podSelector: {matchLabels: {app: db}}, ingress: [" + rules + "]}"
}
func out(rules string) string {
	return "shop/out {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [" + rules + "]}"
}

var networkVectors = []struct {
	name     string
	policies []string
	admits   []string
	refuses  []string
}{
	{"nothing said", nil, []string{"shop/web shop/db 5432"}, nil},
	{"selected and no rules", []string{to("")}, []string{"shop/db shop/web 80", "shop/web shop/job 80"}, []string{"shop/web shop/db 5432"}},
	{"one empty rule admits all", []string{to("{}")}, []string{"bank/web shop/db 1", "10.9.9.9 shop/db 1"}, nil},
	{"empty lists admit all", []string{to("{from: [], ports: []}")}, []string{"bank/web shop/db 1"}, nil},
	{"everybody of the namespace is selected", []string{"shop/in {podSelector: {}}"}, []string{"shop/web bank/web 80"}, []string{"shop/web shop/db 80", "shop/web shop/job 80"}},
	{"policyTypes by default: Ingress", []string{"shop/in {podSelector: {}}"}, []string{"shop/web bank/web 80"}, []string{"bank/web shop/web 80"}},
	{"policyTypes by default: Egress with rules", []string{"shop/in {podSelector: {}, egress: [{ports: [{port: 53}]}]}"}, []string{"shop/web bank/web 53"}, []string{"shop/web bank/web 80", "bank/web shop/web 53"}},
	{"policyTypes Egress leaves ingress open", []string{"shop/in {podSelector: {}, policyTypes: [Egress], ingress: [{ports: [{port: 1}]}]}"}, []string{"bank/web shop/web 80"}, []string{"shop/web bank/web 1"}},
	{"policyTypes Ingress leaves egress open", []string{"shop/in {podSelector: {}, policyTypes: [Ingress], egress: [{ports: [{port: 1}]}]}"}, []string{"shop/web bank/web 80"}, []string{"bank/web shop/web 1"}},
	{"podSelector: of the policy's namespace", []string{to("{from: [{podSelector: {matchLabels: {app: web}}}]}")}, []string{"shop/web shop/db 5432"}, []string{"shop/job shop/db 5432", "bank/web shop/db 5432", "10.1.0.2 shop/db 5432"}},
	{"podSelector: {}", []string{to("{from: [{podSelector: {}}]}")}, []string{"shop/web shop/db 1"}, []string{"bank/web shop/db 1"}},
	{"namespaceSelector: all its pods", []string{to("{from: [{namespaceSelector: {matchLabels: {team: money}}}]}")}, []string{"bank/web shop/db 1", "bank/none shop/db 1"}, []string{"shop/web shop/db 1", "lost/web shop/db 1"}},
	{"namespaceSelector: {} is every namespace", []string{to("{from: [{namespaceSelector: {}}]}")}, []string{"bank/web shop/db 1", "shop/web shop/db 1", "lost/web shop/db 1"}, []string{"10.1.0.4 shop/db 1"}},
	{"namespaceSelector by the name that every namespace has", []string{to("{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}}}]}")}, []string{"bank/web shop/db 1"}, []string{"shop/web shop/db 1"}},
	{"both selectors in one peer", []string{to("{from: [{namespaceSelector: {matchLabels: {team: money}}, podSelector: {matchLabels: {app: web}}}]}")}, []string{"bank/web shop/db 1"}, []string{"bank/none shop/db 1", "shop/web shop/db 1"}},
	{"both selectors in two peers", []string{to("{from: [{namespaceSelector: {matchLabels: {team: money}}}, {podSelector: {matchLabels: {app: web}}}]}")}, []string{"bank/none shop/db 1", "shop/web shop/db 1"}, []string{"shop/job shop/db 1"}},
	{"In", []string{to("{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, cron]}]}}]}")}, []string{"shop/web shop/db 1"}, []string{"shop/job shop/db 1"}},
	{"NotIn, also without the label", []string{to("{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}]}")}, []string{"shop/job shop/db 1", "bank/none shop/db 1"}, []string{"shop/web shop/db 1"}},
	{"Exists", []string{to("{from: [{podSelector: {matchExpressions: [{key: canary, operator: Exists}]}}]}")}, []string{"shop/job shop/db 1"}, []string{"shop/web shop/db 1"}},
	{"DoesNotExist", []string{to("{from: [{podSelector: {matchExpressions: [{key: canary, operator: DoesNotExist}]}}]}")}, []string{"shop/web shop/db 1"}, []string{"shop/job shop/db 1"}},
	{"DoesNotExist of a namespace that is not known", []string{to("{from: [{namespaceSelector: {matchExpressions: [{key: audited, operator: DoesNotExist}]}}]}")}, []string{"shop/web shop/db 1"}, []string{"bank/web shop/db 1", "lost/web shop/db 1"}},
	{"labels and expressions together", []string{to("{from: [{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: canary, operator: Exists}]}}]}")}, nil, []string{"shop/web shop/db 1", "shop/job shop/db 1"}},
	{"ipBlock has pods too", []string{to("{from: [{ipBlock: {cidr: 10.1.0.0/29, except: [10.1.0.4/32]}}]}")}, []string{"shop/web shop/db 1", "10.1.0.7 shop/db 1", "::ffff:10.1.0.2 shop/db 1"}, []string{"bank/web shop/db 1", "10.1.0.9 shop/db 1", "fd00::2 shop/db 1"}},
	{"ipBlock of IPv6", []string{to("{from: [{ipBlock: {cidr: 'fd00::/64', except: ['fd00::4/128']}}]}")}, []string{"fd00::2 shop/db 1"}, []string{"fd00::4 shop/db 1", "shop/web shop/db 1"}},
	{"a port", []string{to("{ports: [{port: 5432}]}")}, []string{"shop/web shop/db 5432"}, []string{"shop/web shop/db 5433"}},
	{"a port of TCP", []string{to("{ports: [{protocol: TCP}]}")}, []string{"shop/web shop/db 1", "shop/web shop/db 65535"}, nil},
	{"a port of UDP alone", []string{to("{ports: [{protocol: UDP, port: 5432}]}")}, nil, []string{"shop/web shop/db 5432"}},
	{"ports of both", []string{to("{ports: [{protocol: UDP, port: 53}, {port: 54}]}")}, []string{"shop/web shop/db 54"}, []string{"shop/web shop/db 53"}},
	{"endPort", []string{to("{ports: [{port: 8000, endPort: 8010}]}")}, []string{"shop/web shop/db 8000", "shop/web shop/db 8010"}, []string{"shop/web shop/db 7999", "shop/web shop/db 8011"}},
	{"a named port is the destination's", []string{to("{ports: [{port: sql}]}")}, []string{"shop/web shop/db 5432"}, []string{"shop/web shop/db 5433"}},
	{"a named port that the source has", []string{to("{ports: [{port: http}]}")}, nil, []string{"shop/web shop/db 8080", "shop/web shop/db 5432"}},
	{"egress to a named port, of each pod its own", []string{out("{ports: [{port: http}]}")}, []string{"shop/web bank/web 80"}, []string{"shop/web bank/web 8080", "shop/web shop/db 80", "shop/web 10.9.9.9 80"}},
	{"peer and port of one rule", []string{to("{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 1}]}, {from: [{podSelector: {matchLabels: {app: job}}}], ports: [{port: 2}]}")}, []string{"shop/web shop/db 1", "shop/job shop/db 2"}, []string{"shop/web shop/db 2", "shop/job shop/db 1"}},
	{"egress to an address", []string{out("{to: [{ipBlock: {cidr: 10.1.0.1/32}}]}")}, []string{"shop/web shop/db 1", "shop/job bank/web 1"}, []string{"shop/web bank/web 1"}},
	{"egress alone leaves ingress alone", []string{out("")}, []string{"shop/job shop/web 1"}, []string{"shop/web shop/job 1"}},
	{"both ends must admit", []string{to("{from: [{podSelector: {}}]}"), out("{ports: [{port: 1}]}")}, []string{"shop/web shop/db 1"}, []string{"shop/web shop/db 2"}},
	{"policies add up", []string{to("{ports: [{port: 1}]}"), "shop/more {podSelector: {matchLabels: {tier: back}}, ingress: [{ports: [{port: 2}]}]}"}, []string{"shop/web shop/db 1", "shop/web shop/db 2"}, []string{"shop/web shop/db 3"}},
	{"of another namespace", []string{"bank/in {podSelector: {}}"}, []string{"shop/web shop/db 1"}, []string{"shop/web bank/web 1"}},
}

func TestNetworkPolicyVectors(t *testing.T) {
	for _, v := range networkVectors {
		s := networkSet(t, "enforce", v.policies...)
		for _, text := range v.admits {
			if why := refusedBy(t, s, text); why != "" {
				t.Errorf("%s: %s is refused: %s", v.name, text, why)
			}
		}
		for _, text := range v.refuses {
			if refusedBy(t, s, text) == "" {
				t.Errorf("%s: %s is admitted", v.name, text)
			}
		}
	}
}

// What means nothing admits nobody, and the rest of the object is in force.
func TestWhatANetworkPolicyCannotSayAdmitsNobody(t *testing.T) {
	for _, row := range []struct{ rule, field string }{
		{"{from: [{}]}", "spec.ingress[0].from[0]"},
		{"{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}", "spec.ingress[0].from[0].ipBlock.cidr"},
		{"{from: [{ipBlock: {cidr: 10.1.0.2}}]}", "spec.ingress[0].from[0].ipBlock.cidr"},
		{"{from: [{ipBlock: {cidr: ''}}]}", "spec.ingress[0].from[0].ipBlock.cidr"},
		{"{from: [{ipBlock: {cidr: '::ffff:0:0/95'}}]}", "spec.ingress[0].from[0].ipBlock.cidr"},
		{"{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/33]}}]}", "spec.ingress[0].from[0].ipBlock.except[0]"},
		{"{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [192.168.0.0/16]}}]}", "spec.ingress[0].from[0].ipBlock.except[0]"},
		{"{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}", "spec.ingress[0].from[0].ipBlock"},
		{"{from: [{podSelector: {matchLabels: {app: '*'}}}]}", "spec.ingress[0].from[0].podSelector.matchLabels[app]"},
		{"{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn}]}}]}", "spec.ingress[0].from[0].podSelector.matchExpressions[0].values"},
		{"{from: [{namespaceSelector: {matchExpressions: [{key: app, operator: Gt, values: ['1']}]}}]}", "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].operator"},
		{"{from: [{namespaceSelector: {matchExpressions: [{key: app, operator: DoesNotExist, values: ['1']}]}}]}", "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].values"},
		{"{ports: [{port: 0}]}", "spec.ingress[0].ports[0].port"},
		{"{ports: [{port: 65536}]}", "spec.ingress[0].ports[0].port"},
		{"{ports: [{port: '8080'}]}", "spec.ingress[0].ports[0].port"},
		{"{ports: [{port: 8080, endPort: 80}]}", "spec.ingress[0].ports[0].endPort"},
		{"{ports: [{endPort: 80}]}", "spec.ingress[0].ports[0].endPort"},
		{"{ports: [{port: sql, endPort: 6000}]}", "spec.ingress[0].ports[0].endPort"},
		{"{ports: [{protocol: tcp}]}", "spec.ingress[0].ports[0].protocol"},
	} {
		p := networkPolicyOf(t, to(row.rule+", {ports: [{port: 7}]}"))
		err := p.Check()
		if err == nil || !strings.HasPrefix(err.Error(), row.field+":") {
			t.Errorf("%s: error %v, want one that names %s", row.rule, err, row.field)
		}
		if len(p.Warnings()) == 0 {
			t.Errorf("%s: nothing is said", row.rule)
		}
		s := networkSet(t, "enforce", to(row.rule+", {ports: [{port: 7}]}"))
		for _, refused := range []string{"shop/web shop/db 8080", "shop/web shop/db 5432", "10.1.0.2 shop/db 80"} {
			if refusedBy(t, s, refused) == "" {
				t.Errorf("%s: admits %s", row.rule, refused)
			}
		}
		if why := refusedBy(t, s, "shop/web shop/db 7"); why != "" {
			t.Errorf("%s: the other rule admits nobody either: %s", row.rule, why)
		}
	}
}

// Which pods it selects, and in which directions, cannot be left out of a policy.
func TestANetworkPolicyThatIsNotUnderstoodKeepsItsMeaning(t *testing.T) {
	for _, spec := range []string{
		"{podSelector: {matchLabels: {app: 'a b'}}}",
		"{podSelector: {matchExpressions: [{key: app, operator: Is, values: [db]}]}}",
		"{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Both]}",
	} {
		b := NewBuilder(options)
		bad := networkPolicyOf(t, "shop/in "+spec)
		if err := b.Set(bad); err == nil {
			t.Errorf("%s: no error", spec)
		}
		s := networkpolicy.NewSet()
		s.Replace(b.Snapshot().NetworkPolicies, castNamespaces("enforce"))
		for _, text := range []string{"shop/web shop/db 5432", "shop/db shop/web 80"} {
			if refusedBy(t, s, text) == "" {
				t.Errorf("%s: %s is admitted by what nobody understands", spec, text)
			}
		}
		if err := b.Set(networkPolicyOf(t, to("{ports: [{port: 5432}]}"))); err != nil {
			t.Fatal(err)
		}
		_ = b.Set(bad)
		s.Replace(b.Snapshot().NetworkPolicies, castNamespaces("enforce"))
		if why := refusedBy(t, s, "shop/web shop/db 5432"); why != "" {
			t.Errorf("%s: the former meaning is not in force: %s", spec, why)
		}
		if refusedBy(t, s, "shop/web shop/db 80") == "" {
			t.Errorf("%s: the former meaning is not in force", spec)
		}
		b.Delete(KindNetworkPolicy, Name{"shop", "in"})
		if got := b.Snapshot().NetworkPolicies; len(got) > 0 {
			t.Errorf("%s: deleted, and still %v", spec, got)
		}
	}
}

// A rule with a field that this version does not know may mean less than it seems to.
func TestAnUnknownFieldOfANetworkPolicyAdmitsNobody(t *testing.T) {
	p := networkPolicyOf(t, to("{ports: [{port: 1}]}, {ports: [{port: 2}]}"))
	p.Unknown = map[string][]string{"spec.ingress[0]": {"spec.ingress[0].unless"}}
	out, err := p.Policy()
	if err != nil || len(out.Warnings) != 1 || !strings.HasPrefix(out.Warnings[0], "spec.ingress[0].unless:") {
		t.Errorf("warnings %q, %v", out.Warnings, err)
	}
	s := networkpolicy.NewSet()
	s.Replace([]networkpolicy.Policy{out}, castNamespaces("enforce"))
	if refusedBy(t, s, "shop/web shop/db 1") == "" || refusedBy(t, s, "shop/web shop/db 2") != "" {
		t.Error("the rule with the unknown field admits somebody, or the other does not")
	}
}

func TestARefusalNamesThePoliciesThatIsolate(t *testing.T) {
	s := networkSet(t, "enforce", to(""), "shop/all {podSelector: {}}", "shop/out {podSelector: {}, policyTypes: [Egress]}")
	if got, want := refusedBy(t, s, "bank/web shop/db 1"), "NetworkPolicy shop/in, shop/all: no ingress rule admits it"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := refusedBy(t, s, "shop/db bank/web 1"), "NetworkPolicy shop/out: no egress rule admits it"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// enforce that somebody misspells goes on.
func TestANamespaceWhoseModeIsMisspeltKeepsTheOneBefore(t *testing.T) {
	b := NewBuilder(Options{})
	for _, step := range []struct {
		labels map[string]string
		want   networkpolicy.Mode
	}{
		{map[string]string{networkpolicy.ModeLabel: "Enforce"}, networkpolicy.Warn}, // there is none before
		{map[string]string{networkpolicy.ModeLabel: "enforce"}, networkpolicy.Enforce},
		{map[string]string{networkpolicy.ModeLabel: "enforced", "team": "a"}, networkpolicy.Enforce},
		{map[string]string{"team": "a"}, networkpolicy.Warn},
	} {
		if err := b.Set(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: step.labels}}); err != nil {
			t.Fatal(err)
		}
		labels := b.Snapshot().Mesh.Namespaces["shop"].Labels
		if mode, _ := networkpolicy.ModeOf(labels); mode != step.want || labels["team"] != step.labels["team"] {
			t.Errorf("%v: %v, by %v", step.labels, mode, labels)
		}
	}
}
