// SPDX-License-Identifier: Apache-2.0

// Package pods is the life of a pod on this node: how its sandbox becomes
// known, enters the mesh, is verified against the kernel, outlives a restart of
// ztunnel, and ends.
//
//	pods.go       every sandbox, brought to what its labels say
//	enroll.go     answers to the CNI plugin
//	member.go     one pod in the mesh: the steps that carry, the steps that steer
//	addresses.go  the addresses that its netns holds now
//	routes.go     the routing of its netns
//	carrier.go    the proxies of a member
//	takeover.go   what an earlier run left; which netns is still there
//	sandbox.go    records on disk
//	proc.go       sandboxes that only /proc knows
//	neighbours.go members that others of the node reach without a tunnel
package pods
