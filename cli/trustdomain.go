// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// trustDomainFlag is --trust-domain. Without it, objects of the API server are read by the
// trust domain that the mesh says is its own, and others by its default.
type trustDomainFlag struct{ name string }

const defaultTrustDomain = "cluster.local"

func (f *trustDomainFlag) define(cmd *cobra.Command, of string) {
	cmd.Flags().StringVar(&f.name, "trust-domain", "",
		of+"`name` of the mesh's trust domain (default what the mesh says, with objects of the API server; else "+defaultTrustDomain+")")
}

func (c *command) trustDomain(ctx context.Context, f trustDomainFlag, live bool) (spiffeid.TrustDomain, error) {
	switch {
	case f.name == "" && live:
		return c.meshTrustDomain(ctx), nil
	case f.name == "":
		return spiffeid.RequireTrustDomainFromString(defaultTrustDomain), nil
	}
	td, err := spiffeid.TrustDomainFromString(f.name)
	if err != nil {
		return td, fmt.Errorf("--trust-domain %q: %v", f.name, err)
	}
	return td, nil
}

// meshTrustDomain asks the CA, then the nodes. A mesh that says nothing, as one that is not
// installed yet, is taken for one with the default, which is said.
func (c *command) meshTrustDomain(ctx context.Context) spiffeid.TrustDomain {
	for _, name := range c.saidTrustDomains(ctx) {
		if td, err := spiffeid.TrustDomainFromString(name); err == nil {
			return td
		}
	}
	fmt.Fprintf(c.Stderr, "culvert: the mesh does not say its trust domain, which is taken for %s: --trust-domain says it\n", defaultTrustDomain)
	return spiffeid.RequireTrustDomainFromString(defaultTrustDomain)
}

func (c *command) saidTrustDomains(ctx context.Context) (names []string) {
	programs, err := c.from.fleet()
	if err != nil {
		return nil
	}
	cas, _ := fleet.CAs(ctx, programs) // one that does not answer says nothing
	for _, ca := range cas {
		if ca.State != nil && ca.State.TrustDomain != "" {
			return []string{ca.State.TrustDomain}
		}
	}
	nodes, _ := fleet.Nodes(ctx, programs)
	for _, n := range nodes {
		if n.Dump.Config.TrustDomain != "" {
			names = append(names, n.Dump.Config.TrustDomain)
		}
	}
	return names
}

// saidFederated are the trust domains that a replica of the CA says that it is federated with.
func (c *command) saidFederated(ctx context.Context) (names []string) {
	programs, err := c.from.fleet()
	if err != nil {
		return nil
	}
	cas, _ := fleet.CAs(ctx, programs) // one that does not answer says nothing
	for _, ca := range cas {
		if ca.State == nil || ca.State.Federation == nil {
			continue
		}
		for _, f := range ca.State.Federation.Domains {
			names = append(names, f.TrustDomain)
		}
	}
	return names
}
