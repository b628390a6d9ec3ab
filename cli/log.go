// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
)

// logged is from which level on a node logs.
type logged struct {
	Node  string `json:"node"`
	Level string `json:"level"`

	Scopes map[string]string `json:"scopes,omitempty"` // level by scope
}

// levels is the level and, behind it, the scopes that have another.
func (l logged) levels() string {
	text := l.Level
	for _, scope := range slices.Sorted(maps.Keys(l.Scopes)) {
		if at := l.Scopes[scope]; at != l.Level {
			text += "," + scope + "=" + at
		}
	}
	return text
}

func (c *command) log() *cobra.Command {
	var nodes, sockets []string
	var level string
	var reset bool
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show from which level on nodes log, or change it",
		Long: `log shows from which level on each ztunnel logs, and which scopes of its log have another
level. With --level it has them log from another one on; --reset brings back the one that
each was started with. A restart of ztunnel forgets a change.

A level alone is for all scopes; SCOPE=LEVEL, by comma, is for these alone; warn,certs=debug
is debug for certs and warn for all others. Records have their scope in the field scope:
  access   connections; debug has a line for the start of each, too
  certs    certificates, roots that vouch for peers, the deny set, the Workload API
  export   access records on their way to a receiver of OpenTelemetry's logs
  pods     enrolling and steering pods
  report   what the API server is told of the node and its pods
  source   workloads and policies, from the API server or a directory
  ztunnel  the rest

On Kubernetes a change runs ztunnel log in the pods of ztunnel: it needs the right to exec
there. On a machine without, it asks at --ztunnel-socket, which only root reaches.

The exit code is 2 if a node did not answer.`,
		Example: "  culvert log\n  culvert log --level debug --node node-7\n  culvert log --level certs=debug,source=debug\n  culvert log --reset --ztunnel-socket /run/culvert/admin.sock",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "comma-separated `names` of nodes")
	cmd.Flags().StringVar(&level, "level", "", "`level` to log from: "+or(loglevel.Words())+"; or of scopes, as certs=debug,pods=warn")
	cmd.Flags().BoolVar(&reset, "reset", false, "log from the level that each was started with")
	cmd.Flags().StringSliceVar(&sockets, "ztunnel-socket", nil, "without Kubernetes, for a change: comma-separated `paths` of ztunnels' sockets, as /run/culvert/admin.sock")
	_ = cmd.RegisterFlagCompletionFunc("level", completeLevels) // it was just defined
	cmd.MarkFlagsMutuallyExclusive("level", "reset")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change := reset || cmd.Flags().Changed("level")
		switch {
		case cmd.Flags().Changed("level") && loglevel.Check(level) != nil:
			return fmt.Errorf("--level: %w", loglevel.Check(level))
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
		var levels []fleet.Levels
		var problems []error
		if change {
			levels, problems = fleet.SetLevels(ctx, targets, level)
		} else {
			levels, problems = fleet.LogLevels(ctx, targets)
		}
		work.End()
		return c.showLevels(out, targets, levels, problems, nodes)
	}
	return cmd
}

// completeLevels offers levels and scopes, and of a scope its levels, behind what was typed
// up to the last comma.
func completeLevels(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	start := strings.LastIndex(typed, ",") + 1
	before, item := typed[:start], typed[start:]
	var all []string
	if scope, _, level := strings.Cut(item, "="); level {
		for _, word := range loglevel.Words() {
			all = append(all, before+scope+"="+word)
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
	for _, word := range loglevel.Words() {
		all = append(all, before+word)
	}
	for _, scope := range loglevel.Scopes() {
		all = append(all, before+scope+"=")
	}
	return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func (c *command) showLevels(out *format, targets []fleet.Target, levels []fleet.Levels, problems []error, wanted []string) error {
	rows, silent := []logged{}, []silence{}
	for i, t := range targets {
		if problems[i] != nil {
			silent = append(silent, silence{t.Name, problems[i].Error()})
			continue
		}
		rows = append(rows, logged{cmp.Or(levels[i].Node, t.Name), levels[i].Level, levels[i].Scopes})
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
		lines = append(lines, []string{r.Node, r.levels()})
	}
	return errors.Join(table(c.Stdout, "NODE|LEVEL", lines), c.warnSilent(silent), fail(len(silent) > 0))
}
