// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ca/cluster"
	"github.com/culvert-mesh/culvert/identity/signing"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// authority is the CA with what keeps it.
type authority struct {
	ca        *ca.CA
	keeper    *ca.Keeper
	publisher *cluster.Publisher // nil: nobody finds its roots in a cluster
	place     func() ca.Store    // where it is kept, for one goroutine more
}

// authority returns the CA. That of a directory is open, unless the signer of its key or Vault is away;
// that of a Secret is opened by run, as the API server may be away.
func (c *config) authority(ctx context.Context) (*authority, error) {
	var leafNames []string
	if c.dnsSANs {
		leafNames = append(identity.ServiceDNSNames("culvert-system", "probe"), identity.PodDNSName("culvert-system", "probe"))
	}
	o := ca.Options{
		TrustDomain: c.trustDomain, ServerNames: c.dnsNames, ClockSkew: c.clockSkew, LeafTTL: c.ttl, PassphraseFile: c.passphrase,
		MustExist: c.existing, LeafNames: leafNames, Keys: c.keys,
	}
	if err := c.vault.options(&o); err != nil {
		return nil, err
	}
	made, err := ca.New(o)
	if err != nil {
		return nil, err
	}
	a := &authority{ca: made}
	if c.configMap != "" {
		api, err := kube.ClientConfig(c.kubeconfig)
		if err != nil {
			return nil, refused("kubeconfig", err)
		}
		a.publisher, err = cluster.New(cluster.Options{
			API: api, CA: made, Secret: c.secret, ConfigMap: c.configMap, TrustBundle: c.trustBundle, Log: c.log,
		})
		if err != nil {
			return nil, err
		}
	}
	a.place = func() ca.Store { return ca.Directory{Path: c.dir, Log: c.log} }
	if c.secret != "" {
		a.place = a.publisher.Store
	}
	keep := ca.KeeperOptions{CA: made, Store: a.place(), Log: c.log}
	if a.publisher != nil {
		keep.Tell = a.publisher.Tell
	}
	a.keeper = ca.NewKeeper(keep)
	if c.dir == "" {
		return a, nil
	}
	if err := a.keeper.Open(ctx); !errors.Is(err, signing.ErrAway) && !errors.Is(err, ca.ErrUpstream) {
		return a, err
	}
	return a, nil // run waits for the signer or Vault, and says so
}

// run keeps the CA until ctx ends.
func (a *authority) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.keeper.Run(ctx) })
	if a.publisher != nil {
		group.Go(func() error { return a.publisher.Run(ctx) })
	}
	return group.Wait()
}

// waiting is why nodes cannot be served yet, or nil.
func (a *authority) waiting() error {
	problems := []error{a.keeper.Waiting()}
	if a.publisher != nil {
		problems = append(problems, a.publisher.Waiting())
	}
	err := errors.Join(problems...)
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
}

// events is how often what happened to the CA.
func (a *authority) events() map[string]uint64 {
	all := map[string]uint64{}
	for reason, n := range a.keeper.Events() {
		all[string(reason)] = n
	}
	if a.publisher != nil {
		maps.Copy(all, a.publisher.Events())
	}
	return all
}
