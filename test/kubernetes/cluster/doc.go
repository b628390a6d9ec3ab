// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes of two nodes on one Linux machine, in
// namespaces. Every program of it is the real one; only the two machines are not.
//
//	cluster up           builds the programs, starts the supervisor and leaves
//	└─ supervisor        pid 1 of the cluster; its network is the control plane's
//	   ├─ etcd, kube-apiserver, kube-controller-manager, kube-scheduler
//	   ├─ node1          pid 1 of a machine: network, mounts, host name and cgroups of its own
//	   │  ├─ containerd, kubelet, kube-proxy
//	   │  └─ pods
//	   └─ node2
//
// A node's file system is a private overlay of this machine's root: what is written in
// it lands in the cluster's directory. The network is a bridge in the supervisor's netns
// with a veth to each node; nothing leads out of it but a relay from a port of this
// machine's loopback to the API server, for kubectl. Nodes, pods and Services have IPv4
// and IPv6; the API server and CoreDNS are reached by IPv4.
//
// A program that ends is started again a second later, as systemd does on a machine. So is
// a node: killing its pid 1 is switching the machine off and on.
//
// All mounts, network namespaces and processes belong to namespaces that begin with the
// supervisor, so the kernel removes them when it dies, however it dies. What remains is
// the cluster's directory and its cgroups: Down and the next Up remove both. A supervisor
// that has not been told to stay dies with the command that started it.
package cluster
