// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// carried is an open connection as the node of one of its pods has it.
type carried struct {
	Node string `json:"node"`
	Pod  string `json:"pod"` // NAMESPACE/NAME
	fleet.Connection
}

func (c *command) connections() *cobra.Command {
	var ns, direction string
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "Show the open connections of all nodes' pods",
		Long: `connections shows what is open now, of every pod in the mesh: from where to where, how it
goes and is secured, how much went, how long the way is and how old it is. Both pods of a
connection show it, each from its side. Of a pod with more than a thousand in one direction
the oldest are shown.

The exit code is 2 if a node did not answer.`,
		Example: "  culvert connections --ns shop -o wide",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "wide", "json")
	namespaceFlag(cmd.Flags(), &ns, "of the pods")
	cmd.Flags().StringVar(&direction, "direction", "", "only inbound, or only outbound, as the pods see it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if direction != "" && direction != "inbound" && direction != "outbound" {
			return fmt.Errorf("--direction %q: want inbound or outbound", direction)
		}
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		rows := slices.DeleteFunc(connectionsOf(nodes), func(r carried) bool {
			return ns != "" && !strings.HasPrefix(r.Pod, ns+"/") || direction != "" && r.Direction != direction
		})
		silent := unanswered(nodes, nil)
		c.warnOmitted(nodes, ns)
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"connections": nonNil(rows), "unanswered": nonNil(silent)}), fail(len(silent) > 0))
		}
		head := "POD|DIRECTION|LOCAL|REMOTE|TARGET|PATH|SECURED|SENT|RECEIVED|RTT|AGE"
		if out.value == "wide" {
			head += "|NODE|PEER IDENTITY|CIPHER|GROUP|PEER SERIAL|HOLDS UNTIL|RETRANSMITTED"
		}
		var lines [][]string
		for _, r := range rows {
			line := r.line()
			if out.value == "wide" {
				line = append(line, r.more()...)
			}
			lines = append(lines, line)
		}
		return errors.Join(table(c.Stdout, head, lines), c.warnSilent(silent), fail(len(silent) > 0))
	}
	return cmd
}

// warnOmitted names the pods that have more than a node tells.
func (c *command) warnOmitted(nodes []fleet.Node, ns string) {
	for _, n := range nodes {
		for _, p := range n.Dump.Pods {
			if more := p.Connections.Omitted; more > 0 && (ns == "" || p.Sandbox.Namespace == ns) {
				fmt.Fprintf(c.Stderr, "culvert: %s: %d younger connections of %s are not shown\n", n.Name, more, printable(p.Sandbox.Namespace+"/"+p.Sandbox.Name))
			}
		}
	}
}

func connectionsOf(nodes []fleet.Node) (all []carried) {
	for _, n := range nodes {
		for _, p := range n.Dump.Pods {
			name := p.Sandbox.Namespace + "/" + p.Sandbox.Name
			for _, conn := range append(slices.Clone(p.Connections.Outbound), p.Connections.Inbound...) {
				all = append(all, carried{n.Name, name, conn})
			}
		}
	}
	slices.SortFunc(all, func(a, b carried) int {
		return cmp.Or(strings.Compare(a.Pod, b.Pod), -strings.Compare(a.Direction, b.Direction), strings.Compare(a.Src, b.Src), strings.Compare(a.ActualDst, b.ActualDst))
	})
	return all
}

// line has LOCAL, REMOTE and TARGET as istioctl ztunnel-config connections does.
func (r carried) line() []string {
	local, remote, target := r.Src, r.ActualDst, r.OriginalDst
	if r.Direction == "inbound" {
		local, remote = r.ActualDst, r.Src
	}
	secured := "yes"
	if r.Protocol != "HBONE" {
		secured = cmp.Or(r.Plaintext, "no")
	}
	rtt := ""
	if us := r.tcp().RTT; us > 0 {
		rtt = fmt.Sprintf("%.2fms", float64(us)/1000)
	}
	return []string{r.Pod, r.Direction, local, remote, target, r.Path, secured, size(float64(r.BytesSent)), size(float64(r.BytesRecv)), rtt, r.Age}
}

func (r carried) more() []string {
	peer := r.DstIdentity
	if r.Direction == "inbound" {
		peer = r.SrcIdentity
	}
	tunnel := fleet.Tunnel{}
	if r.Tunnel != nil {
		tunnel = *r.Tunnel
	}
	return []string{r.Node, peer, tunnel.Cipher, tunnel.Group, tunnel.PeerSerial, stamp(tunnel.Until), count(int(r.tcp().Retransmitted))}
}

// tcp is of the socket by which the connection leaves or reaches the node.
func (r carried) tcp() fleet.TCP {
	if r.Tunnel != nil {
		return r.Tunnel.TCP
	}
	return r.TCP
}
