// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"time"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/cni/install"
)

const uninstallUsage = `Usage: culvert-cni uninstall [flags]

Takes the plugin's entry out of all lists of plugins, waits 6 s for container
runtimes to read them anew, and removes the plugin's program. The program stays
while a sandbox is there that was started with the plugin, for CRI-O and Multus
cannot end it otherwise; another uninstall removes it then, or this one by -stay.
Refused while culvert-cni install runs on this node: delete its DaemonSet first.

Flags:
`

// again is how often -stay looks.
const again = time.Minute

// removal is what the flags of uninstall say.
type removal struct {
	install.Removal
	stay bool
}

func (r *removal) define(flags *flag.FlagSet) {
	places(flags, &r.Config)
	program.Var(flags, &r.CacheDir, "cache-dir", "/var/lib/cni", "`directory` in which libcni and Multus keep what sandboxes were started with, as it is seen here", absolute)
	program.Switch(flags, &r.stay, "stay", "do it again every minute until SIGTERM: for a DaemonSet, whose containers are started again when they end")
}

func runUninstall(args []string) {
	p := program.New("culvert-cni uninstall", uninstallUsage)
	var r removal
	r.define(p.Flags)
	p.Parse(args, func() error { return nil })
	p.Run(func(ctx context.Context) error {
		c := installation{install: r.Config}
		if err := c.complete(p); err != nil {
			return err
		}
		r.Config = c.install
		return r.run(ctx)
	}, func(error) string { return "" })
}

func (r *removal) run(ctx context.Context) error {
	for {
		if err := install.Uninstall(ctx, r.Removal); err != nil || !r.stay {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}
