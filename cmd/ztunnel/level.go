// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/ztunnel"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
)

const levelUsage = `Usage: ztunnel log {-level LEVEL | -reset} [flags]

Has the ztunnel of this node, or scopes of its log, log from another level on, and prints
the levels of all scopes. A restart of ztunnel forgets that. It asks on the socket in
-state-dir, which only root can reach.
culvert log runs this on the nodes of a cluster.

Flags:
`

func logging(args []string) {
	p := program.New("ztunnel log", levelUsage)
	var level, dir string
	var reset bool
	program.Var(p.Flags, &level, "level", "", "`level` from which on records are logged: debug, info, warn or error; or of scopes, as certs=debug,pods=warn, of which there are "+strings.Join(loglevel.Scopes(), ", ")+"; this or -reset is required", func(s string) (string, error) { return s, loglevel.Check(s) })
	program.Switch(p.Flags, &reset, "reset", "go back to the level that ztunnel was started with")
	program.Var(p.Flags, &dir, "state-dir", "/run/culvert", "`directory` that ztunnel has as -state-dir", program.Path)
	p.Parse(args, func() error {
		if reset == (level != "") {
			return errors.New("-level or -reset is required, and not both")
		}
		return nil
	})
	p.Run(func(ctx context.Context) error {
		answer, err := ztunnel.SetLevel(ctx, dir, level)
		if err == nil {
			_, err = os.Stdout.Write(answer)
		}
		return err
	}, notRoot)
}

func notRoot(error) string {
	if os.Geteuid() != 0 {
		return "only root reaches ztunnel's socket"
	}
	return ""
}
