// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// chosen is a Source of the nodes that were named, of all if none was.
type chosen struct {
	fleet.Source
	nodes []string
}

// among is where the ztunnels of these nodes are found.
func (c *command) among(nodes []string) (fleet.Source, error) {
	source, err := c.from.fleet()
	return chosen{source, nodes}, err
}

// Ztunnels is part of fleet.Source. That there is none at all is an error.
func (c chosen) Ztunnels(ctx context.Context) ([]fleet.Target, error) {
	all, err := c.Source.Ztunnels(ctx)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, hint(errors.New("no ztunnel was found"), "give --ztunnel, or the namespace that they are in by --namespace")
	}
	named := slices.DeleteFunc(all, func(t fleet.Target) bool { return len(c.nodes) > 0 && !slices.Contains(c.nodes, t.Name) })
	if len(named) == 0 {
		return nil, fmt.Errorf("--node %s: no ztunnel was found there", strings.Join(c.nodes, ","))
	}
	return named, nil
}
