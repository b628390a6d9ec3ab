// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"strings"
	"testing"
)

// Whoever writes policies without end takes no series from other namespaces.
func TestDryRunsHaveAShareOfSeries(t *testing.T) {
	m := New(Config{})
	var counts []DryRun
	add := func(namespace string, policies int) {
		for i := range policies {
			for _, verdict := range []string{"would_allow", "would_deny"} {
				counts = append(counts, DryRun{namespace, fmt.Sprint("p", i), verdict, "allowed", uint64(i + 1)})
			}
		}
	}
	add("greedy", 1000)
	add("modest", 2)
	m.DryRuns(func() []DryRun { return counts })
	if n := len(scrape(t, m, `culvert_policy_dry_run_total{`)); n != 2*(maxDryRunsOfNamespace+2) {
		t.Errorf("%d series", n)
	}
	if got := value(t, m, "culvert_policy_dry_run_total", `policy_namespace="modest"`, `policy="p1"`, `verdict="would_deny"`, `enforced="allowed"`); got != "2" {
		t.Errorf("the modest one's second policy: %q", got)
	}
	counts = nil
	for i := range 100 {
		add(fmt.Sprint("ns-", i), 60)
	}
	if n := len(scrape(t, m, "culvert_policy_dry_run_total{")); n != 2*maxDryRuns {
		t.Errorf("%d series of all namespaces", n)
	}
	counts = nil
	if left := strings.Join(scrape(t, m, "culvert_policy_dry_run_total{"), " "); left != "" {
		t.Errorf("policies are gone, and their series are not: %s", left)
	}
}
