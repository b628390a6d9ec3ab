// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A policy of layer 7, of which ztunnel can judge a part.
const judgedPolicy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: judged}
spec: {rules: [{to: [{operation: {ports: ["80"], %s: [a]}}]}]}
`

// Policies say in their status, to their owners, what ztunnel cannot judge. The replica of the
// CA that writes it is killed, and another does.
func TestPoliciesSayInTheirStatusWhatIsNotUnderstood(t *testing.T) {
	m := useMesh(t)
	m.makeNamespace("judged")
	m.police("judged", "STRICT")
	fail(t, m.apply(fmt.Sprintf(judgedPolicy, "hosts")))
	m.saysOf("peerauthentication/default", "True Accepted 1 every field is understood")
	m.saysOf("authorizationpolicy/web", "True UnsupportedValue 1 in force, narrower than it is written: spec.rules[0].to[0].operation.hosts: ")
	m.warned("judged", "web", 1)
	m.mustKubectl("patch", "authorizationpolicy", "web", "--namespace=judged", "--subresource=status", "--type=json",
		`--patch=[{"op": "add", "path": "/status/conditions/-", "value": {"type": "Synced", "status": "True"}}]`)

	leader := m.leaderOfTheCA()
	pod, _, _ := strings.Cut(leader, "_")
	begin := time.Now()
	m.kill(m.mustKubectl("get", "pod", pod, "--namespace=culvert-system", "--output=jsonpath={.spec.nodeName}"), "culvert-identit") // the kernel keeps 15 letters
	fail(t, m.apply(fmt.Sprintf(judgedPolicy, "paths")))
	m.saysOf("authorizationpolicy/web", "True UnsupportedValue 2 in force, narrower than it is written: spec.rules[0].to[0].operation.paths: ")
	t.Logf("another replica wrote %.1f s after the first was killed", time.Since(begin).Seconds())
	if now := m.leaderOfTheCA(); now == leader {
		t.Errorf("%s still holds the Lease, and was killed", now)
	}
	m.warned("judged", "web", 2)
	if theirs := m.mustKubectl("get", "authorizationpolicy", "web", "--namespace=judged", `--output=jsonpath={.status.conditions[?(@.type=="Synced")].status}`); theirs != "True" {
		t.Errorf("the condition of another says %q", theirs)
	}
	m.awaitReady()
}

// saysOf waits until the condition ZtunnelAccepted of a policy of the namespace judged begins
// with "STATUS REASON GENERATION MESSAGE".
func (m *installed) saysOf(policy, want string) {
	m.t.Helper()
	eventually(m.t, func() error {
		got, err := m.kubectl("get", policy, "--namespace=judged",
			`--output=jsonpath={range .status.conditions[?(@.type=="ZtunnelAccepted")]}{.status} {.reason} {.observedGeneration} {.message}{end}`)
		if err == nil && !strings.HasPrefix(got, want) {
			err = fmt.Errorf("%s says %q, want %q", policy, got, want)
		}
		return err
	})
}

// warned says how many Events of the CA there are on a policy.
func (m *installed) warned(namespace, name string, want int) {
	m.t.Helper()
	events := m.mustKubectl("get", "events", "--namespace="+namespace, "--field-selector=involvedObject.kind=AuthorizationPolicy,involvedObject.name="+name,
		`--output=jsonpath={range .items[*]}{.type} {.reason} {.count} {.source.component} {.message}{"\n"}{end}`)
	if n := strings.Count(events, "Warning UnsupportedValue 1 culvert-identity in force, "); n != want || n != strings.Count(events+"\n", "\n") {
		m.t.Errorf("want %d Events of type Warning:\n%s", want, events)
	}
}

// leaderOfTheCA is which replica writes, as its pod's name, "_" and a text of its process.
func (m *installed) leaderOfTheCA() string {
	m.t.Helper()
	return m.mustKubectl("get", "lease", "culvert-policy-status", "--namespace=culvert-system", "--output=jsonpath={.spec.holderIdentity}")
}
