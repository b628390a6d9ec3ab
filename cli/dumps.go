// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

const dumpsUsage = "`directory` of files NAME.json that hold nodes' /config_dump, or one file, instead of nodes"

// offline lets a command that only reads nodes go by files, too.
func (c *command) offline(cmd *cobra.Command) *cobra.Command {
	defineDumps(cmd.Flags(), &c.dumps)
	return cmd
}

func defineDumps(flags *pflag.FlagSet, path *string) {
	flags.StringVarP(path, "dumps", "f", "", dumpsUsage)
}

// filed reads nodes from files. What is old or ends is then judged by when the youngest of
// them was taken, and that is said.
func (c *command) filed(cmd *cobra.Command) ([]fleet.Node, error) {
	if err := c.from.check(); err != nil {
		return nil, err
	}
	if other := cmp.Or(c.from.given(ofKubernetes), c.from.given(ofMachines)); other != "" {
		return nil, fmt.Errorf("%s says where to look, and so does --dumps: give one of both", other)
	}
	if c.dumps == "" {
		return nil, errors.New("--dumps is empty: leave the flag out to ask nodes")
	}
	nodes, err := fleet.Files(c.dumps)
	if err != nil {
		return nil, fmt.Errorf("--dumps: %v", err)
	}
	c.warnTwice(nodes)
	var taken time.Time
	for _, n := range nodes {
		if n.Taken.After(taken) {
			taken = n.Taken
		}
	}
	if !taken.IsZero() {
		c.Now = func() time.Time { return taken }
		fmt.Fprintf(c.Stderr, "culvert: as of %s\n", stamp(taken))
	}
	return nodes, nil
}
