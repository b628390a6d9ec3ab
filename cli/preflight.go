// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/records"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

func (c *command) preflight() *cobra.Command {
	return noun("preflight", "Ask what a change would break before it is made", c.preflightStrict())
}

// shutOut is who would be.
type shutOut struct {
	Namespace string         `json:"namespace"`
	Judged    uint64         `json:"judged"`
	ShutOut   records.Edges  `json:"shutOut"`
	StillOpen []records.Edge `json:"stillOpen"` // plaintext to ports that an object with a selector keeps open
	found     *records.Comparison
}

func (c *command) preflightStrict() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "strict --ns NAMESPACE --from FILE",
		Short: "Show who would be shut out if a namespace were STRICT",
		Long: `strict reads ztunnel's access records (JSON lines, of the arriving side), and shows who came
in plaintext to pods of a namespace and would be refused by a PeerAuthentication for all of
it that says STRICT. Objects with a selector keep what they say. The root namespace is for all.

The kubelet's probes have no records, and pass under STRICT; without -kubelet-cgroup they
have records, and do not pass. NetworkPolicies concern connections inside the mesh alone, and
those pass.

The exit code is 1 if somebody would be shut out, and 2 if no record could be judged.`,
		Example: "  culvert preflight strict --ns shop --from records.jsonl",
		Args:    cobra.NoArgs,
	}
	var namespace, from string
	var where objects
	where.define(cmd, "f")
	cmd.Flags().StringVar(&namespace, "ns", "", "`namespace` that would be STRICT")
	defineRecords(cmd, &from)
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if namespace == "" {
			return errors.New("--ns is required: which namespace would be STRICT?")
		}
		held, err := c.inForce(cmd, &where)
		if err != nil {
			return err
		}
		views, err := viewsOf(held, func(in policy.Objects) (policy.Objects, error) { return strictIn(in, namespace), nil })
		if err != nil {
			return err
		}
		q := records.Question{Views: views}
		if namespace != held[0].policies.RootNamespace {
			q.Namespace = namespace
		}
		found, err := c.compare(q, from)
		if err != nil {
			return err
		}
		s := shutOut{Namespace: namespace, Judged: found.Judged, ShutOut: found.Refused, StillOpen: []records.Edge{}, found: found}
		for _, e := range found.Unchanged.Edges {
			if e.Source == records.Plaintext && e.By == "" {
				s.StillOpen = append(s.StillOpen, e)
			}
		}
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, s), warn(s.ShutOut.Connections > 0))
		}
		return errors.Join(c.printShutOut(s), warn(s.ShutOut.Connections > 0))
	}
	return cmd
}

// strictIn returns policies as if the namespace were STRICT.
func strictIn(in policy.Objects, namespace string) policy.Objects {
	out := in
	out.PeerAuthentications = slices.DeleteFunc(slices.Clone(in.PeerAuthentications), func(p policy.PeerAuthentication) bool {
		return p.Namespace == namespace && len(p.Selector) == 0
	})
	strict := policy.PeerAuthentication{Object: policy.Object{Namespace: namespace, Name: "STRICT"}, Mode: policy.Strict}
	out.PeerAuthentications = append(out.PeerAuthentications, strict)
	return out
}

func (c *command) printShutOut(s shutOut) error {
	fmt.Fprintf(c.Stdout, "%d connections judged, %d would be shut out\n", s.Judged, s.ShutOut.Connections)
	var rows [][]string
	for _, e := range s.ShutOut.Edges {
		rows = append(rows, []string{e.Address, e.Workload, e.Destination, count(int(e.Port)), count(int(e.Connections)), stamp(e.Last)})
	}
	if s.ShutOut.Others > 0 {
		rows = append(rows, []string{"others", "", "", "", count(int(s.ShutOut.Others)), ""})
	}
	var err error
	if len(rows) > 0 {
		fmt.Fprintln(c.Stdout)
		err = table(c.Stdout, "ADDRESS|WORKLOAD|DESTINATION|PORT|COUNT|LAST", rows)
	}
	if len(s.StillOpen) > 0 {
		var where []string
		for _, e := range s.StillOpen {
			if place := fmt.Sprintf("%s port %d", e.Destination, e.Port); !slices.Contains(where, place) {
				where = append(where, place)
			}
		}
		fmt.Fprintf(c.Stdout, "\nstill open to plaintext: %s\n", printable(strings.Join(where, ", ")))
	}
	printNotJudged(c.Stdout, s.found)
	return err
}
