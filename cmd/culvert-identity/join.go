// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/culvert-mesh/culvert/identity/ca/cluster"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// joins is where join tokens are, or nil.
func (c *config) joins() (join.Store, error) {
	switch {
	case c.joinSecret != "":
		api, err := kube.ClientConfig(c.kubeconfig)
		if err != nil {
			return nil, refused("kubeconfig", err)
		}
		secret, err := cluster.JoinSecret(api, c.joinSecret)
		if err != nil {
			return nil, refused("join-secret", err)
		}
		return join.In(secret), nil
	case c.joinTokens == "":
		return nil, nil
	}
	d := join.Directory(c.joinTokens)
	return d, refused("join-tokens", d.Check())
}
