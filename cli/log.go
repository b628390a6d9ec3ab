// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// logged is from which level on a node logs.
type logged struct {
	Node  string `json:"node"`
	Level string `json:"level"`
}

var logLevels = []string{"debug", "info", "warn", "error"}

func (c *command) log() *cobra.Command {
	var nodes, sockets []string
	var level string
	var reset bool
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show from which level on nodes log, or change it",
		Long: `log shows from which level on each ztunnel logs. With --level it has them log from another
one on, until they are started anew, or until --reset, which brings back the one that each
was started with. debug has a line for each step of each connection.

On Kubernetes a change runs ztunnel log in the pods of ztunnel: it needs the right to exec
there. On a machine without, it asks at --ztunnel-socket, which only root reaches.

The exit code is 2 if a node did not answer.`,
		Example: "  culvert log\n  culvert log --level debug --node node-7\n  culvert log --reset --ztunnel-socket /run/culvert/admin.sock",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "comma-separated `names` of nodes")
	cmd.Flags().StringVar(&level, "level", "", "`level` to log from: "+or(logLevels))
	cmd.Flags().BoolVar(&reset, "reset", false, "log from the level that each was started with")
	cmd.Flags().StringSliceVar(&sockets, "ztunnel-socket", nil, "without Kubernetes, for a change: comma-separated `paths` of ztunnels' sockets, as /run/culvert/admin.sock")
	_ = cmd.RegisterFlagCompletionFunc("level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp)) // it was just defined
	cmd.MarkFlagsMutuallyExclusive("level", "reset")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change := reset || cmd.Flags().Changed("level")
		switch {
		case cmd.Flags().Changed("level") && !slices.Contains(logLevels, level):
			return fmt.Errorf("--level %q: want %s", level, or(logLevels))
		case !change && len(sockets) > 0:
			return errors.New("--ztunnel-socket is for a change: give --level or --reset")
		}
		var targets []fleet.Target
		var err error
		if change {
			targets, err = c.renewers(cmd, sockets, nodes)
		} else {
			var source fleet.Source
			if source, err = c.among(nodes); err == nil {
				targets, err = source.Ztunnels(cmd.Context())
			}
		}
		if err != nil {
			return err
		}
		work := c.working("asks nodes", 0, 0)
		ctx := fleet.Watched(cmd.Context(), work)
		var levels []string
		var problems []error
		if change {
			levels, problems = fleet.SetLevels(ctx, targets, level)
		} else {
			levels, problems = fleet.Levels(ctx, targets)
		}
		work.End()
		return c.showLevels(out, targets, levels, problems, nodes)
	}
	return cmd
}

func (c *command) showLevels(out *format, targets []fleet.Target, levels []string, problems []error, wanted []string) error {
	rows, silent := []logged{}, []silence{}
	for i, t := range targets {
		if problems[i] != nil {
			silent = append(silent, silence{t.Name, problems[i].Error()})
			continue
		}
		rows = append(rows, logged{t.Name, levels[i]})
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(targets, func(t fleet.Target) bool { return t.Name == name }) {
			silent = append(silent, silence{name, "no ztunnel was found on it"})
		}
	}
	if out.value == "json" {
		return errors.Join(printJSON(c.Stdout, map[string]any{"levels": rows, "unanswered": silent}), fail(len(silent) > 0))
	}
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, []string{r.Node, r.Level})
	}
	return errors.Join(table(c.Stdout, "NODE|LEVEL", lines), c.warnSilent(silent), fail(len(silent) > 0))
}
