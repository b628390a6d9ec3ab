// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/verify"
	"github.com/culvert-mesh/culvert/cli/why"
)

// verifyFor is how long a trial takes at most: both nodes begin, one connects and sends, the
// other waits for it, both say what they hold, and what they saw.
const verifyFor = 45 * time.Second

func (c *command) verify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify SRC DST[:PORT]",
		Short: "Send one marked connection, and prove that it was on no wire in plaintext",
		Long: `verify has the node of SRC connect to DST from the pod's own network namespace, as an app
there does, and send one line with a random mark. Meanwhile the nodes of both ends watch all
devices of the node and of the pod for packets between the two addresses, and both ztunnels
are asked what they carry. It proves, each with its evidence:

  connection                the mark reached the destination's pod
  source-wire               on no device of the source's node, nor on those by which the pod
                            leaves itself, was the mark in plaintext
  destination-wire          likewise at the other end
  tunnel                    both ztunnels say that mutual TLS carried it, by which cipher
  source-certificate        the serial number by which the source proved itself is that of the
                            certificate that its node holds, for its identity, under a root
                            that the other node has
  destination-certificate   likewise for the destination

A wire is a device of a node: the pods' veths, bridges, tunnels of the pod network, uplinks.
What is between nodes no node sees. A watch has to see the mark on the loopback of both pods,
where it is plaintext on its way to ztunnel and to the app, and a packet that it sent itself:
one that saw nothing has proved nothing, and is no "verified". Two pods of one node have no
wire between them; then it is proved that the mark left neither pod.

The app of DST sees a connection that says "culvert-verify-" and 32 digits, and ends: it must
bear that. The packets of other connections between the two pods are counted, and not kept.

SRC is a pod, DST a pod, a Service, which stands for its first endpoint, or an address, as
in culvert why. The nodes are asked by the way that root has: on Kubernetes by exec in the
pods of ztunnel, on a machine by --ztunnel-socket.

The exit code is 0 if all is proved, 1 if something is wrong, as plaintext on a wire, and 2
if something could not be proved, or nobody answered.`,
		Example: `  culvert verify shop/web-1 shop/db:5432
  culvert verify shop/web-1 shop/db-1:5432 -o wide
  culvert verify shop/web-1 10.1.2.3:80 --ztunnel-socket /run/culvert/admin.sock`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("want SRC and DST, as shop/web-1 shop/db:5432")
			}
			return nil
		},
	}
	from := whyFlags{noProbe: true}
	cmd.Flags().StringSliceVar(&from.sockets, "ztunnel-socket", nil, "without Kubernetes: comma-separated `paths` of ztunnels' sockets, as /run/culvert/admin.sock")
	out := formats(cmd, "table", "wide", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		world, err := c.whyWorld(cmd, &from)
		if err != nil {
			return err
		}
		between, err := world.Between(args[0], args[1])
		if err != nil {
			return err
		}
		if between.Near != nil && !between.Near.MayTry() {
			return errors.New("at its address a node tries nothing: --ztunnel-socket has it try")
		}
		work := c.working("sends a marked connection", 0, verifyFor)
		a := verify.Run(cmd.Context(), between, c.Now())
		work.End()
		for _, n := range world.Nodes {
			if n.Problem != "" {
				a.Unanswered = append(a.Unanswered, why.Silence{Node: n.Name, Problem: n.Problem})
			}
		}
		return errors.Join(c.showVerified(a, out), verifiedCode(a))
	}
	return cmd
}

func verifiedCode(a verify.Answer) error {
	switch {
	case a.Verdict == verify.Verified:
		return nil
	case a.Faults():
		return &ended{exitWarnings}
	}
	return &ended{exitFail}
}

func (c *command) showVerified(a verify.Answer, out *format) error {
	if out.value == "json" {
		return printJSON(c.Stdout, a)
	}
	head := fmt.Sprintf("%s: %s to %s", a.Verdict, a.Source, a.Destination)
	if a.Path != "" {
		head += ", path " + a.Path
	}
	fold(c.Stdout, "", head)
	fmt.Fprintln(c.Stdout)
	var rows, notes [][]string
	for _, s := range a.Steps {
		rows, notes = append(rows, []string{s.Step, string(s.State), orDash(s.By)}), append(notes, stepNotes(s, out.value == "wide"))
	}
	err := tableWithNotes(c.Stdout, "PROOF|STATE|BY", rows, notes)
	for _, s := range a.Unanswered {
		fmt.Fprintf(c.Stderr, "culvert: %s: %s\n", s.Node, printable(s.Problem))
	}
	return err
}
