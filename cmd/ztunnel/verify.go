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

const verifyUsage = `Usage: ztunnel verify -do STEP [flags]

Has the ztunnel of this node do one step of a trial, and prints what came of it, in JSON.
begin watches the devices of the node, and of a pod, for packets with a mark between two
addresses; send connects from the pod, as an app there does, and sends the mark; await
waits until it has come; end says what was seen. A trial ends by itself after 30 s. It asks
on the socket in -state-dir, which only root can reach. culvert verify runs this on the
nodes of a cluster.

Flags:
`

func verify(args []string) {
	p := program.New("ztunnel verify", verifyUsage)
	values := map[string]*string{}
	word := func(name, usage string) {
		values[name] = new(string)
		program.Var(p.Flags, values[name], name, "", usage, program.Word)
	}
	var dir string
	word("do", "`step`: begin, send, await or end; required")
	word("pod", "`UID` of the pod that is watched, with begin (default none: the node alone)")
	word("pair", "`addresses` of both ends, as 10.1.2.3,10.1.3.4; required with begin")
	word("mark", "`text` of 16 to 256 bytes that stands nowhere else; required with begin")
	word("id", "`name` of the trial, as begin said it; required with the other steps")
	word("to", "`address` to connect to, as 10.1.3.4:80; required with send")
	program.Var(p.Flags, &dir, "state-dir", "/run/culvert", "`directory` that ztunnel has as -state-dir", program.Path)
	p.Parse(args, func() error {
		if *values["do"] == "" {
			return errors.New("-do is required")
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
		answer, err := ztunnel.Verify(ctx, dir, query)
		if err == nil {
			_, err = os.Stdout.Write(answer)
		}
		return err
	}, notRoot)
}
