// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// budget is how long a node goes on if the CA stops now.
type budget struct {
	Node       string    `json:"node"`
	Identities int       `json:"identities"` // with a certificate
	First      string    `json:"first,omitempty"`
	At         time.Time `json:"at,omitzero"` // when the first of them ends
	Left       seconds   `json:"leftSeconds"`
	Without    int       `json:"without"` // identities that have none now
	Problem    string    `json:"problem,omitempty"`
}

func (c *command) outageBudget() *cobra.Command {
	var within lifetime
	cmd := &cobra.Command{
		Use:   "outage-budget",
		Short: "Show how long each node goes on if the CA stops now",
		Long: `outage-budget shows, node by node, when the first identity ends if no certificate is
renewed from now on: until then nothing notices that the CA is away. New pods notice at
once if their node has no certificate of their ServiceAccount yet. As certificates are
renewed before half of their life, about half of it is left while all is well.

The exit code is 2 if a node did not answer, if an identity has no certificate, or if less
than --fail-within is left anywhere.`,
		Example: "  culvert ca outage-budget --fail-within 30m",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().Var(&within, "fail-within", "exit with 2 if a node has less than this `duration` left")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		rows := budgets(nodes, c.Now())
		failed := slices.ContainsFunc(rows, func(b budget) bool {
			return b.Problem != "" || b.Without > 0 || b.Identities > 0 && time.Duration(b.Left) < max(time.Duration(within), 1)
		})
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"nodes": rows, "ok": !failed}), fail(failed))
		}
		var lines [][]string
		for _, b := range rows {
			left := long(time.Duration(b.Left))
			if b.Identities == 0 {
				left = ""
			}
			lines = append(lines, []string{b.Node, count(b.Identities), count(b.Without), left, stamp(b.At), b.First, b.Problem})
		}
		return errors.Join(table(c.Stdout, "NODE|IDENTITIES|WITHOUT|LEFT|UNTIL|FIRST TO END|PROBLEM", lines), fail(failed))
	}
	return cmd
}

// budgets are those of all nodes, the shortest first.
func budgets(nodes []fleet.Node, now time.Time) []budget {
	all := []budget{}
	for _, n := range nodes {
		b := budget{Node: n.Name, Problem: n.Problem}
		for _, h := range n.Dump.Certificates {
			until := h.UsedUntil()
			if until.IsZero() {
				b.Without++
				continue
			}
			b.Identities++
			if b.At.IsZero() || until.Before(b.At) {
				b.At, b.First, b.Left = until, h.Identity, seconds(until.Sub(now))
			}
		}
		all = append(all, b)
	}
	slices.SortStableFunc(all, func(a, b budget) int {
		return cmp.Or(cmp.Compare(ranked(a), ranked(b)), cmp.Compare(a.Node, b.Node))
	})
	return all
}

// ranked sorts nodes without a certificate last, and those that do not answer first.
func ranked(b budget) time.Duration {
	switch {
	case b.Problem != "":
		return -1 << 62
	case b.Identities == 0:
		return 1 << 62
	}
	return time.Duration(b.Left)
}
