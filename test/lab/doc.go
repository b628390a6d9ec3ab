// SPDX-License-Identifier: Apache-2.0

// Package lab builds a small cluster on one machine: nodes and pods are
// network namespaces, everything that runs in them is real. The kernel steers,
// libcni calls the plugins, the CA issues, and a wire between the nodes can be
// listened to.
//
//	outside        infra: CA
//	   |              |
//	   +---- wire ----+-------------+          10.77.0.0/24  fd77::/64, a bridge in a netns
//	         |                      |
//	   node1: ztunnel,        node2: ...
//	   plugins, kubelet
//	     |        |
//	   pod      pod                            10.77.N.0/24  fd77:N::/64, by ptp or bridge
//
// A Lab is made by New, as root, and all of it is gone after Close: processes,
// cgroups, netns with their devices, mounts, files. What a killed test leaves
// behind is removed by the next New, see Sweep.
//
// Whatever connects must do so in a process of its own place, since steering
// goes by cgroup and netns: see the agent of Pod, Node and Outside. There is no
// kube-proxy: a Service's address works from enrolled pods only.
package lab
