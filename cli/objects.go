// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// object is a row for what all nodes know: the same everywhere, unless one is behind.
type object interface {
	key() string // of the object; rows of one key are of the same object
	line(wide bool) []string
	in(namespace string) bool
}

// known is an object as the first node has it that answered.
type known[T object] struct {
	Object T   `json:"object"`
	Nodes  int `json:"nodes"` // that know it as this
	Of     int `json:"of"`    // that answered
}

// listing is a command that lists objects as nodes know them.
type listing[T object] struct {
	use, short, long, example string
	head, wide                string
	of                        func(fleet.Dump) []T
	name                      string // in JSON
}

const knownText = `NODES is how many of the nodes that answered know it as
the row says: one that is behind makes a row of its own.

The exit code is 2 if a node did not answer.`

// list makes the command.
func list[T object](c *command, l listing[T]) *cobra.Command {
	var ns string
	cmd := &cobra.Command{Use: l.use, Short: l.short, Long: l.long + " " + knownText, Example: l.example, Args: cobra.NoArgs}
	out := formats(cmd, "table", "wide", "json")
	namespaceFlag(cmd.Flags(), &ns, "of the rows")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		rows := slices.DeleteFunc(knownTo(nodes, l.of), func(k known[T]) bool { return ns != "" && !k.Object.in(ns) })
		silent := unanswered(nodes, nil)
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{l.name: nonNil(rows), "unanswered": nonNil(silent)}), fail(len(silent) > 0))
		}
		head := l.head
		if out.value == "wide" {
			head += "|" + l.wide
		}
		var lines [][]string
		for _, k := range rows {
			lines = append(lines, append(k.Object.line(out.value == "wide"), fmt.Sprintf("%d/%d", k.Nodes, k.Of)))
		}
		err = table(c.Stdout, head+"|NODES", lines)
		if out.value != "wide" {
			tellDifferences(c, rows, strings.Split(l.wide, "|"))
		}
		return errors.Join(err, c.warnSilent(silent), fail(len(silent) > 0))
	}
	return cmd
}

// tellDifferences says of rows that look the same in which further columns they differ.
func tellDifferences[T object](c *command, rows []known[T], wide []string) {
	for i := 1; i < len(rows); i++ {
		one, other := rows[i-1].Object, rows[i].Object
		if one.key() != other.key() || !slices.Equal(one.line(false), other.line(false)) {
			continue
		}
		narrow := len(one.line(false))
		var differ []string
		for n, name := range wide {
			if one.line(true)[narrow+n] != other.line(true)[narrow+n] {
				differ = append(differ, name)
			}
		}
		fmt.Fprintf(c.Stderr, "culvert: nodes do not agree on %s: see %s with -o wide\n", printable(one.key()), strings.Join(differ, ", "))
	}
}

// knownTo are the objects of all nodes, by their keys, those that differ in what their
// wide line says beside each other.
func knownTo[T object](nodes []fleet.Node, of func(fleet.Dump) []T) (all []known[T]) {
	found, answered := map[string]*known[T]{}, 0
	for _, n := range nodes {
		if n.Problem != "" {
			continue
		}
		answered++
		for _, o := range of(n.Dump) {
			key := o.key() + "\x00" + strings.Join(o.line(true), "\x00")
			if found[key] == nil {
				found[key] = &known[T]{Object: o}
			}
			found[key].Nodes++
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		k := *found[key]
		k.Of = answered
		all = append(all, k)
	}
	return all
}

type workloadRow struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	Node      string   `json:"node"`
	Protocol  string   `json:"protocol"` // HBONE, TCP of one that is not in the mesh, or none
	Workload  string   `json:"workload"`
	Identity  string   `json:"identity"`
	Ready     bool     `json:"ready"`
	Why       string   `json:"why,omitempty"` // it is not in the mesh, though it should be
}

func (w workloadRow) key() string              { return w.Namespace + "/" + w.Name }
func (w workloadRow) in(namespace string) bool { return w.Namespace == namespace }

func (w workloadRow) line(wide bool) []string {
	line := []string{w.Namespace, w.Name, strings.Join(w.Addresses, ","), w.Node, w.Protocol}
	if wide {
		line = append(line, w.Workload, w.Identity, yesNo(w.Ready), w.Why)
	}
	return line
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func (c *command) workloads() *cobra.Command {
	return list(c, listing[workloadRow]{
		use: "workloads", short: "Show the pods that nodes know, and how each is reached", name: "workloads",
		long:    "workloads shows all pods: HBONE reaches those in the mesh, TCP the others, and nothing\nthose of which no label says which they are. Workloads of other trust domains that pods may\ndial have their SPIFFE ID for a name.",
		example: "  culvert workloads --ns shop",
		head:    "NAMESPACE|POD NAME|ADDRESS|NODE|PROTOCOL", wide: "WORKLOAD|IDENTITY|READY|WHY",
		of: func(d fleet.Dump) (rows []workloadRow) {
			for _, w := range d.Workloads {
				if w.Terminated {
					continue
				}
				row := workloadRow{
					Namespace: w.Namespace, Name: w.Name, Node: w.Node, Addresses: []string{}, Protocol: "TCP", Workload: cmp.Or(w.Owner, w.Name), Ready: w.Ready, Why: w.Unsteerable,
				}
				for _, a := range w.Addrs {
					row.Addresses = append(row.Addresses, a.String())
				}
				if !w.ID.IsZero() {
					row.Identity = w.ID.String()
				}
				switch {
				case w.Meshed:
					row.Protocol = "HBONE"
				case w.Undecided:
					row.Protocol, row.Why = "none", "no label says whether it is in the mesh, or one means nothing"
				}
				rows = append(rows, row)
			}
			return append(rows, foreignRows(d)...)
		},
	})
}

// foreignRows are the workloads of other trust domains, which have no pods here: a SPIFFE ID
// is their name.
func foreignRows(d fleet.Dump) (rows []workloadRow) {
	if d.Foreign == nil {
		return nil
	}
	for _, domain := range d.Foreign.Domains {
		for _, w := range domain.Workloads {
			row := workloadRow{Name: w.ID.String(), Addresses: []string{}, Protocol: "HBONE", Identity: w.ID.String()}
			for _, a := range w.Addrs {
				row.Addresses = append(row.Addresses, a.String())
			}
			rows = append(rows, row)
		}
	}
	return rows
}

type serviceRow struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	VIPs      []string `json:"vips"`
	Healthy   int      `json:"healthy"` // endpoints that are ready and not leaving
	Endpoints int      `json:"endpoints"`
	Meshed    int      `json:"meshed"` // of them
	Ports     []string `json:"ports"`
}

func (s serviceRow) key() string              { return s.Namespace + "/" + s.Name }
func (s serviceRow) in(namespace string) bool { return s.Namespace == namespace }

func (s serviceRow) line(wide bool) []string {
	line := []string{s.Namespace, s.Name, strings.Join(s.VIPs, ","), fmt.Sprintf("%d/%d", s.Healthy, s.Endpoints)}
	if wide {
		line = append(line, fmt.Sprintf("%d/%d", s.Meshed, s.Endpoints), strings.Join(s.Ports, ","))
	}
	return line
}

func (c *command) services() *cobra.Command {
	return list(c, listing[serviceRow]{
		use: "services", short: "Show the Services that nodes know, with their endpoints", name: "services",
		long:    "services shows Services with their addresses, and how many of their endpoints\nare healthy.",
		example: "  culvert services --ns shop -o wide",
		head:    "NAMESPACE|SERVICE NAME|SERVICE VIP|ENDPOINTS", wide: "MESHED|PORTS",
		of: servicesOf,
	})
}

func servicesOf(d fleet.Dump) (rows []serviceRow) {
	pods := map[netip.Addr]*workload.Workload{}
	for i := range d.Workloads {
		for _, a := range d.Workloads[i].Addrs {
			pods[a] = &d.Workloads[i]
		}
	}
	for _, s := range d.Services {
		row := serviceRow{Namespace: s.Namespace, Name: s.Name, VIPs: []string{}, Ports: []string{}}
		for _, vip := range s.VIPs {
			row.VIPs = append(row.VIPs, vip.String())
		}
		if s.Headless {
			row.VIPs = []string{"None"}
		}
		behind := map[string]bool{} // who is counted
		for _, p := range s.Ports {
			row.Ports = append(row.Ports, strconv.Itoa(int(p.Port)))
			for _, e := range p.Endpoints {
				row.count(behind, pods[e.Addr.Addr()], e)
			}
		}
		slices.Sort(row.Ports)
		rows = append(rows, row)
	}
	return rows
}

// count counts an endpoint, whatever its ports and addresses, once. Nobody of the mesh is nil.
func (s *serviceRow) count(counted map[string]bool, pod *workload.Workload, e workload.Endpoint) {
	who := e.Addr.Addr().String()
	if pod != nil {
		who = pod.UID
	}
	if counted[who] {
		return
	}
	counted[who] = true
	s.Endpoints++
	if !e.Leaving && (pod == nil || pod.Ready) { // only endpoints that serve are listed
		s.Healthy++
	}
	if pod != nil && pod.Meshed {
		s.Meshed++
	}
}
