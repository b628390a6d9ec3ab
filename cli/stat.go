// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// statKinds are what a row of stat can stand for.
var statKinds = []string{"workloads", "services", "namespaces"}

// counting is which connections are counted, and by whom.
type counting struct {
	kind         string
	ns, from, to string
	clients      bool

	busiest func(counts) float64 // which rows are first; nil: all, by name
	most    int                  // rows, of these
}

func (k *counting) define(flags *pflag.FlagSet) {
	namespaceFlag(flags, &k.ns, "of the rows")
	flags.StringVar(&k.from, "from", "", "only what this `client` opens: a namespace, or namespace/name of a workload")
	flags.StringVar(&k.to, "to", "", "only what is opened to this `server`, as --from")
	flags.BoolVar(&k.clients, "clients", false, "a row for each that connects, rather than for each that is connected to")
}

// of reads what the argument says the rows stand for.
func (k *counting) of(args []string) error {
	k.kind = statKinds[0]
	if len(args) > 0 {
		k.kind = args[0]
	}
	switch {
	case !slices.Contains(statKinds, k.kind):
		return fmt.Errorf("%q: want %s", k.kind, or(statKinds))
	case k.clients && k.kind == "services":
		return errors.New("--clients is for workloads and namespaces: a service opens no connection")
	}
	return nil
}

func (c *command) stat() *cobra.Command {
	var k counting
	window := lifetime(10 * time.Second)
	cmd := &cobra.Command{
		Use:   "stat [workloads|services|namespaces]",
		Short: "Count connections and bytes of workloads, services or namespaces over a while",
		Long: `stat asks all nodes twice, --window apart, and shows what came in between: how many
connections were opened to each workload, how many of them were refused, how many there
are, and how much was read and written, also by those that are still open. Each connection
counts once, as in edges: where it was opened, or where it arrived if that is not in the
mesh. SUCCESS is the share that was not refused.

The exit code is 2 if a node did not answer.`,
		Example:   "  culvert stat\n  culvert stat services --ns shop --window 1m\n  culvert stat --to shop/db --clients",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: statKinds,
	}
	out := formats(cmd, "table", "wide", "json")
	k.define(cmd.Flags())
	cmd.Flags().Var(&window, "window", "`time` over which is counted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := k.of(args); err != nil {
			return err
		}
		before, err := c.sample(cmd)
		if err != nil {
			return err
		}
		if err := c.pass(cmd.Context(), "counts", time.Duration(window)); err != nil {
			return err
		}
		after, err := c.sample(cmd)
		if err != nil {
			return err
		}
		return c.showCounts(k, before, after, out)
	}
	return cmd
}

// pass lets time go by.
func (c *command) pass(ctx context.Context, what string, d time.Duration) error {
	work := c.working(what, 0, d)
	defer work.End()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// sample is what the nodes had counted at one time.
type sample struct {
	at    time.Time
	nodes []fleet.Node
}

func (c *command) sample(cmd *cobra.Command) (sample, error) {
	began := time.Now()
	nodes, err := c.nodes(cmd)
	return sample{began.Add(time.Since(began) / 2), nodes}, err
}

func (c *command) showCounts(k counting, before, after sample, out *format) error {
	rows := k.first(k.between(before, after))
	silent := unanswered(after.nodes, nil)
	for _, s := range unanswered(before.nodes, nil) { // what it counted until then is not known
		if !slices.ContainsFunc(silent, func(other silence) bool { return other.Node == s.Node }) {
			silent = append(silent, s)
		}
	}
	if out.value == "json" {
		return errors.Join(printJSON(c.Stdout, map[string]any{
			"windowSeconds": after.at.Sub(before.at).Seconds(), "rows": nonNil(rows), "unanswered": nonNil(silent),
		}), fail(len(silent) > 0))
	}
	return errors.Join(countTable(c.Stdout, rows, out.value == "wide"), c.warnSilent(silent), fail(len(silent) > 0))
}

// counts are those of one row.
type counts struct {
	Name     string            `json:"name"` // NAMESPACE/NAME, or NAMESPACE
	Pods     int               `json:"pods,omitempty"`
	Meshed   int               `json:"meshed,omitempty"` // of them
	Opened   uint64            `json:"opened"`
	Refused  uint64            `json:"refused"`
	Success  *float64          `json:"success"` // share of those opened; null: none was
	Reasons  map[string]uint64 `json:"refusedBy,omitempty"`
	Secured  uint64            `json:"secured"` // of those opened, in mutual TLS
	Open     int64             `json:"open"`
	PerSec   float64           `json:"openedPerSecond"`
	ReadSec  float64           `json:"readBytesPerSecond"`
	WriteSec float64           `json:"writeBytesPerSecond"`

	read, written int64
}

// matches reports whether an end is meant by NAMESPACE or NAMESPACE/NAME.
func matches(e fleet.End, whom string) bool {
	namespace, name, named := strings.Cut(whom, "/")
	return whom == "" || e.Namespace == namespace && (!named || e.Workload == name)
}
