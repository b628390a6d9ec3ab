// SPDX-License-Identifier: Apache-2.0

// Package pods is the life of a pod on this node: how its sandbox becomes
// known, enters the mesh, is verified against the kernel, outlives a restart of
// ztunnel, and ends.
//
//	pods.go       every sandbox of the node, from Run to its drain
//	rounds.go     one look at every sandbox, none of which holds up the others
//	enroll.go     answers to the CNI plugin
//	claim.go      what the plugin says of a sandbox, checked and recorded
//	sandbox.go    records on disk
//	proc.go       sandboxes that only /proc knows
//	takeover.go   what an earlier run left; which netns is still there
//	converge.go   a pod joins, leaves or ends, as its labels and the kernel say
//	steps.go      steps in order, undone in reverse
//	member.go     one pod in the mesh: the steps that carry, the steps that steer
//	carrier.go    the proxies of a member
//	foreign.go    what proves a tunnel to another trust domain
//	alive.go      records of connections that stay open
//	addresses.go  the addresses that its netns holds now
//	routes.go     the routing of its netns
//	forwarding.go whether its netns forwards to another
//	hooks.go      whether its processes run where the hooks are
//	probes.go     warnings about probes that name another host
//	verify.go     the kernel, asked again and again whether all of that is still so
//	repairs.go    what another hand removed and verify.go restored
//	try.go        what an operator has a pod try: the kernel, a tunnel, its app
//	neighbours.go members that others of the node reach without a tunnel
//	status.go     what metrics, readiness and a dump say of pods
//	condition.go  what users are told of each pod
//	snapshot.go   the namespaces that the plugin goes by while ztunnel is away
//	log.go        the keys of log attributes
package pods
