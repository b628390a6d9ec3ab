// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// renewal is what became of one identity on one node.
type renewal struct {
	Node string `json:"node"`
	fleet.Renewed
}

func (c *command) certsRenew() *cobra.Command {
	var nodes, sockets []string
	var all bool
	cmd := &cobra.Command{
		Use:   "renew [ID…]",
		Short: "Have nodes renew certificates now",
		Long: `renew has ztunnels ask the CA for new certificates of identities now, and says for each
node what came: the serial number of the new one, or why there is none; then the former one
stays in force. An identity is a SPIFFE ID, or namespace/name of a ServiceAccount; --all is
for every identity of the nodes, one node after the other. An identity is not renewed again
within five seconds.

On Kubernetes it runs ztunnel renew in the pods of ztunnel: it needs the right to exec there.
On a machine without, it asks at --ztunnel-socket, which only root reaches.

The exit code is 2 if a certificate was not renewed, a node did not answer, or no node that
was asked holds an identity.`,
		Example: "  culvert certs renew shop/web\n  culvert certs renew --all --node node-7\n  culvert certs renew --all --ztunnel-socket /run/culvert/admin.sock",
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "comma-separated `names` of nodes")
	cmd.Flags().BoolVar(&all, "all", false, "every identity that the nodes hold")
	cmd.Flags().StringSliceVar(&sockets, "ztunnel-socket", nil, "without Kubernetes: comma-separated `paths` of ztunnels' sockets, as /run/culvert/admin.sock")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all == (len(args) > 0) {
			return errors.New("name identities, or give --all")
		}
		targets, err := c.renewers(cmd, sockets, nodes)
		if err != nil {
			return err
		}
		rows, silent := c.renewOn(cmd, targets, args)
		for _, name := range nodes {
			if !slices.ContainsFunc(targets, func(t fleet.Target) bool { return t.Name == name }) {
				silent = append(silent, silence{name, "no ztunnel was found on it"})
			}
		}
		rows = append(rows, unheld(args, rows)...)
		failed := len(silent) > 0 || slices.ContainsFunc(rows, func(r renewal) bool { return r.Error != "" })
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"renewals": nonNil(rows), "unanswered": nonNil(silent), "ok": !failed}), fail(failed))
		}
		var lines [][]string
		for _, r := range rows {
			lines = append(lines, []string{r.Node, r.Identity, r.Serial, stamp(r.Until), r.Error})
		}
		for _, n := range silent {
			lines = append(lines, []string{n.Node, "", "", "", n.Problem})
		}
		return errors.Join(table(c.Stdout, "NODE|IDENTITY|NEW SERIAL|UNTIL|NOT RENEWED BECAUSE", lines), fail(failed))
	}
	return cmd
}

// renewers are the ztunnels that are to be asked.
func (c *command) renewers(cmd *cobra.Command, sockets, nodes []string) ([]fleet.Target, error) {
	if err := c.from.check(); err != nil {
		return nil, err
	}
	if len(sockets) > 0 || c.from.machine() {
		switch {
		case len(sockets) == 0:
			return nil, errors.New("--ztunnel-socket is required without Kubernetes: at its addresses ztunnel changes nothing")
		case c.from.given(ofKubernetes) != "":
			return nil, fmt.Errorf("%s is for a mesh on Kubernetes, --ztunnel-socket for one without: give one of both", c.from.given(ofKubernetes))
		case len(nodes) > 0:
			return nil, errors.New("--node is for Kubernetes: --ztunnel-socket says which node")
		}
		return fleet.Sockets(sockets), nil
	}
	cluster, err := c.from.cluster()
	if err != nil {
		return nil, err
	}
	targets, err := cluster.Ztunnels(cmd.Context())
	if err == nil && len(targets) == 0 {
		err = hint(errors.New("no ztunnel was found"), "give the namespace that they are in by --namespace")
	}
	return slices.DeleteFunc(targets, func(t fleet.Target) bool { return len(nodes) > 0 && !slices.Contains(nodes, t.Name) }), err
}

// renewOn asks one node after the other: a CA that cannot keep up is noticed at the first.
func (c *command) renewOn(cmd *cobra.Command, targets []fleet.Target, identities []string) (rows []renewal, silent []silence) {
	work := c.working("renews on nodes", len(targets), 0)
	defer work.End()
	for _, t := range targets {
		work.Part(t.Name)
		came, err := t.Renew(cmd.Context(), identities)
		if err != nil {
			silent = append(silent, silence{t.Name, err.Error()})
		}
		for _, r := range came {
			if r.Held {
				rows = append(rows, renewal{t.Name, r})
			}
		}
		work.Done(1)
	}
	return rows, silent
}

// unheld are the identities that no node has answered for.
func unheld(wanted []string, rows []renewal) (all []renewal) {
	for _, id := range wanted {
		held := slices.ContainsFunc(rows, func(r renewal) bool {
			account := accountOf(r.Identity)
			return r.Identity == id || account.Namespace+"/"+account.Name == id
		})
		if !held {
			all = append(all, renewal{Renewed: fleet.Renewed{Identity: id, Error: "no node that answered has a pod of it"}})
		}
	}
	return all
}
