// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/culvert-mesh/culvert/identity/ca/cluster"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// denySet returns what gets no certificate, and what keeps that as it is written. The set
// is nil if nothing is denied. A file must be there and good at the start.
func (c *config) denySet() (set *deny.Set, follow func(context.Context) error, err error) {
	set = deny.NewSet()
	switch {
	case c.denyConfigMap != "":
		return set, func(ctx context.Context) error { return c.followDenyConfigMap(ctx, set) }, nil
	case c.deny == "":
		return nil, func(context.Context) error { return nil }, nil
	}
	if err := set.ReadFile(c.deny, c.log); err != nil {
		return nil, nil, refused("deny", err)
	}
	return set, func(ctx context.Context) error { return set.FollowFile(ctx, c.deny, c.log) }, nil
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
			number, _ := strconv.ParseUint(version, 10, 64) // 0 where it is no number
			_ = set.Take([]byte(text), number, from, c.log) // likewise
		case len(entries) == 0:
			set.Replace(0, nil)
		default:
			_ = set.Keep(fmt.Errorf("%s has no %s any more; a set that denies nothing is []", from, deny.Key), c.log)
		}
	})
}
