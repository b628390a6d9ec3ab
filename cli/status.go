// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// standing is how the mesh is, as a whole.
type standing struct {
	Verdict   string        `json:"verdict"`
	OK        bool          `json:"ok"`
	Nodes     []nodeStatus  `json:"nodes"`
	Workloads []podsOfOwner `json:"workloads"`
	Rekey     *rekeyShown   `json:"rekey,omitempty"` // under way, as the CA says
}

// nodeStatus is a node in a line.
type nodeStatus struct {
	Node     string         `json:"node"`
	Pods     map[string]int `json:"pods"` // by state
	CA       string         `json:"ca"`   // the word for what it last said
	Late     map[string]int `json:"late"` // pods by the state of a certificate that is not valid, or not renewed in time
	Earliest time.Time      `json:"earliestExpiry,omitzero"`
	Problem  string         `json:"problem,omitempty"`
}

// podsOfOwner are the pods of one owner that are alike.
type podsOfOwner struct {
	Namespace string `json:"namespace"`
	Workload  string `json:"workload"`
	Pods      int    `json:"pods"`
	Enrolled  int    `json:"enrolled"`
	Unasked   int    `json:"notAsked,omitempty"` // in the mesh, on nodes that nobody asked or that do not answer
	Mesh      string `json:"mesh"`               // in, out, undecided
	Why       string `json:"why,omitempty"`
	Mode      string `json:"mode"`   // PERMISSIVE, STRICT or DISABLE; of ports without one of their own
	By        string `json:"modeBy"` // the object that set it, or default

	missing int // pods in the mesh that an asked node should have enrolled, and none has
}

func (c *command) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the mesh: a verdict, its nodes, and each workload's mode and why",
		Long: `status says in a line whether the mesh is well, shows of each node which states its pods
are in, what the CA last said to it, and its first certificate to end, and of each workload
whether it is in the mesh, and which mode holds for plaintext, by which object. While the CA
re-keys its root, and answers, it says how far that is and for whom it waits.

The exit code is 2 if the mesh is not well.`,
		Example: "  culvert status",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		files := cmd.Flags().Changed("dumps")
		rotating := make(chan *rekeyShown, 1)
		if files {
			rotating <- nil
		} else { // while nodes are asked
			go func() { rotating <- saidRekey(c.rekeyNow(cmd.Context())) }()
		}
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		s := standingOf(nodes, !c.from.machine() && !files, c.Now())
		s.Rekey = <-rotating
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, s), fail(!s.OK))
		}
		fmt.Fprintln(c.Stdout, printable(s.Verdict))
		c.printRekey(s.Rekey)
		fmt.Fprintln(c.Stdout)
		var rows [][]string
		for _, n := range s.Nodes {
			rows = append(rows, []string{n.Node, counted(n.Pods), n.CA, stamp(n.Earliest), c.left(n.Earliest), n.Problem})
		}
		if err := table(c.Stdout, "NODE|PODS|CA|FIRST CERTIFICATE ENDS|IN|PROBLEM", rows); err != nil {
			return err
		}
		fmt.Fprintln(c.Stdout)
		rows = nil
		for _, w := range s.Workloads {
			rows = append(rows, []string{w.Namespace, w.Workload, w.enrolled(), w.Mesh, w.Mode, w.By, w.Why})
		}
		return errors.Join(table(c.Stdout, "NAMESPACE|WORKLOAD|ENROLLED|MESH|MODE|SET BY|WHY", rows), fail(!s.OK))
	}
	return cmd
}

// enrolled is how many of the pods are enrolled, and of how many nobody said it.
func (p podsOfOwner) enrolled() string {
	text := fmt.Sprintf("%d/%d", p.Enrolled, p.Pods)
	if p.Unasked > 0 {
		text += fmt.Sprintf(", %d not known", p.Unasked)
	}
	return text
}

func counted(states map[string]int) string {
	var all []string
	for _, state := range slices.Sorted(maps.Keys(states)) {
		all = append(all, fmt.Sprintf("%d %s", states[state], state))
	}
	return strings.Join(all, ", ")
}

// enrolledState is ztunnel's word for a pod that is carried and confirmed.
const enrolledState = "enrolled"

// caSigns is ztunnel's word for a CA that signs for the node.
const caSigns = "signs"

// badStates are those in which a pod that should be in the mesh is not, or not safely.
var badStates = []string{"pending", "unprotected", "undecided", "lost", "unexplained"}

// standingOf judges by what nodes say. If they are not all of the mesh's, pods of others
// are not judged.
func standingOf(nodes []fleet.Node, all bool, now time.Time) standing {
	s := standing{Nodes: []nodeStatus{}, Workloads: workloads(nodes, all)}
	var wrong []string
	var first time.Time
	enrolled := 0
	for _, n := range nodes {
		row := nodeStatus{Node: n.Name, Pods: map[string]int{}, Late: map[string]int{}, CA: n.Dump.CA.Reason, Problem: n.Problem}
		for _, h := range n.Dump.Certificates {
			if until := h.Until(); !until.IsZero() && (row.Earliest.IsZero() || until.Before(row.Earliest)) {
				row.Earliest = until
			}
		}
		for _, pod := range n.Dump.Pods {
			row.Pods[pod.State]++
			if held := pod.Certificate; held != nil && held.State != certValid {
				row.Late[held.State]++
			}
		}
		enrolled += row.Pods[enrolledState]
		if !row.Earliest.IsZero() && (first.IsZero() || row.Earliest.Before(first)) {
			first = row.Earliest
		}
		wrong = append(wrong, row.wrong(now)...)
		s.Nodes = append(s.Nodes, row)
	}
	for _, w := range s.Workloads {
		if w.missing > 0 {
			wrong = append(wrong, fmt.Sprintf("%s/%s: %d of %d pods are not enrolled", w.Namespace, w.Workload, w.missing, w.Pods))
		}
	}
	s.OK = len(wrong) == 0
	s.Verdict = fmt.Sprintf("ok: %s, %s enrolled", plural(len(nodes), "node"), plural(enrolled, "pod"))
	if !slices.ContainsFunc(nodes, func(n fleet.Node) bool { return n.Dump.CA.Reason != caSigns }) {
		s.Verdict += ", the CA signs"
	}
	if !first.IsZero() {
		s.Verdict += ", the first certificate ends in " + long(first.Sub(now))
	}
	if !s.OK {
		s.Verdict = "not ok: " + strings.Join(wrong, "; ")
	}
	return s
}

func (n nodeStatus) wrong(now time.Time) (all []string) {
	if n.Problem != "" {
		return []string{n.Node + " does not answer"}
	}
	if n.CA != "" && n.CA != caSigns {
		all = append(all, n.Node+": the CA: "+n.CA)
	}
	if !n.Earliest.IsZero() && !now.Before(n.Earliest) {
		all = append(all, n.Node+": a certificate has expired")
	}
	for _, state := range slices.Sorted(maps.Keys(n.Late)) {
		all = append(all, fmt.Sprintf("%s: %d pods whose certificate is %s", n.Node, n.Late[state], state))
	}
	for _, state := range badStates {
		if count := n.Pods[state]; count > 0 {
			all = append(all, fmt.Sprintf("%s: %d pods %s", n.Node, count, state))
		}
	}
	return all
}

// workloads are those that the first node knows that answered: each knows all.
func workloads(nodes []fleet.Node, all bool) []podsOfOwner {
	i := slices.IndexFunc(nodes, func(n fleet.Node) bool { return n.Problem == "" })
	if i < 0 {
		return []podsOfOwner{}
	}
	enrolled := map[string]bool{}
	for _, n := range nodes {
		for uid, pod := range n.Dump.Pods {
			enrolled[uid] = enrolled[uid] || pod.State == enrolledState
		}
	}
	policies := policy.NewSet()
	policies.Replace(nodes[i].Dump.Policies)
	alike := map[podsOfOwner]*podsOfOwner{}
	for _, w := range nodes[i].Dump.Workloads {
		if w.Terminated {
			continue
		}
		row := podsOfOwner{Namespace: w.Namespace, Workload: cmp.Or(w.Owner, w.Name), Mesh: "out", Why: w.Unsteerable}
		switch {
		case w.Meshed:
			row.Mesh = "in"
			mode, by := policies.Effective(w, 0) // no port is 0
			row.Mode, row.By = mode.String(), cmp.Or(by, "default")
		case w.Undecided:
			row.Mesh, row.Why = "undecided", "no label says whether it is in the mesh, or one means nothing"
		}
		if alike[row] == nil {
			copied := row
			alike[row] = &copied
		}
		alike[row].Pods++
		asked := all || slices.ContainsFunc(nodes, func(n fleet.Node) bool { return n.Name == w.Node })
		switch {
		case enrolled[w.UID]:
			alike[row].Enrolled++
		case w.Meshed && asked:
			alike[row].missing++
		case w.Meshed:
			alike[row].Unasked++
		}
	}
	var rows []podsOfOwner
	for _, row := range alike {
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b podsOfOwner) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Mode, b.Mode), cmp.Compare(a.Mesh, b.Mesh))
	})
	return nonNil(rows)
}
