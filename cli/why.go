// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/why"
)

// whyFlags say where why looks.
type whyFlags struct {
	dumps       string
	sockets     []string
	lastRefused string
	noProbe     bool
}

func (c *command) why() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why SRC DST[:PORT]",
		Short: "Walk a connection from its source to the app, and say where it ends",
		Long: `why asks of a connection what each part of the mesh would ask of it, in that order, by what
all nodes say: is the source known and steered by the kernel, what is the destination, is
there an endpoint, do both ends hold certificates that the other believes, is there a tunnel,
do policies let it in, and does the app accept it. Each step is ok, a fault, unknown, not
needed or not reached. A fault names the object to change.

SRC is a pod, namespace/name, or an address. DST is a pod, a Service or an address. If a pod
and a Service have that name, write pod/namespace/name or svc/namespace/name. PORT is a number
or a name; without it, the only port that the pod or the Service declares.

What the nodes do not know they try, if they are asked by the way that root has: on
Kubernetes by exec in the pods of ztunnel, on a machine by --ztunnel-socket. Then the
source's node proves a tunnel (a handshake and a PING), and the destination's connects to the
app, and sends nothing. --no-probe leaves that out.

The exit code is 0 if the connection would be carried, 1 if a step faults, and 2 if none does
and some are unknown, or nobody answered.`,
		Example: `  culvert why shop/web-1 shop/db:5432
  culvert why shop/web-1 10.1.2.3:80 --ztunnel-socket /run/culvert/admin.sock
  culvert why --last-refused shop/web-1
  culvert why shop/web-1 shop/db-1 -f dumps/`,
	}
	var from whyFlags
	flags := cmd.Flags()
	defineDumps(flags, &from.dumps)
	flags.StringSliceVar(&from.sockets, "ztunnel-socket", nil, "without Kubernetes: comma-separated `paths` of ztunnels' sockets, as /run/culvert/admin.sock")
	flags.StringVar(&from.lastRefused, "last-refused", "", "explain the last connection from or to this `pod` that was refused, instead of SRC and DST")
	flags.BoolVar(&from.noProbe, "no-probe", false, "try nothing: go by what nodes say")
	out := formats(cmd, "table", "wide", "json")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case from.lastRefused != "" && len(args) > 0:
			return errors.New("--last-refused and SRC DST: give one of both")
		case from.lastRefused == "" && len(args) != 2:
			return errors.New("want SRC and DST, as shop/web-1 shop/db:5432, or --last-refused POD")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		world, err := c.whyWorld(cmd, &from)
		if err != nil {
			return err
		}
		var a why.Answer
		if from.lastRefused != "" {
			a, err = world.LastRefused(cmd.Context(), from.lastRefused)
		} else {
			a, err = world.Explain(cmd.Context(), args[0], args[1])
		}
		if err != nil {
			return err
		}
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, a), verdictCode(a))
		}
		err = c.printWhy(a, out.value == "wide")
		for _, s := range a.Unanswered {
			fmt.Fprintf(c.Stderr, "culvert: %s: %s\n", s.Node, printable(s.Problem))
		}
		return errors.Join(err, verdictCode(a))
	}
	return cmd
}

// verdictCode ends with the exit code of a verdict.
func verdictCode(a why.Answer) error {
	switch a.Verdict {
	case why.Carried:
		return nil
	case why.Refused:
		return &ended{exitWarnings}
	}
	return &ended{exitFail}
}

// whyWorld asks whoever the flags name.
func (c *command) whyWorld(cmd *cobra.Command, from *whyFlags) (*why.World, error) {
	nodes, err := c.whyNodes(cmd, from)
	if err != nil {
		return nil, err
	}
	w := &why.World{Nodes: nodes, Now: c.Now()}
	if !from.noProbe && from.dumps == "" {
		w.Probe = c.probe
	}
	if from.dumps == "" {
		w.CAs = func(ctx context.Context) []fleet.CA { return c.whyCAs(ctx, from) }
	}
	var problems []error
	for _, n := range nodes {
		if n.Problem == "" {
			return w, nil
		}
		problems = append(problems, fmt.Errorf("%s: %s", n.Name, n.Problem))
	}
	instead := ""
	if cmd.Flags().Lookup("dumps") != nil {
		instead = "; -f DIR goes by files of their /config_dump instead"
	}
	return nil, hint(errors.Join(problems...), "no node answered%s", instead)
}

func (c *command) whyNodes(cmd *cobra.Command, from *whyFlags) ([]fleet.Node, error) {
	if err := c.from.check(); err != nil {
		return nil, err
	}
	others := cmp.Or(c.from.given(ofKubernetes), c.from.given([]string{"ztunnel", "ca-dir"}))
	if from.dumps != "" {
		others = cmp.Or(others, c.from.given(ofMachines))
	}
	switch {
	case from.dumps != "" && len(from.sockets) > 0:
		return nil, errors.New("--dumps and --ztunnel-socket: give one of both")
	case (from.dumps != "" || len(from.sockets) > 0) && others != "":
		return nil, fmt.Errorf("%s says where to look, and so does --dumps or --ztunnel-socket: give one of both", others)
	case from.dumps != "":
		nodes, err := fleet.Files(from.dumps)
		c.warnTwice(nodes)
		if err != nil {
			err = fmt.Errorf("--dumps: %v", err)
		}
		return nodes, err
	case len(from.sockets) > 0:
		nodes, err := fleet.Nodes(cmd.Context(), fleet.SocketsOf(from.sockets))
		c.warnTwice(nodes)
		return nodes, err
	}
	return c.nodes(cmd)
}

// whyCAs are the replicas of the CA, as far as it is known where they are.
func (c *command) whyCAs(ctx context.Context, from *whyFlags) []fleet.CA {
	var source fleet.Source = fleet.Addresses{CA: c.from.ca, CAAdmin: c.from.caAdmin}
	if len(from.sockets) == 0 {
		found, err := c.from.fleet()
		if err != nil {
			return nil // the nodes were found by the same flags
		}
		source = found
	}
	defer c.sayLater("the CA is asked, for 30 s at most")()
	cas, _ := fleet.CAs(ctx, source) // without a list of them the nodes' word remains
	return cas
}

// sayAfter is how long nobody is told that something is tried.
const sayAfter = 2 * time.Second

// probe has a node try something, and says so if it takes long.
func (c *command) probe(ctx context.Context, n *fleet.Node, q fleet.Question) (fleet.Proof, error) {
	if !n.MayProbe() {
		return fleet.Proof{}, errors.New("at its address a node tries nothing: --ztunnel-socket has it try")
	}
	what := "the kernel is asked"
	switch {
	case q.Peer.IsValid():
		what = fmt.Sprintf("a tunnel to %v is tried", q.Peer)
	case q.App.IsValid():
		what = fmt.Sprintf("a connection to the app at %v is tried", q.App)
	}
	defer c.sayLater(n.Name + ": " + what + ", for 12 s at most")()
	return n.Probe(ctx, q)
}

// sayLater says what is waited for, unless stop is called before.
func (c *command) sayLater(what string) (stop func()) {
	said := time.AfterFunc(sayAfter, func() { fmt.Fprintf(c.Stderr, "culvert: %s\n", printable(what)) })
	return func() { said.Stop() }
}

// printWhy writes each step with what is so below it.
func (c *command) printWhy(a why.Answer, wide bool) error {
	at := ""
	if a.EndsAt != "" {
		at = " at " + a.EndsAt
	}
	if !a.AsOf.IsZero() {
		at += ", as of " + stamp(a.AsOf)
	}
	fold(c.Stdout, "", fmt.Sprintf("%s%s: %s to %s", a.Verdict, at, a.Source, a.Destination))
	if a.Record != nil {
		fold(c.Stdout, "  ", recordLine(*a.Record))
	}
	fmt.Fprintln(c.Stdout)
	var rows, notes [][]string
	for _, s := range a.Steps {
		rows, notes = append(rows, []string{s.Step, string(s.State), s.By}), append(notes, stepNotes(s, wide))
	}
	if err := tableWithNotes(c.Stdout, "STEP|STATE|BY", rows, notes); err != nil {
		return err
	}
	if a.Record == nil && len(a.Records) > 0 {
		fmt.Fprintln(c.Stdout, "\nrefused before, the last first:")
		for _, r := range a.Records {
			fold(c.Stdout, "  ", recordLine(r))
		}
	}
	return nil
}

// maxEvidence is how much stands below a step in a table.
const maxEvidence = 6

// stepNotes are what stands below a step. Evidence is for faults, for what is not known,
// and for whoever wants all.
func stepNotes(s why.Step, wide bool) (lines []string) {
	add := func(text string) {
		if wide {
			lines = append(lines, text)
			return
		}
		lines = append(lines, folded(text, 76)...)
	}
	if s.State == why.NotReached || s.State == why.NotNeeded && !wide {
		return nil
	}
	if s.Says != "" {
		add(s.Says)
	}
	if wide || s.State == why.Fault || s.State == why.Unknown {
		shown := s.Evidence
		if !wide {
			shown = shown[:min(len(shown), maxEvidence)]
		}
		for _, e := range shown {
			add("- " + e)
		}
		if more := len(s.Evidence) - len(shown); more > 0 {
			add(fmt.Sprintf("- and %d more: -o wide", more))
		}
	}
	if s.Change != "" {
		add("change: " + s.Change)
	}
	if s.Docs != "" {
		add("see " + s.Docs)
	}
	return lines
}

func recordLine(r why.Record) string {
	line := fmt.Sprintf("%s %s at %s: %s, from %s to %s", stamp(r.Time), r.Direction, r.Node, r.Result, r.Source.Name(), r.Dest.Name())
	if r.Asked.IsValid() {
		line += fmt.Sprintf(" (%v)", r.Asked)
	}
	if r.Policy != "" {
		line += ", by " + r.Policy
	}
	if r.Error != "" {
		line += ": " + r.Error
	}
	return line
}

// fold writes a text in lines of 80 columns.
func fold(w io.Writer, indent, text string) {
	for _, line := range folded(text, 80-len(indent)) {
		fmt.Fprintf(w, "%s%s\n", indent, printable(line))
	}
}

// folded breaks a text at spaces; lines behind the first are indented. A word that is
// longer than a line stays whole.
func folded(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines, line = append(lines, line), "  "+word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
