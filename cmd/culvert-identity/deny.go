// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ca/cluster"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// denials is what gets no certificate, and what keeps that as it is written.
type denials struct {
	set    *deny.Set // nil: nothing is denied
	follow []func(context.Context) error
}

// run follows what is written until ctx ends.
func (d *denials) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, follow := range d.follow {
		group.Go(func() error { return follow(ctx) })
	}
	return group.Wait()
}

// denials returns the deny set: what is written, what lists revoke, or both together. A file
// must be there at the start, and one of the former kind good. issued are the CA's issuers
// and roots, by which revocation lists must be signed.
func (c *config) denials(issued func() []*x509.Certificate) (*denials, error) {
	written, err := c.written()
	if err != nil {
		return nil, err
	}
	revoked, err := c.revoked(issued)
	switch {
	case err != nil:
		return nil, err
	case revoked.set == nil:
		return written, nil
	case written.set == nil:
		return revoked, nil
	}
	both := &denials{set: deny.NewSet(), follow: slices.Concat(written.follow, revoked.follow)}
	both.follow = append(both.follow, func(ctx context.Context) error { return both.set.Merge(ctx, written.set, revoked.set, c.log) })
	return both, nil
}

func (c *config) written() (*denials, error) {
	set := deny.NewSet()
	switch {
	case c.denyConfigMap != "":
		return &denials{set, []func(context.Context) error{func(ctx context.Context) error { return c.followDenyConfigMap(ctx, set) }}}, nil
	case c.deny == "":
		return &denials{}, nil
	}
	if err := set.ReadFile(c.deny, c.log); err != nil {
		return nil, refused("deny", err)
	}
	return &denials{set, []func(context.Context) error{func(ctx context.Context) error { return set.FollowFile(ctx, c.deny, c.log) }}}, nil
}

// revoked reads nothing yet: a CA in a Secret may not be open, so that nobody knows whose
// lists count. Until they are read, it signs nothing.
func (c *config) revoked(issued func() []*x509.Certificate) (*denials, error) {
	set := deny.NewSet()
	switch {
	case c.crlConfigMap != "":
		return &denials{set, []func(context.Context) error{func(ctx context.Context) error { return c.followCRLConfigMap(ctx, set, issued) }}}, nil
	case c.crl == "":
		return &denials{}, nil
	}
	if _, err := os.Stat(c.crl); errors.Is(err, fs.ErrNotExist) {
		return nil, refused("crl", err)
	}
	return &denials{set, []func(context.Context) error{func(ctx context.Context) error { return set.FollowCRLFile(ctx, c.crl, issued, c.log) }}}, nil
}

// followCRLConfigMap takes what the ConfigMap says. Where there is none, nothing is revoked;
// one that goes takes nothing out of the set.
func (c *config) followCRLConfigMap(ctx context.Context, set *deny.Set, issued func() []*x509.Certificate) error {
	api, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return refused("kubeconfig", err)
	}
	from := "ConfigMap " + c.crlConfigMap
	return cluster.FollowConfigMap(ctx, api, c.crlConfigMap, deny.CRLKey, "", func(text, version string, there bool, err error) {
		_, entries, _ := set.Entries()
		switch {
		case err != nil:
			_ = set.Keep(fmt.Errorf("%s: %w", from, err), c.log) // it is said
		case there:
			_ = set.TakeCRLs([]byte(text), issued(), numberOf(version), from, c.log) // likewise
		case len(entries) == 0:
			set.Replace(0, nil)
		default:
			_ = set.Keep(fmt.Errorf("%s has no %s any more; what it revoked stays revoked", from, deny.CRLKey), c.log)
		}
	})
}

// numberOf is a resourceVersion as a number; 0 where it is none.
func numberOf(version string) uint64 {
	number, _ := strconv.ParseUint(version, 10, 64)
	return number
}

// issuedBy are the certificates by which the CA's own chain was issued, and its roots.
func issuedBy(authority *ca.CA) []*x509.Certificate {
	return slices.Concat(authority.Chain(), authority.Roots())
}

// followDenyConfigMap takes what the ConfigMap says. Where there never was one, nothing is
// denied. One that goes takes nothing out of the set, also not at the next start if the
// ConfigMap of the roots remembers it: whoever may delete it need not be whoever may write it.
func (c *config) followDenyConfigMap(ctx context.Context, set *deny.Set) error {
	api, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return refused("kubeconfig", err)
	}
	from := "ConfigMap " + c.denyConfigMap
	return cluster.FollowConfigMap(ctx, api, c.denyConfigMap, deny.Key, c.configMap, func(text, version string, there bool, err error) {
		_, entries, _ := set.Entries()
		switch {
		case err != nil:
			_ = set.Keep(fmt.Errorf("%s: %w", from, err), c.log) // it is said
		case there:
			_ = set.Take([]byte(text), numberOf(version), from, c.log) // likewise
		case len(entries) == 0:
			set.Replace(0, nil)
		default:
			_ = set.Keep(fmt.Errorf("%s has no %s any more; a set that denies nothing is []", from, deny.Key), c.log)
		}
	})
}
