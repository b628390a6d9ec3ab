// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/cni/install"
)

const uninstallUsage = `Usage: culvert-cni uninstall [flags]

Takes the plugin's entry out of all lists of plugins, waits 6 s for container
runtimes to read them anew, and removes the plugin's program. The program stays
while a sandbox is there that was started with the plugin, for CRI-O and Multus
cannot end it otherwise; another uninstall removes it then. Refused while culvert-cni
install runs on this node: delete its DaemonSet first.

Flags:
`

func defineRemoval(flags *flag.FlagSet, r *install.Removal) {
	places(flags, &r.Config)
	program.Var(flags, &r.CacheDir, "cache-dir", "/var/lib/cni", "`directory` in which libcni and Multus keep what sandboxes were started with, as it is seen here", absolute)
}

func runUninstall(args []string) {
	p := program.New("culvert-cni uninstall", uninstallUsage)
	var r install.Removal
	defineRemoval(p.Flags, &r)
	p.Parse(args, func() error { return nil })
	p.Run(func(ctx context.Context) error {
		c := installation{install: r.Config}
		if err := c.complete(p); err != nil {
			return err
		}
		r.Config = c.install
		return install.Uninstall(ctx, r)
	}, func(error) string { return "" })
}
