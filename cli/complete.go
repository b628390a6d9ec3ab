// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// completeWithin is how long somebody who presses Tab waits.
const completeWithin = 2 * time.Second

// mentioned are the names that one node knows.
type mentioned struct{ nodes, namespaces, workloads, pods, accounts map[string]bool }

// completing gives all commands the names of what there is, where flags and arguments want
// them.
func (c *command) completing(root *cobra.Command) {
	byFlag := map[string]func(mentioned) map[string]bool{
		"ns":   func(n mentioned) map[string]bool { return n.namespaces },
		"node": func(n mentioned) map[string]bool { return n.nodes },
	}
	ends := func(n mentioned) map[string]bool { return joined(n.namespaces, n.workloads) }
	byCommand := map[string]map[string]func(mentioned) map[string]bool{ // flags, or "" for arguments
		"culvert tap": {"from": ends, "to": ends}, "culvert stat": {"from": ends, "to": ends}, "culvert top": {"from": ends, "to": ends},
		"culvert policy explain":   {"": func(n mentioned) map[string]bool { return n.pods }, "from": func(n mentioned) map[string]bool { return n.pods }},
		"culvert certs get":        {"": func(n mentioned) map[string]bool { return n.accounts }},
		"culvert certs renew":      {"": func(n mentioned) map[string]bool { return n.accounts }},
		"culvert preflight strict": {"ns": byFlag["ns"]},
		"culvert node quarantine":  {"": byFlag["node"]}, "culvert node release": {"": byFlag["node"]},
	}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for flag, which := range joinedFuncs(byFlag, byCommand[cmd.CommandPath()]) {
			if flag != "" && cmd.Flags().Lookup(flag) != nil {
				_ = cmd.RegisterFlagCompletionFunc(flag, c.completed(which)) // it is there
			}
		}
		if which := byCommand[cmd.CommandPath()][""]; which != nil {
			cmd.ValidArgsFunction = c.completed(which)
		}
		for _, part := range cmd.Commands() {
			visit(part)
		}
	}
	visit(root)
}

func joinedFuncs(a, b map[string]func(mentioned) map[string]bool) map[string]func(mentioned) map[string]bool {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func joined(sets ...map[string]bool) map[string]bool {
	all := map[string]bool{}
	for _, set := range sets {
		maps.Copy(all, set)
	}
	return all
}

// completed completes a word, or the last of several with commas between.
func (c *command) completed(which func(mentioned) map[string]bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, stop := context.WithTimeout(cmd.Context(), completeWithin)
		defer stop()
		before := word[:strings.LastIndex(word, ",")+1]
		var all []cobra.Completion
		for _, name := range slices.Sorted(maps.Keys(which(c.known(ctx)))) {
			if name = before + printable(name); strings.HasPrefix(name, word) {
				all = append(all, name)
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// known asks for names: nodes by the source, the rest of the first node that answers. What
// does not come in time is not offered.
func (c *command) known(ctx context.Context) mentioned {
	n := mentioned{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	c.Stderr = io.Discard
	source, err := c.from.fleet()
	if err != nil {
		return n
	}
	targets, err := source.Ztunnels(ctx)
	if err != nil {
		return n
	}
	for _, t := range targets {
		if t.Pod != "" { // else it is an address
			n.nodes[t.Name] = true
		}
	}
	dump := fleet.First(ctx, targets)
	for _, w := range dump.Workloads {
		n.nodes[w.Node] = true
		n.namespaces[w.Namespace] = true
		n.pods[w.Namespace+"/"+w.Name] = true
		n.workloads[w.Namespace+"/"+cmp.Or(w.Owner, w.Name)] = true
		if w.ServiceAccount != "" {
			n.accounts[w.Namespace+"/"+w.ServiceAccount] = true
		}
	}
	delete(n.nodes, "")
	return n
}
