// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/explain"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// explained is an answer, and of what.
type explained struct {
	Pod    string `json:"pod"`
	Port   uint16 `json:"port,omitempty"` // 0: none was given
	From   string `json:"from,omitempty"` // with its address and identity
	HeldBy string `json:"heldBy"`
	explain.Answer
}

func (c *command) policyExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain POD[:PORT]",
		Short: "Explain which policies concern a pod, and what they say of a connection",
		Long: `explain shows the mode of a pod's ports, with the PeerAuthentication that set it, and each
rule of an AuthorizationPolicy that concerns the pod: whether it matches, and by which field.
With --from it says whether the connection is allowed. It asks the NetworkPolicies that ztunnel
judges, too: ingress of the pod and, if --from is a pod, egress of that. Of what is not known, as the port if
none is given, a rule says that it is open, and the verdict may be open, too.

It goes by what the pod's own node holds, which decides; if that does not answer, by another
node's, and says so; with --objects by a directory, with --api-server by what is there.
MATCHES is in brackets for what is not enforced: dry runs, and policies for waypoints or
proxies of layer 7.`,
		Example: `  culvert policy explain shop/db-1:5432 --from shop/web-1
  culvert policy explain shop/db-1 -f objects/`,
		Args: cobra.ExactArgs(1),
	}
	var from string
	var where objects
	where.define(cmd, "f")
	where.network = true
	cmd.Flags().StringVar(&from, "from", "", "`source` of the connection: a pod, a SPIFFE ID or an address")
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		pod, port, err := podAndPort(args[0])
		if err != nil {
			return err
		}
		held, err := c.inForce(cmd, &where)
		if err != nil {
			return err
		}
		e, err := explainedOf(held, pod, port, from)
		if err != nil {
			return err
		}
		if out.value == "json" {
			return printJSON(c.Stdout, e)
		}
		return c.printExplained(e)
	}
	return cmd
}

// podAndPort reads POD[:PORT].
func podAndPort(text string) (pod string, port uint16, err error) {
	pod, number, has := strings.Cut(text, ":")
	if !has {
		return pod, 0, nil
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%q: %q is not a port from 1 to 65535", text, number)
	}
	return pod, uint16(n), nil
}

// explainedOf goes by what the pod's own node holds, if it answered.
func explainedOf(held []inForce, pod string, port uint16, from string) (explained, error) {
	i := max(0, slices.IndexFunc(held, func(f inForce) bool { _, err := f.pod(pod); return err == nil }))
	f := held[i]
	w, err := f.pod(pod)
	if err != nil {
		return explained{}, err
	}
	by := f.by
	if i := slices.IndexFunc(held, func(f inForce) bool { return f.by == w.Node }); i >= 0 {
		f = held[i]
		by = f.by
	} else if f.node {
		by += ", as its own node " + w.Node + " did not answer or was not asked,"
	}
	e := explained{Pod: w.String(), Port: port, HeldBy: by}
	var sources []explain.Source
	if from != "" {
		if sources, e.From, err = f.sources(from, &w); err != nil {
			return explained{}, err
		}
	}
	e.Answer = explain.ExplainFrom(f.policies, f.network.explained(), explain.Connection{Dst: w, Port: port}, sources)
	return e, nil
}

var verdicts = map[explain.Truth]string{explain.Yes: "allowed", explain.Open: "open", explain.No: "refused"}

func (c *command) printExplained(e explained) error {
	to, from := e.Pod, "anybody"
	if e.Port != 0 {
		to += fmt.Sprintf(" port %d", e.Port)
	}
	if e.From != "" {
		from = e.From
	}
	fmt.Fprintf(c.Stdout, "%s\n", printable(fmt.Sprintf("%s: from %s to %s", verdicts[e.Allowed], from, to)))
	why := e.Why
	if e.By != "" {
		why = e.By + ": " + why
	}
	fmt.Fprintf(c.Stdout, "  %s\n  as %s holds it\n\n", printable(why), printable(e.HeldBy))
	var rows [][]string
	for _, m := range e.Modes {
		port := "others"
		if m.Port != 0 {
			port = strconv.Itoa(int(m.Port))
		}
		rows = append(rows, []string{port, m.Mode.String(), m.By})
	}
	err := table(c.Stdout, "PORT|MODE|SET BY", rows)
	fmt.Fprintln(c.Stdout)
	if len(e.Rules) == 0 {
		fmt.Fprintln(c.Stdout, "no AuthorizationPolicy concerns the pod")
	} else {
		err = errors.Join(err, printRules(c.Stdout, e.Rules))
	}
	fmt.Fprintln(c.Stdout)
	return errors.Join(err, printNetwork(c.Stdout, e.Answer))
}

func printNetwork(w io.Writer, a explain.Answer) error {
	switch {
	case a.NetworkNotAsked != "":
		fmt.Fprintf(w, "NetworkPolicies were not asked: %s\n", a.NetworkNotAsked)
		return nil
	case len(a.Network) == 0:
		fmt.Fprintln(w, "no NetworkPolicy isolates the pods")
		return nil
	}
	var rows, notes [][]string
	for _, n := range a.Network {
		rule := ""
		if n.Rule >= 0 {
			rule = strconv.Itoa(n.Rule)
		}
		rows = append(rows, []string{n.Policy, n.Pod, n.Direction, string(n.Mode), rule, n.Admits.String()})
		notes = append(notes, warned(n.Warnings))
	}
	return tableWithNotes(w, "NETWORKPOLICY|POD|DIRECTION|MODE|RULE|ADMITS", rows, notes)
}

// printRules writes below each row why.
func printRules(w io.Writer, rules []explain.Rule) error {
	var rows, notes [][]string
	for _, r := range rules {
		rows, notes = append(rows, row(r)), append(notes, append([]string{r.Why}, warned(r.Warnings)...))
	}
	return tableWithNotes(w, "POLICY|ACTION|RULE|MATCHES", rows, notes)
}

func warned(warnings []string) (lines []string) {
	for _, warning := range warnings {
		lines = append(lines, "warning: "+warning)
	}
	return lines
}

const noteIndent = "    "

// tableWithNotes writes the notes of each row below it, so that rows stay short.
func tableWithNotes(w io.Writer, head string, rows, notes [][]string) error {
	var lines strings.Builder
	if err := table(&lines, head, rows); err != nil {
		return err
	}
	i := -1 // the head
	for line := range strings.Lines(lines.String()) {
		fmt.Fprint(w, line)
		if i >= 0 {
			for _, note := range notes[i] {
				fmt.Fprintf(w, "%s%s\n", noteIndent, printable(note))
			}
		}
		i++
	}
	return nil
}

func row(r explain.Rule) []string {
	action, place, matches := r.Action.String(), "", r.Matches.String()
	if r.Idle != "" {
		action, matches = fmt.Sprintf("%s, %s", action, r.Idle), "("+matches+")"
	}
	if r.Action == policy.Refuse {
		action = "refuse all"
	}
	if r.Rule >= 0 {
		place = strconv.Itoa(r.Rule)
	}
	return []string{r.Policy, action, place, matches}
}
