// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ca/cluster"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// authority returns the CA, and what keeps it and its root in the cluster, or nil.
// A CA of a directory is open; that of a Secret is opened by its keeper.
func (c *config) authority() (authority *ca.CA, keeper *cluster.Keeper, err error) {
	opts := ca.Options{TrustDomain: c.trustDomain, ServerNames: c.dnsNames}
	if c.dir != "" {
		authority, err = ca.Open(c.dir, opts)
	} else {
		authority, err = ca.New(opts)
	}
	if err != nil || c.configMap == "" {
		return authority, nil, err
	}
	api, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return nil, nil, refused("kubeconfig", err)
	}
	keeper, err = cluster.New(cluster.Options{
		API: api, CA: authority, Secret: c.secret, ConfigMap: c.configMap, TrustBundle: c.trustBundle, Log: c.log,
	})
	return authority, keeper, err
}
