// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity"
)

func (c *command) certs() *cobra.Command {
	return noun("certs", "Show the certificates that nodes hold for their workloads, and renew them", c.watchable(c.offline(c.certsList())), c.offline(c.certsGet()), c.certsWatch(), c.certsRenew())
}

// States of a workload's certificate on a node.
const (
	certValid   = "valid"
	certOverdue = "overdue"
	certExpired = "expired"
	certMissing = "missing"
)

// held is an identity's certificate on one node.
type held struct {
	Node      string    `json:"node"`
	Identity  string    `json:"identity"`
	State     string    `json:"state"`
	Serial    string    `json:"serial,omitempty"` // hexadecimal
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	RenewAt   time.Time `json:"renewAt,omitzero"`
	Until     time.Time `json:"until,omitzero"` // the first end of it and of those above it
	Error     string    `json:"error,omitempty"`

	fleet.Held `json:"-"`
}

// selection says which certificates are of interest.
type selection struct {
	nodes    []string
	ns, sa   string
	expiring lifetime
}

func (s *selection) define(flags *pflag.FlagSet) {
	flags.StringSliceVar(&s.nodes, "node", nil, "comma-separated `names` of nodes")
	namespaceFlag(flags, &s.ns, "of the workloads")
	flags.StringVar(&s.sa, "sa", "", "`name` of their ServiceAccount")
	flags.Var(&s.expiring, "expiring-in", "only those that end within this `duration`")
}

func (s *selection) matches(h held, now time.Time) bool {
	account := accountOf(h.Identity)
	return (len(s.nodes) == 0 || slices.Contains(s.nodes, h.Node)) &&
		(s.ns == "" || s.ns == account.Namespace) && (s.sa == "" || s.sa == account.Name) &&
		(s.expiring == 0 || h.Until.IsZero() || h.Until.Sub(now) < time.Duration(s.expiring))
}

func accountOf(id string) identity.ServiceAccount {
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return identity.ServiceAccount{}
	}
	account, _ := identity.Parse(parsed) // none: zero
	return account
}

// holdings are the certificates of all nodes that answered.
func holdings(nodes []fleet.Node, now time.Time) (all []held) {
	for _, n := range nodes {
		for _, h := range n.Dump.Certificates {
			all = append(all, holding(n, h, now))
		}
	}
	slices.SortStableFunc(all, func(a, b held) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Identity, b.Identity)) })
	return all
}

func holding(n fleet.Node, h fleet.Held, now time.Time) held {
	row := held{Node: n.Name, Identity: h.Identity, State: certMissing, Until: h.Until(), Held: h}
	_, row.Error, _ = strings.Cut(h.State, "Unavailable: ")
	if h.Renewal != nil {
		row.RenewAt, row.Error = h.Renewal.At, cmp.Or(h.Renewal.Error, row.Error)
	}
	leaf := h.Leaf()
	if leaf == nil {
		return row
	}
	row.Serial, row.Issuer = leaf.SerialNumber.Text(16), leaf.Issuer.CommonName
	row.NotBefore, row.NotAfter = leaf.NotBefore, leaf.NotAfter
	word, problem := n.Dump.Said(h.Identity)
	row.Error = cmp.Or(row.Error, problem)
	switch {
	case !now.Before(row.Until):
		row.State = certExpired
	case word == certOverdue, h.Renewal != nil && h.Renewal.Overdue:
		row.State = certOverdue
	default:
		row.State = certValid
	}
	return row
}

func (c *command) certsList() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the certificates of all nodes' workloads",
		Long: `list shows, of every node, the certificates that its ztunnel holds: whose, how it stands
with them, until when they hold, and what the last attempt to renew them failed with.

The exit code is 2 if a node did not answer.`,
		Example: "  culvert certs list --ns shop --expiring-in 30m",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	s.define(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		now := c.Now()
		rows := slices.DeleteFunc(holdings(nodes, now), func(h held) bool { return !s.matches(h, now) })
		silent := unanswered(nodes, s.nodes)
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"certificates": nonNil(rows), "unanswered": nonNil(silent)}), fail(len(silent) > 0))
		}
		var lines [][]string
		for _, h := range rows {
			lines = append(lines, []string{h.Node, h.Identity, h.State, h.Serial, h.Issuer, stamp(h.NotBefore), stamp(h.NotAfter), c.left(h.Until), stamp(h.RenewAt), h.Error})
		}
		for _, n := range silent {
			lines = append(lines, []string{n.Node, "", endsUnknown, "", "", "", "", "", "", n.Problem})
		}
		return errors.Join(table(c.Stdout, "NODE|IDENTITY|STATE|SERIAL|ISSUER|NOT BEFORE|NOT AFTER|LEFT|RENEW AT|LAST ERROR", lines), fail(len(silent) > 0))
	}
	return cmd
}

func (c *command) left(until time.Time) string {
	if until.IsZero() {
		return ""
	}
	return long(until.Sub(c.Now()))
}

// nodes asks every ztunnel, or reads the files that stand for them.
func (c *command) nodes(cmd *cobra.Command) ([]fleet.Node, error) {
	if cmd.Flags().Changed("dumps") {
		return c.filed(cmd)
	}
	source, err := c.from.fleet()
	if err != nil {
		return nil, err
	}
	work := c.working("asks nodes", 0, 0)
	nodes, err := fleet.Nodes(fleet.Watched(cmd.Context(), work), source)
	work.End()
	c.warnTwice(nodes)
	if err == nil && len(nodes) == 0 {
		err = hint(errors.New("no ztunnel was found"), "give --ztunnel, or the namespace that they are in by --namespace")
	}
	return nodes, err
}

// warnTwice names, once, the nodes to which several names led.
func (c *command) warnTwice(nodes []fleet.Node) {
	for _, n := range nodes {
		if said := n.Twice(); said != "" && !slices.Contains(c.twice, said) {
			c.twice = append(c.twice, said)
			fmt.Fprintf(c.Stderr, "culvert: warning: %s\n", printable(said))
		}
	}
}

// silence is a node that did not answer.
type silence struct {
	Node    string `json:"node"`
	Problem string `json:"problem"`
}

// unanswered are the nodes, of those that are wanted, that did not answer, or do not
// exist. No names want all.
func unanswered(nodes []fleet.Node, wanted []string) (all []silence) {
	for _, n := range nodes {
		if n.Problem != "" && (len(wanted) == 0 || slices.Contains(wanted, n.Name)) {
			all = append(all, silence{n.Name, n.Problem})
		}
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(nodes, func(n fleet.Node) bool { return n.Name == name }) {
			all = append(all, silence{name, "no ztunnel was found on it"})
		}
	}
	return all
}

// nonNil has an empty list be [] for programs, and not null.
func nonNil[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

// theirs are the certificates of one identity: a SPIFFE ID, or namespace/name of its
// ServiceAccount.
func theirs(all []held, id string) ([]held, error) {
	account := accountOf(id)
	if account == (identity.ServiceAccount{}) {
		var err error
		if account, err = identity.ParseServiceAccount(id); err != nil {
			return nil, fmt.Errorf("%q is neither a SPIFFE ID nor namespace/name of a ServiceAccount", id)
		}
	}
	found := slices.DeleteFunc(slices.Clone(all), func(h held) bool {
		return h.Identity != id && (strings.Contains(id, "://") || accountOf(h.Identity) != account)
	})
	if len(found) == 0 {
		return nil, hint(fmt.Errorf("no node that answered holds a certificate of %s", id), "culvert certs list shows which there are")
	}
	return found, nil
}
