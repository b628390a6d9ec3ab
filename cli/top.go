// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// orders are those of top's rows: by what the most is first.
var orders = map[string]func(r counts) float64{
	"conn":    func(r counts) float64 { return r.PerSec },
	"refused": func(r counts) float64 { return float64(r.Refused) },
	"open":    func(r counts) float64 { return float64(r.Open) },
	"bytes":   func(r counts) float64 { return r.ReadSec + r.WriteSec },
}

var orderNames = []string{"conn", "refused", "open", "bytes"}

func (c *command) top() *cobra.Command {
	var k counting
	every, during := interval{lifetime(2 * time.Second)}, lifetime(0)
	by, most := "conn", 20
	cmd := &cobra.Command{
		Use:   "top [workloads|services|namespaces]",
		Short: "Show again and again who is busiest",
		Long: `top shows what stat counts, of the last --every, again and again: the busiest first, in
place on a terminal, else one table after the other. Who is idle has no row.

It ends when it is interrupted, or after --for; the exit code is 2 if a node did not answer
then.`,
		Example:   "  culvert top\n  culvert top services --by refused",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: statKinds,
	}
	out := formats(cmd, "table", "wide", "json")
	k.define(cmd.Flags())
	cmd.Flags().StringVar(&by, "by", by, "`order`: "+or(orderNames))
	cmd.Flags().IntVar(&most, "rows", most, "`number` of rows at most")
	cmd.Flags().Var(&every, "every", "`time` between two looks, over which is counted")
	cmd.Flags().Var(&during, "for", "`time` after which it ends (default never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case orders[by] == nil:
			return fmt.Errorf("--by %q: want %s", by, or(orderNames))
		case most < 1:
			return fmt.Errorf("--rows %d: want 1 or more", most)
		}
		if err := k.of(args); err != nil {
			return err
		}
		before, err := c.sample(cmd)
		if err != nil {
			return err
		}
		k.busiest, k.most = orders[by], most
		if err := c.pass(cmd.Context(), "counts", time.Duration(every.lifetime)); err != nil {
			return interrupted(err)
		}
		return interrupted(c.repeat(cmd, repeating{every: every, during: during}, func() error {
			after, err := c.sample(cmd)
			if err != nil {
				return err
			}
			err = c.showCounts(k, before, after, out)
			before = after
			return err
		}))
	}
	return cmd
}

// interrupted is nil if the operator has ended what goes on until then.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// first are the busiest rows, if that is asked for, else all.
func (k *counting) first(rows []counts) []counts {
	if k.busiest == nil {
		return rows
	}
	rows = slices.DeleteFunc(rows, func(r counts) bool {
		return r.Opened == 0 && r.Refused == 0 && r.Open == 0 && r.ReadSec == 0 && r.WriteSec == 0
	})
	slices.SortStableFunc(rows, func(a, b counts) int { return -cmp.Compare(k.busiest(a), k.busiest(b)) })
	return rows[:min(len(rows), k.most)]
}
