// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/progress"
)

// Exit codes. Those of failed gates and of errors are the same: a pipeline that cannot
// look must not pass.
const (
	exitOK       = 0
	exitWarnings = 1 // what was asked about was found, as a command's help says
	exitFail     = 2
)

// Process is what a command gets from its process.
type Process struct {
	Args           []string // the first is the program's name; required
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time // default time.Now
}

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, p Process) int {
	if p.Now == nil {
		p.Now = time.Now
	}
	name, display := "culvert", "culvert"
	if strings.HasPrefix(filepath.Base(p.Args[0]), "kubectl-") {
		display = "kubectl culvert"
	}
	args := p.Args[1:]
	if completes(p.Args[0]) {
		args, p.Stderr = append([]string{cobra.ShellCompRequestCmd}, args...), io.Discard
	}
	root := New(p)
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: display}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var ended *ended
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &ended):
		return ended.code
	}
	text, meant, mistyped := strings.Cut(strings.TrimSpace(err.Error()), "\n\nDid you mean this?\n")
	fmt.Fprintf(p.Stderr, "%s: %s\n", name, printable(strings.ReplaceAll(text, "\n", "; ")))
	if mistyped {
		fmt.Fprintf(p.Stderr, "%s: hint: did you mean %s?\n", name, strings.Join(strings.Fields(meant), " or "))
	}
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		fmt.Fprintf(p.Stderr, "%s: hint: %s\n", name, printable(hinted.Hint()))
	}
	return exitFail
}

// completes reports whether a program of this name is asked by kubectl what completes the
// arguments of its plugin kubectl-culvert.
func completes(name string) bool { return strings.HasPrefix(filepath.Base(name), "kubectl_complete-") }

// ended is an end with an exit code after all has been said.
type ended struct{ code int }

func (e *ended) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// fail is nil, or an end with exit code 2, after all has been said.
func fail(failed bool) error {
	if !failed {
		return nil
	}
	return &ended{exitFail}
}

// hint adds to an error what to do about it.
func hint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

type hinted struct {
	error
	text string
}

func (h *hinted) Hint() string  { return h.text }
func (h *hinted) Unwrap() error { return h.error }

// command is what all commands have in common.
type command struct {
	Process
	from  sources
	dumps string   // instead of nodes: see offline
	still bool     // somebody else tells how far it is
	twice []string // what warnTwice said
}

// working tells on stderr how far something is that takes a while.
func (c *command) working(what string, of int, most time.Duration) *progress.Work {
	if c.still {
		return nil
	}
	return progress.Begin(c.Stderr, terminal(c.Stderr) != nil, what, of, most)
}

// New returns the command tree.
func New(p Process) *cobra.Command {
	c := &command{Process: p}
	root := &cobra.Command{
		Use:   "culvert",
		Short: "Look after a Culvert mesh: its certificate authority, certificates and nodes",
		Long: `culvert looks after a Culvert mesh: its certificate authority, its certificates and
its nodes. It asks the mesh's own programs. On Kubernetes it finds them by a kubeconfig,
and needs the rights to list pods and to port-forward to them; on a machine without
Kubernetes it is told where they are.

Nouns only read. Exit codes: 0 all is well, 1 warnings, where --strict asks for that, or
what a policy command found, and 2 something failed or could not be looked at.`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(err, "see %s --help", cmd.CommandPath())
	})
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		if out := cmd.Flags().Lookup("output"); out != nil && out.Value.(*format).yaml {
			c.Stdout = &inYAML{w: c.Stdout}
		}
	}
	c.from.define(root.PersistentFlags())
	root.AddCommand(c.parts()...)
	c.completing(root)
	explainArguments(root)
	return root
}

// explainArguments has arguments that are missing or too many answered with what is wanted.
func explainArguments(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			var hinted interface{ Hint() string }
			if err == nil || errors.As(err, &hinted) {
				return err
			}
			return hint(err, "usage: %s", cmd.UseLine())
		}
	}
	for _, part := range cmd.Commands() {
		explainArguments(part)
	}
}

func (c *command) parts() []*cobra.Command {
	return []*cobra.Command{c.watchable(c.offline(c.status())), c.check(), c.expiry(), c.certs(), c.offline(c.identities()), c.watchable(c.offline(c.edges())), c.watchable(c.offline(c.connections())), c.watchable(c.offline(c.workloads())), c.watchable(c.offline(c.services())), c.watchable(c.offline(c.policies())), c.tap(), c.stat(), c.top(), c.bugReport(), c.version(), c.log(), c.why(), c.verify(), c.livemap(), c.bundle(), c.authority(), c.deny(), c.allow(), c.denied(), c.node(), c.policy(), c.preflight(), c.join(), c.identity(), c.audit(), c.bench(), c.man()}
}

// noun returns a command that only groups others.
func noun(use, short string, parts ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	group.RunE = func(cmd *cobra.Command, args []string) error { return cmd.Help() }
	group.AddCommand(parts...)
	return group
}
