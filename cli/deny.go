// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/deny"
)

// accused is what a command line names as denied: one thing.
type accused struct {
	serial, spki, issuer, node string
	trustDomain                string
}

func (a *accused) define(flags *pflag.FlagSet) {
	flags.StringVar(&a.serial, "serial", "", "a certificate, by its serial `number` in hexadecimal digits, with colons or without")
	flags.StringVar(&a.spki, "spki", "", "a key, by the SHA-256 of its SubjectPublicKeyInfo in hexadecimal `digits`")
	flags.StringVar(&a.issuer, "issuer", "", "an issuer and all that it signed, by its subject key identifier in hexadecimal `digits`")
	flags.StringVar(&a.node, "node", "", "a node, by its `name`: all that it would prove, and all that it would get")
	flags.StringVar(&a.trustDomain, "trust-domain", "", "the mesh's trust `domain`: a SPIFFE ID of another is noted (default as the pods of culvert-identity say, else cluster.local)")
}

// entry is what the arguments and flags name.
func (a *accused) entry(args []string, until time.Time, reason string) (deny.Entry, error) {
	named := map[deny.Kind]string{deny.KindSerial: a.serial, deny.KindSPKI: a.spki, deny.KindIssuer: a.issuer, deny.KindNode: a.node}
	if len(args) > 0 {
		named[deny.KindID] = args[0]
	}
	var found []deny.Kind
	for kind, value := range named {
		if value != "" {
			found = append(found, kind)
		}
	}
	if len(found) != 1 {
		return deny.Entry{}, errors.New("want exactly one of a SPIFFE ID, --serial, --spki, --issuer and --node")
	}
	return deny.New(found[0], named[found[0]], until, reason)
}

// domain is the mesh's trust domain, as far as flags and the CA's pods say.
func (c *command) domain(cmd *cobra.Command, a *accused) (string, error) {
	if a.trustDomain != "" {
		td, err := spiffeid.TrustDomainFromString(a.trustDomain)
		if err != nil {
			return "", fmt.Errorf("--trust-domain %q: %v", a.trustDomain, err)
		}
		return td.Name(), nil
	}
	const usual = "cluster.local"
	if c.from.machine() {
		return usual, nil
	}
	cluster, err := c.from.cluster()
	if err != nil { // a file needs none
		return usual, nil
	}
	return c.from.value(cmd.Context(), cluster, "-trust-domain", usual), nil
}

func (c *command) deny() *cobra.Command {
	var d denying
	var a accused
	var reason string
	var during lifetime
	cmd := &cobra.Command{
		Use:   "deny [ID]",
		Short: "Deny an identity, a certificate, a key, an issuer or a node, at once",
		Long: `deny writes one entry into the CA's deny set. Once the CA reads it, which takes a second
or two, what it names gets no certificate, and each node that hears of it ends the tunnels
and connections that it proves, and refuses new ones: at both ends, and between two pods of
one node too. --for lets it end by itself; culvert allow ends it at once.

On Kubernetes the set is the ConfigMap that the replicas of culvert-identity have as
-deny-configmap, else culvert-deny; it is written only if nobody changed it meanwhile. With
--deny-file it is a file, for culvert-identity's -deny. A set that is not understood is left
alone. What is denied already gets the new reason and end.`,
		Example: `  culvert deny spiffe://cluster.local/ns/shop/sa/web --for 24h --reason 'its image was replaced'
  culvert deny --serial 4f:1d:02:c3
  culvert deny --node node-7 --deny-file /etc/culvert/deny.yaml`,
		Args: cobra.MaximumNArgs(1),
	}
	d.define(cmd.Flags())
	a.define(cmd.Flags())
	cmd.Flags().BoolVar(&d.create, "create", false, "make the set if there is none, though nothing says that there never was one")
	cmd.Flags().StringVar(&reason, "reason", "", "`sentence` for people")
	cmd.Flags().Var(&during, "for", "`time` after which it ends by itself (default never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var until time.Time
		if during > 0 {
			until = c.Now().UTC().Add(time.Duration(during)).Truncate(time.Second)
		}
		entry, place, err := c.named(cmd, args, &a, d, until, reason)
		if err != nil {
			return err
		}
		before, next, err := rewrite(cmd.Context(), place, d, func(all []deny.Entry) []deny.Entry { return append(except(all, entry), entry) })
		if err != nil {
			return err
		}
		if slices.Contains(before, entry) {
			fmt.Fprintf(c.Stdout, "%s is in %s already\n", printable(entry.String()), place)
			return nil
		}
		c.sayDenied(place, d, entry.String(), next)
		return nil
	}
	return cmd
}

func (c *command) allow() *cobra.Command {
	var d denying
	var a accused
	cmd := &cobra.Command{
		Use:   "allow [ID]",
		Short: "End what culvert deny began",
		Long: `allow takes the entries that name one thing out of the CA's deny set. Nodes let its
connections in within seconds; those that were ended stay so. See culvert deny for where the
set is, and culvert denied for what is in it.`,
		Example: "  culvert allow spiffe://cluster.local/ns/shop/sa/web\n  culvert allow --node node-7",
		Args:    cobra.MaximumNArgs(1),
	}
	d.define(cmd.Flags())
	a.define(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		entry, place, err := c.named(cmd, args, &a, d, time.Time{}, "")
		if err != nil {
			return err
		}
		before, next, err := rewrite(cmd.Context(), place, d, func(all []deny.Entry) []deny.Entry { return except(all, entry) })
		if err != nil {
			return err
		}
		if len(except(before, entry)) == len(before) {
			return hint(fmt.Errorf("%s is not denied in %s", entry, place), "culvert denied shows what is")
		}
		c.sayDenied(place, d, "no more in the deny set: "+entry.String(), next)
		return nil
	}
	return cmd
}

// named is the entry that a command line names, and the set that it is for.
func (c *command) named(cmd *cobra.Command, args []string, a *accused, d denying, until time.Time, reason string) (deny.Entry, denyPlace, error) {
	place, err := c.denySet(cmd.Context(), d.file)
	if err != nil {
		return deny.Entry{}, nil, err
	}
	entry, err := a.entry(args, until, reason)
	if err != nil || entry.Kind != deny.KindID {
		return entry, place, err
	}
	domain, err := c.domain(cmd, a)
	if err != nil {
		return deny.Entry{}, nil, err
	}
	if id, _ := spiffeid.FromString(entry.Value); id.TrustDomain().Name() != domain { // it is one: New has read it
		fmt.Fprintf(c.Stderr, "culvert: %s is of the trust domain %s, and the mesh of %s: it names a peer only if the CA is federated with that domain\n", entry.Value, id.TrustDomain(), domain)
	}
	return entry, place, nil
}

// except are those that deny something else.
func except(all []deny.Entry, entry deny.Entry) []deny.Entry {
	return slices.DeleteFunc(slices.Clone(all), entry.Is)
}

// shownDenied is an entry of the deny set for programs.
type shownDenied struct {
	Kind    deny.Kind `json:"kind"`
	Value   string    `json:"value"`
	Until   time.Time `json:"until,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	InForce bool      `json:"inForce"` // it has not ended by itself
}

func (c *command) denied() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "denied",
		Short: "Show what is denied",
		Long: `denied shows the entries of the CA's deny set as it is written. culvert check says which
nodes do not go by it. Entries that have ended by themselves are shown until culvert allow
takes them out; they count for nothing.`,
		Example: "  culvert denied\n  culvert denied --deny-file /etc/culvert/deny.yaml -o json",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().StringVar(&file, "deny-file", "", "`file` of the deny set, as the CA's -deny names it (default on Kubernetes the ConfigMap that the CA reads)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		place, err := c.denySet(cmd.Context(), file)
		if err != nil {
			return err
		}
		text, there, err := place.read(cmd.Context())
		if err != nil {
			return err
		}
		var entries []deny.Entry
		if there {
			if entries, err = deny.Parse(text); err != nil {
				return fmt.Errorf("%s: %w", place, err)
			}
		} else if err := place.never(cmd.Context()); err != nil {
			return err
		}
		return c.showDenied(out.value, place, entries)
	}
	return cmd
}

func (c *command) showDenied(format string, place denyPlace, entries []deny.Entry) error {
	all := make([]shownDenied, 0, len(entries))
	var rows [][]string
	for _, e := range entries {
		shown := shownDenied{e.Kind, e.Value, e.Until, e.Reason, e.InForce(c.Now())}
		until := cmp.Or(stamp(e.Until), "for ever")
		if !shown.InForce {
			until += ", ended"
		}
		all, rows = append(all, shown), append(rows, []string{string(e.Kind), e.Value, until, e.Reason})
	}
	switch {
	case format == "json":
		return printJSON(c.Stdout, all)
	case len(rows) == 0:
		fmt.Fprintf(c.Stdout, "nothing is denied in %s\n", place)
		return nil
	}
	return table(c.Stdout, "KIND|VALUE|UNTIL|REASON", rows)
}
