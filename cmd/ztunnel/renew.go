// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/ztunnel"
)

const renewUsage = `Usage: ztunnel renew {-identities LIST | -all} [flags]

Has the ztunnel of this node renew certificates now, and prints what came of each, in
JSON. It asks on the socket in -state-dir, which only root can reach.
culvert certs renew runs this on the nodes of a cluster.

Flags:
`

func renew(args []string) {
	p := program.New("ztunnel renew", renewUsage)
	var identities []string
	var all bool
	var dir string
	program.Var(p.Flags, &identities, "identities", "", "comma-separated SPIFFE `IDs`, or namespace/name of ServiceAccounts; this or -all is required", program.List(program.Word))
	program.Switch(p.Flags, &all, "all", "renew those of all identities that the node holds")
	program.Var(p.Flags, &dir, "state-dir", "/run/culvert", "`directory` that ztunnel has as -state-dir", program.Path)
	p.Parse(args, func() error {
		if all == (len(identities) > 0) {
			return errors.New("-identities or -all is required, and not both")
		}
		return nil
	})
	p.Run(func(ctx context.Context) error {
		answer, err := ztunnel.Renew(ctx, dir, identities)
		if err == nil {
			_, err = os.Stdout.Write(answer)
		}
		return err
	}, notRoot)
}
