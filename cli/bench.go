// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/speed"
)

func (c *command) bench() *cobra.Command {
	return noun("bench", "Measure what a path between two places carries, with the mesh and without", c.benchServe(), c.benchRun(), c.benchCluster(), c.benchClean())
}

func (c *command) benchServe() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Be the server that bench run measures",
		Long: `Be the server that culvert bench run measures, until it is interrupted: in a pod or on a
machine. Whoever reaches its port may send it load: it belongs into a network or under a
policy of yours. It serves 2,048 connections at once.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&listen, "listen", ":7007", "`address` to listen on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ln, err := net.Listen("tcp", listen)
		if err != nil {
			return fmt.Errorf("--listen %s: %w", listen, err)
		}
		fmt.Fprintf(c.Stderr, "culvert: serving on %s\n", ln.Addr())
		return speed.Serve(cmd.Context(), ln)
	}
	return cmd
}

func (c *command) benchRun() *cobra.Command {
	var plan speed.Plan
	var rows, beside []string
	var perRow time.Duration
	var svg string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "run [NAME=]HOST:PORT...",
		Short: "Measure servers of bench serve, by turns",
		Long: `Measure servers of culvert bench serve from here: bytes with 1, 8 and 64 connections,
requests one after the other, and connections that are opened and closed. Several targets
are measured by turns; the first is what the others are compared with.

To see what the mesh costs, run a server in a pod of the mesh and one in a pod beside it
that is not, and run this in a pod of the mesh: mesh=10.0.1.7:7007 plain=10.0.1.8:7007.
With --metrics, what the ztunnels of both nodes used is told, too: processor time for each
gigabyte, request or connection, and memory.

It loads the network and the machines. It takes --per-row for each row, and says how much
is left. The exit code is 2 if something could not be measured.`,
		Example: `  culvert bench run plain=10.0.1.8:7007 mesh=10.0.1.7:7007 \
    --metrics http://10.0.0.1:15020/metrics --metrics http://10.0.0.2:15020/metrics`,
		Args: cobra.MinimumNArgs(1),
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().StringSliceVar(&rows, "rows", []string{"bulk-1", "bulk-8", "bulk-64", "request-1", "connect-1"}, "`rows` to measure: bulk, request or connect, and how many connections at once")
	cmd.Flags().DurationVar(&perRow, "per-row", 30*time.Second, "`time` of a row, for all turns of all targets: 1s to 1h")
	cmd.Flags().IntVar(&plan.Turns, "turns", 5, "`turns` of each target in a row: 1 to 100")
	cmd.Flags().StringArrayVar(&beside, "metrics", nil, "`URL` of /metrics of a program whose use of processor and memory counts, as ztunnel's; may be given again")
	cmd.Flags().StringVar(&svg, "svg", "", "`file` for a picture of the results")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "do not tell what is measured now")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := planned(&plan, args, rows, beside, perRow); err != nil {
			return err
		}
		plan.Tell = func(what string) {
			if !quiet {
				fmt.Fprintf(c.Stderr, "culvert: %s\n", printable(what))
			}
		}
		plan.Tell(fmt.Sprintf("this takes %v", plan.Takes().Round(time.Second)))
		report, err := plan.Run(cmd.Context())
		if report == nil {
			return err
		}
		return errors.Join(c.tellSpeed(report, out.value, svg), err, fail(report.Failed()))
	}
	return cmd
}

// tellSpeed prints the rows that are complete.
func (c *command) tellSpeed(report *speed.Report, format, svg string) error {
	if svg != "" {
		f, err := os.Create(svg)
		if err != nil {
			return err
		}
		if err := errors.Join(report.SVG(f), f.Close()); err != nil {
			return err
		}
	}
	for _, problem := range report.Problems() {
		fmt.Fprintf(c.Stderr, "culvert: %s\n", printable(problem))
	}
	if format == "json" {
		return printJSON(c.Stdout, report)
	}
	return table(c.Stdout, speed.Head, report.Lines())
}

// planned fills in the plan.
func planned(plan *speed.Plan, targets, rows, beside []string, perRow time.Duration) error {
	names := map[string]bool{}
	for _, arg := range targets {
		name, address, named := strings.Cut(arg, "=")
		if !named {
			address = arg
		}
		host, port, err := net.SplitHostPort(address)
		if _, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || host == "" || name == "" {
			return fmt.Errorf("target %q: want HOST:PORT or NAME=HOST:PORT, as mesh=10.0.1.7:7007", arg)
		}
		if names[name] {
			return fmt.Errorf("target %q: there are two of the name %s", arg, name)
		}
		names[name] = true
		plan.Targets = append(plan.Targets, speed.Target{Name: name, Address: address})
	}
	for _, text := range rows {
		kind, count, _ := strings.Cut(text, "-")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 || n > 1024 || kind != speed.Bulk && kind != speed.Request && kind != speed.Connect {
			return fmt.Errorf("--rows %q: want bulk-N, request-N or connect-N, N from 1 to 1024", text)
		}
		plan.Rows = append(plan.Rows, speed.Row{Kind: kind, Connections: n})
	}
	for _, text := range beside {
		if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("--metrics %q: want a URL as http://10.0.0.1:15020/metrics", text)
		}
	}
	plan.Beside = beside
	switch {
	case len(plan.Rows) == 0:
		return errors.New("--rows: there is none")
	case plan.Turns < 1 || plan.Turns > 100:
		return fmt.Errorf("--turns %d: want 1 to 100", plan.Turns)
	case perRow < time.Second || perRow > time.Hour:
		return fmt.Errorf("--per-row %v: want 1s to 1h", perRow)
	}
	plan.Each = perRow / time.Duration(plan.Turns*len(plan.Targets))
	if plan.Each < 50*time.Millisecond {
		return fmt.Errorf("--per-row %v is %v for each of %d turns of %d targets: want 50ms at least", perRow, plan.Each, plan.Turns, len(plan.Targets))
	}
	return nil
}
