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
)

func (c *command) edges() *cobra.Command {
	var ns string
	cmd := &cobra.Command{
		Use:   "edges",
		Short: "Show who talks to whom, and whether in mutual TLS",
		Long: `edges shows, of all nodes, which workloads have connected to which: whether both proved
themselves in mutual TLS, or why not; how many connections are open, were opened and were
refused, by the word of the access record; and the bytes of those that have ended. A
connection between two nodes is shown as the client's node counts it, one of a client that
is no pod of the mesh as the server's does. So a node that does not answer hides what its
pods have opened.

The exit code is 2 if a node did not answer.`,
		Example: "  culvert edges --ns shop",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "wide", "json")
	namespaceFlag(cmd.Flags(), &ns, "of either end")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		rows := slices.DeleteFunc(edgesOf(nodes), func(e fleet.Edge) bool {
			return ns != "" && e.Source.Namespace != ns && e.Destination.Namespace != ns
		})
		silent := unanswered(nodes, nil)
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"edges": nonNil(rows), "unanswered": nonNil(silent)}), fail(len(silent) > 0))
		}
		head := "SRC|DST|SERVICE|PORT|SECURED|OPEN|OPENED|REFUSED|SENT|RECEIVED|LAST"
		if out.value == "wide" {
			head += "|SRC IDENTITY|DST IDENTITY"
		}
		var lines [][]string
		for _, e := range rows {
			line := edgeLine(e)
			if out.value == "wide" {
				line = append(line, e.Source.Identity, e.Destination.Identity)
			}
			lines = append(lines, line)
		}
		return errors.Join(table(c.Stdout, head, lines), c.warnSilent(silent), fail(len(silent) > 0))
	}
	return cmd
}

// warnSilent names the nodes that did not answer.
func (c *command) warnSilent(silent []silence) error {
	for _, s := range silent {
		fmt.Fprintf(c.Stderr, "culvert: %s: %s\n", s.Node, printable(s.Problem))
	}
	return nil
}

func edgeLine(e fleet.Edge) []string {
	secured := "yes"
	if !e.Secured {
		secured = e.Reason
	}
	src, dst := endName(e.Source), endName(e.Destination)
	if isOthers(e) == 1 {
		src, dst, secured = "(others)", "(others)", ""
	}
	port := ""
	if e.Port != 0 { // it was refused before it was known
		port = count(int(e.Port))
	}
	return []string{
		src, dst, e.Service, port, secured, count(int(e.Open)), count(int(e.Opened)),
		reasons(e.Refused), size(float64(e.BytesSent)), size(float64(e.BytesRecv)), stamp(e.Last),
	}
}

func endName(e fleet.End) string {
	if e.Workload == "" {
		return printable(cmp.Or(e.Identity, "(outside)"))
	}
	return e.Namespace + "/" + e.Workload
}

// edgesOf are those of all nodes, each connection once: what arrives from the mesh is
// counted where it left.
func edgesOf(nodes []fleet.Node) []fleet.Edge {
	all := map[edgeKey]fleet.Edge{}
	for _, n := range nodes {
		for _, e := range n.Dump.Edges {
			if !once(e) {
				continue
			}
			k := keyOfEdge(e)
			if before, known := all[k]; known {
				e = together(before, e)
			}
			all[k] = e
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b fleet.Edge) int {
		return cmp.Or(cmp.Compare(isOthers(a), isOthers(b)), strings.Compare(endName(a.Source), endName(b.Source)), strings.Compare(endName(a.Destination), endName(b.Destination)),
			strings.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port), strings.Compare(a.Reason, b.Reason), strings.Compare(a.Destination.Identity, b.Destination.Identity))
	})
}

// isOthers is 1 of the row of what had no room, which comes last, else 0.
func isOthers(e fleet.Edge) int {
	if e.Direction == "others" {
		return 1
	}
	return 0
}

func together(a, b fleet.Edge) fleet.Edge {
	refused := maps.Clone(a.Refused)
	for word, n := range b.Refused {
		if refused == nil {
			refused = map[string]uint64{}
		}
		refused[word] += n
	}
	a.Opened, a.Open, a.Refused = a.Opened+b.Opened, a.Open+b.Open, refused
	a.BytesSent, a.BytesRecv = a.BytesSent+b.BytesSent, a.BytesRecv+b.BytesRecv
	if b.Last.After(a.Last) {
		a.Last = b.Last
	}
	return a
}
