// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/join"
)

// join groups what an operator does about processes outside Kubernetes.
func (c *command) join() *cobra.Command {
	token := noun("token", "Make join tokens", c.joinTokenCreate())
	return noun("join", "Give identities to processes outside Kubernetes", token, c.joinList(), c.joinRevoke())
}

func (c *command) joinTokenCreate() *cobra.Command {
	var dir, id, to string
	var ttl lifetime
	_ = ttl.Set("10m")
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token by which one process joins as one identity",
		Long: `create makes a token and prints it. Whoever has it gets the identity, once: bring it to
the process by a way that nobody else reads. The CA keeps a hash of it: on Kubernetes in the
Secret that its replicas have as -join-secret, else in the directory of its -join-tokens.
The process redeems it with culvert identity run.`,
		Example: "  culvert join token create --id spiffe://cluster.local/ns/legacy/sa/batch --to token\n  culvert join token create --join-tokens /var/lib/culvert-join --id spiffe://cluster.local/ns/legacy/sa/batch > token",
		Args:    cobra.NoArgs,
	}
	tokensFlag(cmd, &dir)
	cmd.Flags().StringVar(&id, "id", "", "SPIFFE `ID` that the process gets, as spiffe://cluster.local/ns/legacy/sa/batch; required")
	cmd.Flags().Var(&ttl, "ttl", "`duration` in which the token can be redeemed, 1m to 1d (default 10m)")
	cmd.Flags().StringVar(&to, "to", "", "`file` to write, for its owner alone (default stdout)")
	_ = cmd.MarkFlagRequired("id") // it was just defined
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		named, err := spiffeid.FromString(id)
		if err != nil {
			return fmt.Errorf("--id: %w", err)
		}
		store, err := c.tokens(cmd.Context(), dir)
		if err != nil {
			return err
		}
		token, record, err := join.Create(cmd.Context(), store, join.Options{Identity: named, TTL: time.Duration(ttl)})
		if err != nil {
			return err
		}
		if err := c.write(to, []byte(token.Text()+"\n")); err != nil {
			return errors.Join(err, store.Remove(cmd.Context(), token.ID))
		}
		fmt.Fprintf(c.Stderr, "culvert: %s is for %v, until %s\n", token.ID, named, stamp(record.Expires))
		return nil
	}
	return cmd
}

// States of what joins.
const (
	joinWaits   = "waiting" // for the process to redeem the token
	joinExpired = "expired"
	joinJoined  = "joined"
)

// joining is a row of the list.
type joining struct {
	ID       string    `json:"id"`
	Identity string    `json:"identity"`
	State    string    `json:"state"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"` // of the token; none once it was redeemed
	Joined   time.Time `json:"joined,omitzero"`
}

func (c *command) joinList() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Show join tokens, and the processes that have joined",
		Example: "  culvert join list --join-tokens /var/lib/culvert-join",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	tokensFlag(cmd, &dir)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, err := c.tokens(cmd.Context(), dir)
		if err != nil {
			return err
		}
		records, err := store.List(cmd.Context())
		var rows []joining
		for _, r := range records {
			rows = append(rows, c.joining(r))
		}
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"processes": nonNil(rows)}), err)
		}
		var lines [][]string
		for _, r := range rows {
			lines = append(lines, []string{r.ID, r.Identity, r.State, stamp(r.Created), stamp(r.Expires), stamp(r.Joined)})
		}
		return errors.Join(table(c.Stdout, "ID|IDENTITY|STATE|CREATED|EXPIRES|JOINED", lines), err)
	}
	return cmd
}

func (c *command) joining(r join.Record) joining {
	row := joining{ID: r.ID, Identity: r.Identity.String(), State: joinWaits, Created: r.Created, Expires: r.Expires, Joined: r.At}
	switch {
	case r.Redeemed:
		row.State, row.Expires = joinJoined, time.Time{}
	case !c.Now().Before(r.Expires):
		row.State = joinExpired
	}
	return row
}

func (c *command) joinRevoke() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a join token worth nothing, or end the renewals of a process",
		Long: `revoke forgets a join token or the process that redeemed it. The process gets no further
certificate; the one that it has is good until it ends.`,
		Example: "  culvert join revoke --join-tokens /var/lib/culvert-join c8c3febd4ceeb386",
		Args:    cobra.ExactArgs(1),
	}
	tokensFlag(cmd, &dir)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, err := c.tokens(cmd.Context(), dir)
		if err != nil {
			return err
		}
		if err := store.Remove(cmd.Context(), args[0]); err != nil {
			return fmt.Errorf("revoke %q in %v: %w", args[0], store, err)
		}
		fmt.Fprintf(c.Stderr, "culvert: revoked %s\n", args[0])
		return nil
	}
	return cmd
}
