// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// DryRun is how many connections got one verdict of a policy that is not enforced.
type DryRun struct {
	Namespace, Policy string
	Verdict           string // with the policy enforced
	Enforced          string // without it
	Connections       uint64
}

// A namespace has its own share of the series, so that one with policies without end
// takes nothing from the others. What is beyond has no series.
const (
	maxDryRuns            = 512 // policies
	maxDryRunsOfNamespace = 64
)

var dryRunDesc = prometheus.NewDesc("culvert_policy_dry_run_total",
	"Connections that arrived where a policy that is not enforced selects the pod, by what would have become of them with the policy enforced, and what became of them.",
	[]string{"policy_namespace", "policy", "verdict", "enforced"}, nil)

// DryRuns publishes what f counts, which is asked at each scrape. What f returns of one
// policy stands together, and where there is no room for all policies, the first are shown.
func (m *Metrics) DryRuns(f func() []DryRun) { m.registry.MustRegister(dryRuns(f)) }

type dryRuns func() []DryRun

// Describe is part of prometheus.Collector.
func (dryRuns) Describe(out chan<- *prometheus.Desc) { out <- dryRunDesc }

// Collect is part of prometheus.Collector.
func (f dryRuns) Collect(out chan<- prometheus.Metric) {
	type policy struct{ namespace, name string }
	shown := map[policy]bool{}
	perNamespace := map[string]int{}
	for _, d := range f() {
		p := policy{d.Namespace, d.Policy}
		if !shown[p] {
			if len(shown) == maxDryRuns || perNamespace[d.Namespace] == maxDryRunsOfNamespace {
				continue
			}
			shown[p] = true
			perNamespace[d.Namespace]++
		}
		out <- prometheus.MustNewConstMetric(dryRunDesc, prometheus.CounterValue, float64(d.Connections), d.Namespace, d.Policy, d.Verdict, d.Enforced)
	}
}
