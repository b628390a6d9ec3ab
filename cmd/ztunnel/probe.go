// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/url"
	"os"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/ztunnel"
)

const probeUsage = `Usage: ztunnel probe -pod UID [flags]

Has the ztunnel of this node try something for one of its pods, and prints what came of
it, in JSON: whether the kernel steers the pod at this moment; with -peer, whether a
tunnel to there proves both ends and answers a PING; with -app, whether the pod's app
accepts a connection, on which nothing is sent. It asks on the socket in -state-dir,
which only root can reach. culvert why runs this on the nodes of a cluster.

Flags:
`

func probe(args []string) {
	p := program.New("ztunnel probe", probeUsage)
	values := map[string]*string{}
	word := func(name, usage string) {
		values[name] = new(string)
		program.Var(p.Flags, values[name], name, "", usage, program.Word)
	}
	var dir string
	word("pod", "`UID` of the pod; required")
	word("peer", "`address` to which a tunnel is tried, as 10.1.2.3:15008")
	word("identity", "SPIFFE `ID` that the peer must prove to have; required with -peer")
	word("app", "`address` of the pod to which a connection is tried, as 10.1.2.3:80")
	word("client", "`address` from which the app sees it come; required with -app")
	program.Var(p.Flags, &dir, "state-dir", "/run/culvert", "`directory` that ztunnel has as -state-dir", program.Path)
	p.Parse(args, func() error {
		if *values["pod"] == "" {
			return errors.New("-pod is required")
		}
		return nil
	})
	p.Run(func(ctx context.Context) error {
		query := url.Values{}
		for name, value := range values {
			if *value != "" {
				query.Set(name, *value)
			}
		}
		answer, err := ztunnel.Probe(ctx, dir, query)
		if err == nil {
			_, err = os.Stdout.Write(answer)
		}
		return err
	}, func(error) string {
		if os.Geteuid() != 0 {
			return "only root reaches ztunnel's socket"
		}
		return ""
	})
}
