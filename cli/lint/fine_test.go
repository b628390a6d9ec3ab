// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	authz = `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, `
	modes = `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, `
	web   = `metadata: {name: web, namespace: shop}, `
	next  = "\n---\n"
)

// Where a check has a condition, something stands on either side of it.
func TestNothingIsSaidBesideThePoint(t *testing.T) {
	for _, c := range []struct {
		name  string
		alone bool // without testdata/world.yaml
		text  string
		want  []string
	}{
		{"what a policy means that is not understood is not known", false,
			authz + web + `spec: {action: DENY, rule: [{}]}}`, []string{"unknown-field spec.rule"}},
		{"a pod's ServiceAccount shows that there is one, not that others are not", true,
			`{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, uid: u}, spec: {serviceAccountName: a, containers: [{name: c}]}}` + next +
				authz + web + `spec: {rules: [{from: [{source: {serviceAccounts: [b]}}]}]}}`, nil},
		{"a pod that has ended is none", false,
			`{apiVersion: v1, kind: Pod, metadata: {name: job, namespace: shop, uid: u, labels: {app: job}}, spec: {containers: [{name: c}]}, status: {phase: Succeeded}}` + next +
				authz + web + `spec: {selector: {matchLabels: {app: job}}, rules: [{}]}}`, []string{"selects-nobody spec.selector.matchLabels"}},
		{"who is shadowed shuts nobody out", false,
			modes + `metadata: {name: a, namespace: shop}}` + next + modes + `metadata: {name: b, namespace: shop}, spec: {mtls: {mode: STRICT}}}`, []string{"shadowed "}},
		{"the oldest counts, whatever its name", false,
			modes + `metadata: {name: z, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z"}}` + next +
				modes + `metadata: {name: a, namespace: shop, creationTimestamp: "2026-01-02T00:00:00Z"}}`, []string{"shadowed "}},
		{"a pod of an unknown namespace may be in the mesh", false,
			`{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: ghost, uid: u}, spec: {containers: [{name: c}]}}` + next +
				authz + `metadata: {name: a, namespace: ghost}, spec: {rules: [{}]}}`, []string{"no-such-namespace metadata.namespace"}},
		{"a dry run is no duplicate of what is enforced", false,
			authz + web + `spec: {rules: [{}]}}` + next +
				authz + `metadata: {name: try, namespace: shop, annotations: {istio.io/dry-run: "true"}}, spec: {rules: [{}]}}`, []string{"dry-run metadata.annotations[istio.io/dry-run]"}},
		{"what a waypoint enforces refuses nobody here", false,
			authz + web + `spec: {targetRefs: [{kind: Service, name: web}], action: DENY}}`, []string{"target-refs spec.targetRefs"}},
		{"a policy without effect has no rules to look at", false,
			authz + web + `spec: {action: AUDIT}}`, []string{"no-effect spec.action"}},
		{"pods may be STRICT one by one", false,
			authz + `metadata: {name: pay, namespace: bank}, spec: {rules: [{from: [{source: {notNamespaces: [shop]}}]}]}}` + next +
				modes + `metadata: {name: pay, namespace: bank}, spec: {selector: {matchLabels: {app: pay}}, mtls: {mode: STRICT}}}`, nil},
		{"without pods, a policy's namespace is STRICT", true,
			authz + web + `spec: {rules: [{from: [{source: {notNamespaces: [bank]}}]}]}}` + next + modes + web + `spec: {mtls: {mode: STRICT}}}`, nil},
		{"an identity in when keeps plaintext out", false,
			authz + web + `spec: {rules: [{from: [{source: {notNamespaces: [bank]}}], when: [{key: source.principal, values: ["*"]}]}]}}`, nil},
		{"a CIDR without a part of it is something", false,
			authz + web + `spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.0.0.0/16]}}]}]}}`, nil},
		{"an account and a trust domain without themselves are nothing", false,
			authz + web + `spec: {action: DENY, rules: [{from: [{source: {serviceAccounts: [web], notServiceAccounts: [shop/web]}}]}, {from: [{source: {trustDomains: ["cluster*"], notTrustDomains: ["clus*"]}}]}]}}`,
			[]string{"never-matches spec.rules[0]", "never-matches spec.rules[1]"}},
		{"a star may stand for any trust domain, and for accounts", false,
			authz + web + `spec: {rules: [{from: [{source: {principals: ["*", "*sa/web", "cluster.local/ns/shop/sa/w*"]}}]}]}}`, nil},
		{"every namespace has an account that is called default", false,
			authz + web + `spec: {rules: [{from: [{source: {serviceAccounts: [bank/default]}}]}]}}`, nil},
		{"the root namespace need not be in the input", true,
			`{apiVersion: v1, kind: Namespace, metadata: {name: shop}}` + next + modes + `metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}`,
			[]string{"mesh-wide metadata.namespace"}},
		{"a port of a probe is a port, and of pods that declare none nothing is known", false,
			`{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop, uid: u, labels: {app: p}}, spec: {containers: [{name: c, ports: [{containerPort: 1}], readinessProbe: {tcpSocket: {port: 9999}}}]}}` + next +
				authz + web + `spec: {selector: {matchLabels: {app: p}}, rules: [{to: [{operation: {ports: ["9999"]}}]}]}}` + next +
				authz + `metadata: {name: b, namespace: shop}, spec: {selector: {matchLabels: {app: batch}}, rules: [{to: [{operation: {ports: ["80"]}}]}]}}`,
			[]string{"not-in-mesh "}},
		{"a Service of others says nothing", false,
			`{apiVersion: v1, kind: Service, metadata: {name: none, namespace: shop}, spec: {ports: [{port: 8081, targetPort: 1}]}}` + next +
				`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: legacy}, spec: {selector: {app: web}, ports: [{port: 8081, targetPort: 1}]}}` + next +
				authz + web + `spec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: ["8081"]}}]}]}}`,
			[]string{"port-not-declared spec.rules[0].to[0].operation.ports[0]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := World{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}
			if c.alone {
				w.Add("policy.yaml", []byte(c.text))
			} else {
				w = world(t, []byte(c.text))
			}
			var got []string
			for _, f := range Run(w) {
				got = append(got, string(f.Code)+" "+f.Field)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// What a part of a rule does that cannot be judged depends on the action.
func TestAFindingSaysWhatItDoes(t *testing.T) {
	rule := ` rules: [{to: [{operation: {methods: [GET], ports: ["8080"]}}]}]}}`
	for action, want := range map[string]string{"ALLOW": "; the rule lets nobody in", "DENY": "; it counts as true"} {
		found := Run(world(t, []byte(authz+web+`spec: {action: `+action+`,`+rule)))
		i := slices.IndexFunc(found, func(f Finding) bool { return f.Code == "layer-7" })
		if i < 0 || found[i].Text != "is about requests, which nobody looks at here"+want {
			t.Errorf("%s: %+v", action, found)
		}
	}
}

// A rule that matches nobody lets nobody in after an upgrade.
func TestNobodyIsLetInByARuleThatNeverMatches(t *testing.T) {
	w := world(t, []byte(authz+web+`spec: {rules: [{from: [{source: {namespaces: [bank], notNamespaces: ["*"]}}]}]}}`))
	w.Upgrade = true
	if lines := of(letsIn, Run(w)); lines != "" {
		t.Errorf("got %s", lines)
	}
}
