// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// federated is what one replica of the CA says of one other trust domain.
type federated struct {
	fleet.Federation
	CA string `json:"ca"`
}

func (c *command) bundleFederations() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "federations",
		Short: "Show the bundles of other trust domains",
		Long: `federations prints which other trust domains the CA is federated with, as each of its
replicas says: the number of the bundle that nodes are told of, its roots, for how long it was
not fetched, how often it should be, and why the last attempt failed.

The exit code is 2 if a bundle never came, the last attempt failed, or the file of federations is
not understood.`,
		Example: "  culvert bundle federations",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := c.mesh(cmd.Context())
		if err != nil {
			return err
		}
		all, problems, answered := m.federations()
		if !answered {
			return errors.New("no replica of the CA answered")
		}
		failed := len(problems) > 0 || slices.ContainsFunc(all, func(f federated) bool { return f.Roots == 0 || f.Problem != "" })
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"federations": nonNil(all), "problems": nonNil(problems), "ok": !failed}), fail(failed))
		}
		var rows [][]string
		for _, f := range all {
			sequence := ""
			if f.Sequence > 0 {
				sequence = fmt.Sprint(f.Sequence)
			}
			if f.Problem == "" && f.Dropped > 0 {
				f.Problem = fmt.Sprintf("bundleFile has %d roots that the bundle has dropped: write it anew", f.Dropped)
			}
			rows = append(rows, []string{f.TrustDomain, f.Profile, sequence, fmt.Sprint(f.Roots), since(f.AgeSeconds), since(f.RefreshSeconds), f.CA, f.Problem})
		}
		if err := table(c.Stdout, "TRUST DOMAIN|PROFILE|SEQUENCE|ROOTS|AGE|REFRESH|CA|PROBLEM", rows); err != nil {
			return err
		}
		for _, p := range problems {
			fmt.Fprintln(c.Stderr, p)
		}
		return fail(failed)
	}
	return cmd
}

func since(s float64) string {
	return (time.Duration(s) * time.Second).String()
}

// federations are those of all replicas, by trust domain; problems are why a replica does not go
// by what was written last.
func (m mesh) federations() (all []federated, problems []string, answered bool) {
	for _, ca := range m.cas {
		if ca.State == nil {
			continue
		}
		answered = true
		if ca.State.Federation == nil {
			continue
		}
		for _, f := range ca.State.Federation.Domains {
			all = append(all, federated{f, ca.Name})
		}
		if p := ca.State.Federation.Problem; p != "" {
			problems = append(problems, ca.Name+": "+p)
		}
	}
	slices.SortStableFunc(all, func(a, b federated) int { return cmp.Compare(a.TrustDomain, b.TrustDomain) })
	return all, problems, answered
}
