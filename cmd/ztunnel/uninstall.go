// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/ztunnel"
)

const uninstallUsage = `Usage: ztunnel uninstall [flags]

Takes off this node what ztunnel leaves there when it ends, so that pods stay
refused: hooks and maps that are pinned in -bpffs, and the files of -state-dir.
Refused while ztunnel runs, and while pods of the node or namespaces are in the
mesh: take them out by their labels first, while ztunnel runs. Needs root, and
none of ztunnel's capabilities but CAP_SYS_ADMIN.

Flags:
`

func uninstall(args []string) {
	p := program.New("ztunnel uninstall", uninstallUsage)
	var cfg ztunnel.Config
	places(p.Flags, &cfg)
	p.Parse(args, func() error { return nil })
	p.Run(func(context.Context) error { return ztunnel.Uninstall(cfg.BPFFS, cfg.StateDir) }, hint)
}
