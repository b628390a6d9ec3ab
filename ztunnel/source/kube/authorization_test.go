// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"log/slog"
	"testing"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// One that cannot be judged whole is in force, narrower than it was written, and said.
// One that is not understood keeps its former meaning.
func TestAnAuthorizationPolicyIsInForceWithWhatCanBeJudged(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(authorizationPolicies)
	set := func(spec string) {
		server.Set(custom(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shop}, spec: `+spec+`}`))
	}
	is := func(action policy.Action, rules, warnings int) func(source.Snapshot) bool {
		return func(s source.Snapshot) bool {
			all := s.Policies.AuthorizationPolicies
			if len(all) != 1 {
				return false
			}
			able := 0
			for _, r := range all[0].Rules {
				if !r.Never() {
					able++
				}
			}
			return all[0].Action == action && able == rules && len(all[0].Warnings) == warnings
		}
	}
	set(`{rules: [{from: [{source: {namespaces: [shop]}}]}, {}]}`)
	o := options(server)
	var log env.Log
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	w := start(t, o)
	w.until("two rules", is(policy.Allow, 2, 0))
	w.says("")

	set(`{rules: [{from: [{source: {namespaces: [shop], ipBlocks: [10.0.0.0/33]}}]}, {}]}`)
	w.until("one of which cannot be judged", is(policy.Allow, 1, 1))
	w.says(`AuthorizationPolicy shop/a: spec.rules[0].from[0].source.ipBlocks[0]: "10.0.0.0/33": not an address or a CIDR`)

	if n := w.source.Stats().Failures; n > 0 || log.Count("level=ERROR") > 0 || log.Count("narrower than it was written") == 0 {
		t.Errorf("%d failures; the log: %s", n, log.String())
	}

	set(`{rules: [{from: []}, null]}`)
	w.until("an empty list and a null are not everybody", is(policy.Allow, 0, 2))

	set(`{rules: [{from: [{source: {namespaces: [shop], mood: [good]}}]}, {}]}`)
	w.until("a field that this version does not know", is(policy.Allow, 1, 1))
	w.says(`AuthorizationPolicy shop/a: spec.rules[0].from[0].source.mood: not known to this version`)

	set(`{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}`)
	w.until("a DENY", is(policy.Deny, 1, 1))
	set(`{action: ALLOW, rules: [{}], hosts: [a]}`)
	w.says(`AuthorizationPolicy shop/a: strict decoding error: unknown field "spec.hosts"`)
	server.Set(pod(t, "web-2", 2))
	w.until("its former meaning, and another pod", func(s source.Snapshot) bool { return is(policy.Deny, 1, 1)(s) && len(s.Mesh.Workloads) == 2 })
}
