// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// versions are those of all that answered.
type versions struct {
	Client     string        `json:"client"`
	Go         string        `json:"go"`
	Nodes      []nodeVersion `json:"nodes"`
	Different  bool          `json:"different"` // nodes are not all of one version
	Unanswered []silence     `json:"unanswered"`
}

type nodeVersion struct {
	Node    string `json:"node"`
	Version string `json:"version"` // empty: an older ztunnel does not say it
}

// ownVersion is that of this program, and of the Go that built it.
func ownVersion() (version, goVersion string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", runtime.Version()
	}
	return info.Main.Version, info.GoVersion
}

func versionsOf(nodes []fleet.Node) versions {
	v := versions{Nodes: []nodeVersion{}, Unanswered: nonNil(unanswered(nodes, nil))}
	v.Client, v.Go = ownVersion()
	for _, n := range nodes {
		if n.Problem == "" {
			v.Nodes = append(v.Nodes, nodeVersion{n.Name, n.Dump.Version})
		}
	}
	v.Different = len(v.byVersion()) > 1
	return v
}

// byVersion is how many nodes are of each.
func (v versions) byVersion() map[string]int {
	by := map[string]int{}
	for _, n := range v.Nodes {
		by[n.Version]++
	}
	return by
}

func (c *command) version() *cobra.Command {
	var client bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of culvert and of all nodes",
		Long: `version shows of which version culvert is, and how many nodes are of which; -o wide names
each node. With --client it asks nobody.

The exit code is 2 if a node did not answer.`,
		Example: "  culvert version\n  culvert version --client",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "wide", "json")
	cmd.Flags().BoolVar(&client, "client", false, "only that of this program")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var v versions
		if client {
			v = versionsOf(nil)
		} else {
			nodes, err := c.nodes(cmd)
			if err != nil {
				return err
			}
			v = versionsOf(nodes)
		}
		failed := fail(len(v.Unanswered) > 0)
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, v), failed)
		}
		fmt.Fprintf(c.Stdout, "culvert %s %s\n", printable(cmp.Or(v.Client, "(unknown)")), v.Go)
		if client {
			return nil
		}
		var rows [][]string
		head := "VERSION|NODES"
		by := v.byVersion()
		for _, version := range slices.Sorted(maps.Keys(by)) {
			rows = append(rows, []string{cmp.Or(version, "(unknown)"), count(by[version])})
		}
		if out.value == "wide" {
			head, rows = "NODE|VERSION", nil
			for _, n := range v.Nodes {
				rows = append(rows, []string{n.Node, cmp.Or(n.Version, "(unknown)")})
			}
		}
		fmt.Fprintln(c.Stdout)
		if err := table(c.Stdout, head, rows); err != nil {
			return err
		}
		if v.Different {
			fmt.Fprintf(c.Stderr, "culvert: nodes are of %d versions\n", len(by))
		}
		return errors.Join(c.warnSilent(v.Unanswered), failed)
	}
	return cmd
}
