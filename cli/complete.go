// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-mesh/culvert/cli/check"
)

// completeWithin is how long somebody who presses Tab waits.
const completeWithin = time.Second

// A line is a command line that is to be completed.
type line struct {
	cmd  *cobra.Command
	args []string // arguments before the word
	word string
}

// An offer is what may stand at a place of a command line. It asks the mesh: what it cannot
// find out is left out.
type offer func(ctx context.Context, c *command, l line) []string

// completing gives flags and arguments of all commands what may stand there: names of what
// there is, words, or files. Where nothing else is said, the shell offers nothing.
func (c *command) completing(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	places := c.places()
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if complete := places.flag(cmd, f); complete != nil {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, complete) // it fails if the flag has one already
			}
		})
		if complete := places.arguments[cmd.CommandPath()]; complete != nil {
			cmd.ValidArgsFunction = complete
		}
		for _, part := range cmd.Commands() {
			visit(part)
		}
	}
	visit(root)
}

// places say what completes flags and arguments.
type places struct {
	arguments map[string]cobra.CompletionFunc            // of commands, by their paths
	flags     map[string]cobra.CompletionFunc            // of all commands, by their names
	flagsOf   map[string]map[string]cobra.CompletionFunc // of one command
}

// flag is what completes a flag; nil: nothing does.
func (p places) flag(cmd *cobra.Command, f *pflag.Flag) cobra.CompletionFunc {
	if complete := p.flagsOf[cmd.CommandPath()][f.Name]; complete != nil {
		return complete
	}
	if complete := p.flags[f.Name]; complete != nil {
		return complete
	}
	switch kind, _ := pflag.UnquoteUsage(f); kind {
	case "directory":
		return directories
	case "file", "files", "paths":
		return files
	}
	return nil
}

func (c *command) places() places {
	names, workloads := c.offering(accounts), c.offering(ends)
	return places{
		arguments: map[string]cobra.CompletionFunc{
			"culvert why":             c.offering(unless("last-refused", inOrder(pods, destinations))),
			"culvert verify":          c.offering(inOrder(pods, destinations)),
			"culvert policy explain":  c.offering(inOrder(podsWithPorts)),
			"culvert certs get":       c.offering(inOrder(accounts)),
			"culvert certs renew":     c.offering(notGiven(accounts)),
			"culvert deny":            c.offering(inOrder(identities)),
			"culvert allow":           c.offering(inOrder(denied("id"))),
			"culvert node quarantine": c.offering(inOrder(nodeNames)),
			"culvert node release":    c.offering(inOrder(denied("node"))),
			"culvert join revoke":     c.offering(inOrder(tokenIDs)),
			"culvert audit fetch":     directories,
			"culvert audit tail":      directories,
			"culvert audit verify":    files,
			"culvert audit who-had":   behind(c.offering(accounts), files),
			"culvert ca restore":      files,
			"culvert ca verify":       files,
			"culvert man":             directories,
			"culvert policy lint":     files,
		},
		flags: map[string]cobra.CompletionFunc{
			"ns": c.offering(namespaces), "root-namespace": c.offering(namespaces), "sa": c.offering(accountNames),
			"node": c.offering(nodeNames), "nodes": c.offering(nodeNames),
			"namespace": c.offering(homes), "context": c.offering(contexts),
			"direction": c.offering(fixed([]string{"inbound", "outbound"})),
			"dumps":     files, "objects": files, // or a directory
		},
		flagsOf: map[string]map[string]cobra.CompletionFunc{
			"culvert tap":               {"from": c.offering(endsAndPods), "to": c.offering(endsAndPods), "event": c.offering(fixed(eventKinds))},
			"culvert stat":              {"from": workloads, "to": workloads},
			"culvert top":               {"from": workloads, "to": workloads, "by": c.offering(fixed(orderNames))},
			"culvert why":               {"last-refused": c.offering(pods)},
			"culvert policy explain":    {"from": c.offering(sourcesOf)},
			"culvert policy test":       {"delete": c.offering(policyNames)},
			"culvert allow":             {"node": c.offering(denied("node")), "serial": c.offering(denied("serial")), "spki": c.offering(denied("spki")), "issuer": c.offering(denied("issuer"))},
			"culvert audit tail":        {"id": names},
			"culvert join token create": {"id": c.offering(identities)},
			"culvert bench cluster":     {"against": c.offering(fixed([]string{"istio"}))},
			"culvert check":             {"category": c.offering(fixed(check.Categories()))},
		},
	}
}

func files(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// behind completes the first argument by one, and those behind it by another.
func behind(first, others cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return first(cmd, args, word)
		}
		return others(cmd, args, word)
	}
}

// inOrder has one offer for each argument, and none for further ones.
func inOrder(offers ...offer) offer {
	return func(ctx context.Context, c *command, l line) []string {
		if len(l.args) >= len(offers) {
			return nil
		}
		return offers[len(l.args)](ctx, c, l)
	}
}

// unless offers nothing if a flag is there.
func unless(flag string, o offer) offer {
	return func(ctx context.Context, c *command, l line) []string {
		if l.cmd.Flags().Changed(flag) {
			return nil
		}
		return o(ctx, c, l)
	}
}

// notGiven leaves out what is an argument already.
func notGiven(o offer) offer {
	return func(ctx context.Context, c *command, l line) []string {
		return slices.DeleteFunc(o(ctx, c, l), func(name string) bool { return slices.Contains(l.args, name) })
	}
}

func fixed(all []string) offer {
	return func(context.Context, *command, line) []string { return all }
}

// offering completes a word, or the last of several with commas between. An offer that takes too long is
// given up: nothing of it is shown, and no error is.
func (c *command) offering(o offer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, stop := context.WithTimeout(cmd.Context(), completeWithin)
		defer stop()
		quiet := *c
		quiet.Stderr, quiet.still = io.Discard, true
		last := strings.LastIndex(word, ",") + 1
		l := line{cmd, slices.Clone(args), word[last:]}
		offered := make(chan []string, 1)
		go func() { offered <- o(ctx, &quiet, l) }()
		var all []string
		select {
		case all = <-offered:
		case <-ctx.Done(): // what is asked may heed no deadline, as a program of the kubeconfig's
		}
		return matching(all, word[:last], l)
	}
}

// matching are the names that begin with the word.
func matching(names []string, before string, l line) (all []cobra.Completion, _ cobra.ShellCompDirective) {
	for _, name := range names {
		if name = printable(name); strings.HasPrefix(name, l.word) {
			all = append(all, before+name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
}
