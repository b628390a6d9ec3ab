// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/culvert-mesh/culvert/ztunnel"

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
	question{
		name: "verify", usage: verifyUsage, needs: "do", ask: ztunnel.Verify,
		words: [][2]string{
			{"do", "`step`: begin, send, await or end; required"},
			{"pod", "`UID` of the pod that is watched, with begin (default none: the node alone)"},
			{"pair", "`addresses` of both ends, as 10.1.2.3,10.1.3.4; required with begin"},
			{"mark", "`text` of 16 to 256 bytes that stands nowhere else; required with begin"},
			{"id", "`name` of the trial, as begin said it; required with the other steps"},
			{"to", "`address` to connect to, as 10.1.3.4:80; required with send"},
		},
	}.put(args)
}
