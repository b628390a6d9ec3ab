// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

type policyRow struct {
	Kind      string            `json:"kind"`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Action    string            `json:"action"` // ALLOW or the like, or the mode
	Scope     string            `json:"scope"`  // Global, Namespace or WorkloadSelector
	DryRun    bool              `json:"dryRun,omitempty"`
	Rules     int               `json:"rules"`
	Selector  map[string]string `json:"selector,omitempty"`
	Warnings  []string          `json:"warnings,omitempty"` // what of it is not understood
}

func (p policyRow) key() string              { return p.Namespace + "/" + p.Name + " " + p.Kind }
func (p policyRow) in(namespace string) bool { return p.Namespace == namespace }

func (p policyRow) line(wide bool) []string {
	action := p.Action
	if p.DryRun {
		action += " (dry run)"
	}
	line := []string{p.Namespace, p.Name, action, p.Scope, p.Kind}
	if wide {
		var labels []string
		for _, key := range slices.Sorted(maps.Keys(p.Selector)) {
			labels = append(labels, key+"="+p.Selector[key])
		}
		line = append(line, count(p.Rules), strings.Join(labels, ","), strings.Join(p.Warnings, "; "))
	}
	return line
}

func (c *command) policies() *cobra.Command {
	return list(c, listing[policyRow]{
		use: "policies", short: "Show the policies that nodes go by", name: "policies",
		long: `policies shows AuthorizationPolicies with their actions, PeerAuthentications with their
modes, and NetworkPolicies with what their namespaces say of them: enforce, warn or off.
What of one is not understood is shown by -o wide, and by culvert policy lint.`,
		example: "  culvert policies --ns shop",
		head:    "NAMESPACE|POLICY NAME|ACTION|SCOPE|KIND", wide: "RULES|SELECTOR|NOT UNDERSTOOD",
		of: policiesOf,
	})
}

func policiesOf(d fleet.Dump) (rows []policyRow) {
	scope := func(o policy.Object) string {
		switch {
		case len(o.Selector) > 0:
			return "WorkloadSelector"
		case o.Namespace == d.Policies.RootNamespace:
			return "Global"
		}
		return "Namespace"
	}
	for _, p := range d.Policies.AuthorizationPolicies {
		rows = append(rows, policyRow{
			Kind: "AuthorizationPolicy", Namespace: p.Namespace, Name: p.Name, Action: p.Action.String(), Scope: scope(p.Object),
			DryRun: p.DryRun, Rules: len(p.Rules), Selector: p.Selector, Warnings: p.Warnings,
		})
	}
	for _, p := range d.Policies.PeerAuthentications {
		rows = append(rows, policyRow{
			Kind: "PeerAuthentication", Namespace: p.Namespace, Name: p.Name, Action: p.Mode.String(), Scope: scope(p.Object),
			Rules: len(p.Ports), Selector: p.Selector,
		})
	}
	if d.Network == nil {
		return rows
	}
	for _, p := range d.Network.Policies {
		row := policyRow{
			Kind: "NetworkPolicy", Namespace: p.Namespace, Name: p.Name, Action: cmp.Or(string(d.Network.Modes[p.Namespace]), "warn"),
			Scope: "WorkloadSelector", Rules: len(p.Ingress.Rules) + len(p.Egress.Rules), Warnings: p.Warnings,
		}
		if len(p.Pods) == 0 {
			row.Scope = "Namespace"
		}
		rows = append(rows, row)
	}
	return rows
}
