// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

func networkPolicyText(name, spec string) string {
	return fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: shop}, spec: %s}\n", name, spec)
}

func TestANetworkPolicyIsReadStrictly(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80, endPort: 90}, {port: http}]}]}", ""},
		{"{podSelector: {}, ingress: [{from: }]}", "spec.ingress[0].from: has no value"},
		{"{podSelector: {}, ingress: [null]}", "spec.ingress[0]: has no value"},
		{"{podSelector: }", "spec.podSelector: has no value"},
		{"{podSelector: {matchLabels: {app: }}}", "spec.podSelector.matchLabels.app: has no value"},
		{"{podSelector: {matchLabel: {app: web}}}", `unknown field "spec.podSelector.matchLabel"`},
		{"{podSelector: {}, ingress: [{form: []}]}", `unknown field "spec.ingress[0].form"`},
		{"{podSelector: {}, ingress: [{ports: [{port: '8080'}]}]}", `spec.ingress[0].ports[0].port: "8080": not the name of a port`},
		{"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}", `spec.ingress[0].from[0].ipBlock.cidr: "10.0.0.1": not a CIDR`},
		{"{podSelector: {}, policyTypes: [ingress]}", `spec.policyTypes[0]: "ingress": not Ingress or Egress`},
	} {
		got := decode("x.yaml", []byte(networkPolicyText("p", c.spec)), nil)
		text := fmt.Sprint(got.errs.list)
		if c.want == "" && len(got.errs.list) > 0 || !strings.Contains(text, c.want) || len(got.entries) != 1 || got.entries[0].broken != (c.want != "") {
			t.Errorf("%s: %s, want %q", c.spec, text, c.want)
		}
	}
	other := strings.Replace(networkPolicyText("p", "{}"), "networking.k8s.io", "projectcalico.org", 1)
	if got := decode("x.yaml", []byte(other), nil); len(got.entries) > 0 || !strings.Contains(fmt.Sprint(got.remarks.list), "not enforced by the mesh") {
		t.Errorf("Calico's kind of that name: %v, %v", got.entries, got.remarks.list)
	}
	for _, wrong := range []string{strings.Replace(networkPolicyText("p", "{}"), "v1", "v1beta1", 1), strings.Replace(networkPolicyText("p", "{}"), "networking.", "", 1)} {
		if got := decode("x.yaml", []byte(wrong), nil); !got.blind {
			t.Errorf("%s: read as if it were another kind", wrong)
		}
	}
}

func TestNetworkPoliciesNarrowWithFewerRulesAndMoreIsolation(t *testing.T) {
	object := func(spec string) object {
		return decodeGood(t, "x.yaml", networkPolicyText("p", spec)).entries[0].object
	}
	const a, b = "{ports: [{port: 1}]}", "{ports: [{port: 2}]}"
	both := func(selector, types, ingress string) string {
		return "{podSelector: {" + selector + "}, policyTypes: [" + types + "], ingress: [" + ingress + "]}"
	}
	for _, c := range []struct {
		beside    bool
		old, next string // empty: there is none
		narrows   bool
	}{
		{false, "", both("", "Ingress", a), true}, // only a, of all
		{true, "", both("", "Ingress", a), false}, // a, beside what others admit
		{true, "", both("", "Ingress", ""), true}, // nothing
		{false, both("", "Ingress", a+", "+b), both("", "Ingress", a), true},
		{false, both("", "Ingress", a), both("", "Ingress", a+", "+b), false},
		{false, both("", "Ingress", a), both("", "Ingress", b), false},
		{false, both("", "Ingress", a), both("matchLabels: {app: web}", "Ingress", a), false},
		{false, both("", "Ingress", a), both("", "Egress", a), false},
		{false, both("", "Ingress", a), both("", "Ingress, Egress", a), true},
	} {
		s := New("", Options{})
		if c.beside {
			s.force.entries[key{source.KindNetworkPolicy, source.Name{Namespace: "shop", Name: "other"}}] = entry{}
		}
		var old source.Object
		if c.old != "" {
			old = object(c.old)
		}
		if got := s.narrows(old, object(c.next)); got != c.narrows {
			t.Errorf("beside: %v, %q to %q: narrows is %v", c.beside, c.old, c.next, got)
		}
	}
}

// A namespace that enforces goes on until it has said something else for a second; labels by
// which NetworkPolicies select wait, too.
func TestANamespaceEnforcesUntilItSaysSomethingElseForASecond(t *testing.T) {
	namespace := func(labels string) string {
		return "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: enabled, " + labels + "}}}\n"
	}
	look(t, func(r *reader) {
		mode := func() networkpolicy.Mode {
			m, _ := networkpolicy.ModeOf(r.last.Mesh.Namespaces["shop"].Labels)
			return m
		}
		r.write("policy.yaml", networkPolicyText("p", "{podSelector: {}}"))
		r.write("shop.yaml", namespace("culvert.dev/network-policy: warn"))
		r.confirm()
		if len(r.last.NetworkPolicies) != 1 || mode() != networkpolicy.Warn {
			r.Fatalf("%v in mode %v", r.last.NetworkPolicies, mode())
		}
		r.write("shop.yaml", namespace("culvert.dev/network-policy: enforce"))
		if r.look(); mode() != networkpolicy.Enforce {
			r.Error("not enforced at once")
		}
		r.confirm()
		for _, next := range []string{"a: b", "culvert.dev/network-policy: warn", "culvert.dev/network-policy: enforce, a: b"} {
			r.write("shop.yaml", namespace("culvert.dev/network-policy: enforce"))
			r.confirm()
			r.write("shop.yaml", namespace(next))
			if r.look() == 0 || mode() != networkpolicy.Enforce || r.last.Mesh.Namespaces["shop"].Labels["a"] != "" {
				r.Errorf("%q is believed at once", next)
			}
			r.confirm()
			if want := strings.Contains(next, "enforce"); (mode() == networkpolicy.Enforce) != want {
				r.Errorf("%q is not believed a second later", next)
			}
		}
		r.write("shop.yaml", namespace("culvert.dev/network-policy: enforce"))
		r.confirm()
		r.write("shop.yaml", namespace("culvert.dev/network-policy: enforced"))
		r.confirm()
		if mode() != networkpolicy.Enforce || !strings.Contains(fmt.Sprint(r.errs), `metadata.labels[culvert.dev/network-policy]: "enforced": not enforce, warn or off`) {
			r.Errorf("a typing error ends enforcement, or is not said: %v, %v", mode(), r.errs)
		}
	})
}

// A namespace that enforces before the rest of what it says is believed goes on while its file
// is rewritten, cannot be read, or has what is not understood.
func TestANamespaceThatEnforcesEarlyDoesNotOpenWhileItsFileIsUnread(t *testing.T) {
	const text = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/network-policy: enforce, a: b}}}\n"
	for name, meanwhile := range map[string]func(r *reader){
		"empty":  func(r *reader) { r.write("shop.yaml", "") },
		"no map": func(r *reader) { r.write("shop.yaml", text[:40]) },
		"broken": func(r *reader) { r.write("shop.yaml", strings.Replace(text, "a: b", "a: ", 1)) },
		"twice":  func(r *reader) { r.write("shop.yaml", text+"---\n"+text) },
	} {
		t.Run(name, func(t *testing.T) {
			look(t, func(r *reader) {
				enforces := func(when string) {
					t.Helper()
					r.look()
					s := networkpolicy.NewSet()
					s.Replace(r.last.NetworkPolicies, r.last.Mesh.Namespaces)
					if mode := s.Modes()["shop"]; mode != networkpolicy.Enforce {
						t.Errorf("%s, the mode is %v", when, mode)
					}
				}
				r.write("policy.yaml", networkPolicyText("p", "{podSelector: {}}"))
				r.confirm()
				r.write("shop.yaml", text)
				enforces("at once")
				time.Sleep(100 * time.Millisecond)
				meanwhile(r)
				enforces("meanwhile")
				time.Sleep(100 * time.Millisecond)
				r.write("shop.yaml", text)
				enforces("once it is written again")
				r.confirm()
				enforces("a second later")
			})
		})
	}
}

// A namespace that is new may let pods out of the mesh, so that it waits for a second. That
// it enforces does not: pods with a label of their own would be open meanwhile.
func TestANamespaceThatIsNewEnforcesAtOnce(t *testing.T) {
	namespace := func(labels string) string {
		return "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {" + labels + "}}}\n"
	}
	look(t, func(r *reader) {
		mode := func() networkpolicy.Mode {
			s := networkpolicy.NewSet()
			s.Replace(r.last.NetworkPolicies, r.last.Mesh.Namespaces)
			return s.Modes()["shop"]
		}
		r.write("policy.yaml", networkPolicyText("p", "{podSelector: {}}"))
		r.confirm()
		if mode() != networkpolicy.Warn {
			t.Fatalf("a namespace that is not there: %v", mode())
		}
		r.write("shop.yaml", namespace("culvert.dev/network-policy: enforce, a: b"))
		if r.look() == 0 || mode() != networkpolicy.Enforce || r.last.Mesh.Namespaces["shop"].Labels["a"] != "" {
			t.Errorf("at once it is in mode %v, and known by %v", mode(), r.last.Mesh.Namespaces["shop"])
		}
		r.write("shop.yaml", namespace("a: b")) // the other half
		if r.look(); mode() != networkpolicy.Warn {
			t.Errorf("a text that is gone holds on: %v", mode())
		}
		r.write("shop.yaml", namespace("culvert.dev/network-policy: enforce, a: b"))
		r.confirm()
		if mode() != networkpolicy.Enforce || r.last.NetworkPolicies[0].Enforced {
			t.Errorf("after a second it is in mode %v, by %v", mode(), r.last.NetworkPolicies[0])
		}
		// What else it says may wait; what narrows does not.
		r.write("shop.yaml", namespace("culvert.dev/network-policy: warn, a: b"))
		r.confirm()
		r.write("shop.yaml", namespace("culvert.dev/network-policy: enforce, a: c"))
		if r.look() == 0 || mode() != networkpolicy.Enforce || r.last.Mesh.Namespaces["shop"].Labels["a"] != "b" {
			t.Errorf("beside another label: %v, %v", mode(), r.last.Mesh.Namespaces["shop"])
		}
	})
}
