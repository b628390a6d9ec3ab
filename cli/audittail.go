// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/identity/ledger"
)

// tailEvery is how often a ledger is looked at again.
const tailEvery = 500 * time.Millisecond

func (c *command) auditTail() *cobra.Command {
	var who identityFlag
	var node string
	var denied, follow bool
	last := 10
	cmd := &cobra.Command{
		Use:   "tail [DIR]",
		Short: "Print the last decisions of the CA's ledger, and follow it",
		Long: `tail prints the last decisions of the ledger's replicas, the youngest last, and with
--follow each one that comes, until it is interrupted. -o json prints lines as they are.
Nothing is verified.`,
		Example: "  culvert audit tail /var/lib/culvert/ledger --follow --denied",
		Args:    cobra.MaximumNArgs(1),
	}
	out := formats(cmd, "text", "json")
	cmd.Flags().Var(&who, "id", "only of this `identity`: a SPIFFE ID, or namespace/name of a ServiceAccount")
	cmd.Flags().StringVar(&node, "node", "", "only of the `node` of this name")
	cmd.Flags().BoolVar(&denied, "denied", false, "only what was refused")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().IntVar(&last, "lines", last, "how `many` of those that are there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q, err := ledgerAt(args)
		if err == nil && q.Dir == "" {
			err = errors.New("want the directory of a ledger")
		}
		if err != nil {
			return err
		}
		wanted := func(e ledger.Entry) bool {
			return decided(e.Record) && who.is(e.Identity) && (node == "" || node == e.Node) && (!denied || e.Kind == ledger.KindDenied)
		}
		for from, first := ledger.Follow(q.Dir), true; ; first = false {
			entries, err := next(from, wanted)
			if err != nil {
				return err
			}
			if first {
				entries = entries[max(0, len(entries)-max(0, last)):]
			}
			c.sayEntries(out, entries)
			if !follow {
				return nil
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(tailEvery):
			}
		}
	}
	return cmd
}

func next(from *ledger.Follower, wanted func(ledger.Entry) bool) (some []ledger.Entry, err error) {
	all, err := from.Next()
	for _, e := range all {
		if wanted(e) {
			some = append(some, e)
		}
	}
	return some, err
}

func (c *command) sayEntries(out *format, entries []ledger.Entry) {
	for _, e := range entries {
		if out.value == "json" {
			fmt.Fprintf(c.Stdout, "%s\n", e.Line)
			continue
		}
		fields := []string{stamp(e.Time), e.Replica, strconv.FormatUint(e.Seq, 10), string(e.Kind), orDash(e.Node), orDash(e.Identity)}
		if e.Process != "" {
			fields[4] = "process " + e.Process
		}
		if e.Kind == ledger.KindDenied {
			fields = append(fields, e.Refusal+":", e.Reason)
		} else {
			fields = append(fields, "serial", e.Serial, "until", stamp(e.NotAfter))
		}
		fmt.Fprintln(c.Stdout, printable(strings.Join(fields, " ")))
	}
}
