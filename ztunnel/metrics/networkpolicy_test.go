// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNamespacesOfNetworkPoliciesHaveABound(t *testing.T) {
	m := New(Config{})
	for i := range maxNetworkNamespaces + 10 {
		m.NetworkPolicyRefused("ingress", "warn", fmt.Sprint("n", i))
	}
	m.NetworkPolicyRefused("egress", "enforce", "n0")
	lines := scrape(t, m, "culvert_network_policy_refusals_total")
	text := strings.Join(lines, "\n")
	for _, want := range []string{
		`culvert_network_policy_refusals_total{direction="ingress",mode="warn",policy_namespace="other"} 10`,
		`culvert_network_policy_refusals_total{direction="egress",mode="enforce",policy_namespace="n0"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(text, `mode="warn"`); n != maxNetworkNamespaces+1 {
		t.Errorf("%d series", n)
	}
}

// Namespaces come and go: those that are gone leave their places to others.
func TestANamespaceThatCountsNothingLeavesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		for i := range maxNetworkNamespaces {
			m.NetworkPolicyRefused("ingress", "warn", fmt.Sprint("n", i))
		}
		time.Sleep(keepFlows / 2)
		m.NetworkPolicyRefused("ingress", "warn", "n0")
		time.Sleep(keepFlows / 2)
		m.NetworkPolicyRefused("ingress", "warn", "new")
		lines := scrape(t, m, "culvert_network_policy_refusals_total")
		text := strings.Join(lines, "\n")
		if len(lines) != maxNetworkNamespaces || strings.Contains(text, `"other"`) || !strings.Contains(text, `"n0"} 2`) || !strings.Contains(text, `"new"} 1`) {
			t.Errorf("%d series, other %v", len(lines), strings.Contains(text, `"other"`))
		}
	})
}
