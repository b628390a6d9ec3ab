// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/culvert-mesh/culvert/ztunnel"

const probeUsage = `Usage: ztunnel probe -pod UID [flags]

Has the ztunnel of this node try something for one of its pods, and prints what came of
it, in JSON: whether the kernel steers the pod at this moment; with -peer, whether a
tunnel to there proves both ends and answers a PING; with -app, whether the pod's app
accepts a connection, on which nothing is sent. It asks on the socket in -state-dir,
which only root can reach. culvert why runs this on the nodes of a cluster.

Flags:
`

func probe(args []string) {
	question{
		name: "probe", usage: probeUsage, needs: "pod", ask: ztunnel.Probe,
		words: [][2]string{
			{"pod", "`UID` of the pod; required"},
			{"peer", "`address` to which a tunnel is tried, as 10.1.2.3:15008"},
			{"identity", "SPIFFE `ID` that the peer must prove to have; required with -peer"},
			{"app", "`address` of the pod to which a connection is tried, as 10.1.2.3:80"},
			{"client", "`address` from which the app sees it come; required with -app"},
		},
	}.put(args)
}
