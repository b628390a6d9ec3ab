// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/identity/ledger"
)

func (c *command) auditWhoHad() *cobra.Command {
	at := moment{now: c.Now}
	var node string
	cmd := &cobra.Command{
		Use:   "who-had ID [DIR | FILE…]",
		Short: "Name who had a certificate of an identity at a time, by the CA's ledger",
		Long: `who-had prints each certificate of an identity that was issued by then and had not ended:
for which pods it is, the node that got it, and the pod of ztunnel that asked. ID is a
SPIFFE ID, or namespace/name of a ServiceAccount. A certificate that was replaced was good
until its end nevertheless.

Lines are compared by their hashes as they are read; culvert audit verify also asks for
signatures. The exit code is 2 if a line was changed or is missing: then somebody may be
missing, too.`,
		Example: "  culvert audit who-had shop/web --at 2026-11-30T07:00:00Z --node node-7 /var/lib/culvert/ledger",
		Args:    cobra.MinimumNArgs(1),
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().Var(&at, "at", "`time` as 2026-11-30T07:00:00Z, or how long ago, as 90m (default now)")
	cmd.Flags().StringVar(&node, "node", "", "only what the `node` of this name had")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var who identityFlag
		if err := who.Set(args[0]); err != nil {
			return err
		}
		q, err := ledgerAt(args[1:])
		if err != nil {
			return err
		}
		if at.IsZero() {
			at.Time = c.Now()
		}
		var had []ledger.Record
		report, err := examine(q, func(r ledger.Record) {
			if r.Kind == ledger.KindIssued && who.is(r.Identity) && (node == "" || node == r.Node) && !r.Time.After(at.Time) && at.Before(r.NotAfter) {
				had = append(had, r)
			}
		})
		if err != nil {
			return err
		}
		return c.sayHad(out, had, report, who.String()+" at "+stamp(at.Time))
	}
	return cmd
}

func (c *command) sayHad(out *format, had []ledger.Record, report *ledger.Report, what string) error {
	slices.SortStableFunc(had, func(a, b ledger.Record) int { return a.Time.Compare(b.Time) })
	lost := uint64(0)
	for _, chain := range report.Chains {
		lost += chain.Lost
	}
	end := fail(len(report.Faults) > 0)
	if out.value == "json" {
		return errors.Join(printJSON(c.Stdout, map[string]any{"had": nonNil(had), "whole": len(report.Faults) == 0, "lost": lost, "faults": report.Faults}), end)
	}
	if len(had) == 0 {
		fmt.Fprintf(c.Stdout, "nobody had %s\n", printable(what))
	} else {
		var rows [][]string
		for _, r := range had {
			holder := r.Node
			if r.Process != "" {
				holder = "process " + r.Process
			}
			rows = append(rows, []string{holder, r.Identity, strings.Join(r.Pods, ","), stamp(r.Time), stamp(r.NotAfter), r.Serial, r.KeySHA256, r.Pod, r.Replica, strconv.FormatUint(r.Seq, 10)})
		}
		if err := table(c.Stdout, "NODE|IDENTITY|FOR PODS|ISSUED|NOT AFTER|SERIAL|KEY SHA256|ASKED BY|REPLICA|SEQ", rows); err != nil {
			return err
		}
	}
	if lost > 0 {
		fmt.Fprintf(c.Stdout, "\n%d lines of the ledger are lost, as it says itself: somebody may be missing here.\n", lost)
	}
	if len(report.Faults) > 0 {
		fmt.Fprintf(c.Stdout, "\nThe ledger is not whole, so that somebody may be missing here: %s. See culvert audit verify.\n", printable(report.Faults[0].String()))
	}
	return end
}
