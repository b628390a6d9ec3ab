// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity/deny"
)

func (c *command) node() *cobra.Command {
	return noun("node", "Take a node out of the mesh's trust, and back into it", c.quarantine(), c.release())
}

// denying says in which deny set a node is written, and how.
type denying struct {
	file           string
	create, dryRun bool
}

func (d *denying) define(flags *pflag.FlagSet) {
	flags.StringVar(&d.file, "deny-file", "", "`file` of the deny set, as the CA's -deny names it (default on Kubernetes the ConfigMap that the CA reads)")
	flags.BoolVar(&d.dryRun, "dry-run", false, "change nothing: print what would be written")
}

func (c *command) quarantine() *cobra.Command {
	var d denying
	var reason string
	var during lifetime
	cmd := &cobra.Command{
		Use:   "quarantine NODE",
		Short: "Give a node no certificate any more",
		Long: `quarantine puts a node into the CA's deny set. Once the CA reads it, which takes seconds,
the node gets no certificate, whatever runs there. On Kubernetes the set is the ConfigMap
that the replicas of culvert-identity have as -deny-configmap, else culvert-deny; it is
written only if nobody changed it meanwhile. With --deny-file it is a file, for
culvert-identity's -deny. A set that is not understood is left alone.

It shows which identities the node holds, if the node still says so. What it holds ends with
its certificates; where nodes follow the deny set it ends at once.`,
		Example: "  culvert node quarantine node-7 --reason 'stolen'\n  culvert node quarantine node-7 --deny-file /etc/culvert/deny.yaml",
		Args:    cobra.ExactArgs(1),
	}
	d.define(cmd.Flags())
	cmd.Flags().BoolVar(&d.create, "create", false, "make the set if there is none, though nothing says that there never was one")
	cmd.Flags().StringVar(&reason, "reason", "", "`sentence` for people")
	cmd.Flags().Var(&during, "for", "`time` after which it ends by itself (default never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		place, err := c.denySet(cmd.Context(), d.file)
		if err != nil {
			return err
		}
		entry := deny.Entry{Kind: deny.KindNode, Value: args[0], Reason: reason}
		if during > 0 {
			entry.Until = c.Now().UTC().Add(time.Duration(during)).Truncate(time.Second)
		}
		before, next, err := rewrite(cmd.Context(), place, d, func(all []deny.Entry) []deny.Entry {
			return append(without(all, args[0]), entry)
		})
		if err != nil {
			return err
		}
		if slices.Contains(before, entry) {
			fmt.Fprintf(c.Stdout, "%s is in %s already\n", args[0], place)
			return nil
		}
		c.sayDenied(place, d, entry.String(), next)
		if d.file == "" || c.from.machine() || c.from.given(ofKubernetes) != "" {
			c.blastRadius(cmd, args[0])
		}
		return nil
	}
	return cmd
}

// sayDenied says what was done, or would be.
func (c *command) sayDenied(place denyPlace, d denying, what string, next []byte) {
	if d.dryRun {
		what = "would be written: " + what
	}
	fmt.Fprintln(c.Stdout, printable(what))
	if d.dryRun {
		fmt.Fprint(c.Stdout, place.byHand(next))
		return
	}
	fmt.Fprintln(c.Stdout, place.written())
}

// blastRadius shows what the node holds. That it does not answer is no error: it may be
// the reason.
func (c *command) blastRadius(cmd *cobra.Command, name string) {
	nodes, err := c.nodes(cmd)
	if err != nil {
		fmt.Fprintf(c.Stderr, "culvert: what it holds is not known: %s\n", printable(err.Error()))
		return
	}
	i := slices.IndexFunc(nodes, func(n fleet.Node) bool { return n.Name == name })
	if i < 0 || nodes[i].Problem != "" {
		fmt.Fprintln(c.Stderr, "culvert: what it holds is not known: it does not answer")
		return
	}
	for _, h := range holdings(nodes[i:i+1], c.Now()) {
		fmt.Fprintf(c.Stdout, "it holds %s: %s, %d pods, until %s\n", printable(h.Identity), h.State, len(podsOf(nodes[i].Dump, h.Identity)), stamp(h.Until))
	}
}

func (c *command) release() *cobra.Command {
	var d denying
	cmd := &cobra.Command{
		Use:     "release NODE",
		Short:   "End a node's quarantine",
		Example: "  culvert node release node-7",
		Args:    cobra.ExactArgs(1),
	}
	d.define(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		place, err := c.denySet(cmd.Context(), d.file)
		if err != nil {
			return err
		}
		before, next, err := rewrite(cmd.Context(), place, d, func(all []deny.Entry) []deny.Entry { return without(all, args[0]) })
		if err != nil {
			return err
		}
		if len(without(before, args[0])) == len(before) {
			return fmt.Errorf("%s is not denied in %s", args[0], place)
		}
		c.sayDenied(place, d, "no more in the deny set: node "+args[0], next)
		return nil
	}
	return cmd
}

func without(all []deny.Entry, node string) []deny.Entry {
	return slices.DeleteFunc(slices.Clone(all), func(e deny.Entry) bool { return e.Kind == deny.KindNode && e.Value == node })
}
