// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// nodeAddrs are the nodes' own addresses by the nodes' names. A pod tells those
// of its node, where there is no Node object.
type nodeAddrs map[string][]netip.Addr

func (n nodeAddrs) add(name string, addrs []netip.Addr) {
	for _, addr := range addrs {
		if !slices.Contains(n[name], addr) {
			n[name] = append(n[name], addr)
		}
	}
}

func (n nodeAddrs) sorted() []workload.Node {
	var out []workload.Node
	for _, name := range sortedKeys(n) {
		slices.SortFunc(n[name], netip.Addr.Compare)
		out = append(out, workload.Node{Name: name, Addrs: n[name]})
	}
	return out
}

// ownAddrs leaves out names, by which nobody connects to a node's ports here.
func ownAddrs(node *corev1.Node) []netip.Addr {
	var texts []string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			texts = append(texts, a.Address)
		}
	}
	return parseAddrs(texts)
}

// hostPorts are the node's ports that lead to the pod. In the node's own network
// namespace they are the pod's ports themselves.
func hostPorts(pod *corev1.Pod) []workload.HostPort {
	if pod.Spec.HostNetwork {
		return nil
	}
	var out []workload.HostPort
	for _, c := range longRunning(pod) {
		for _, p := range c.Ports {
			port, ok := portNumber(p.HostPort)
			to, toOK := portNumber(p.ContainerPort)
			if !ok || !toOK || !isTCP(p.Protocol) {
				continue
			}
			var at netip.Addr
			if p.HostIP != "" {
				addrs := parseAddrs([]string{p.HostIP})
				if len(addrs) == 0 {
					continue
				}
				at = addrs[0]
			}
			out = append(out, workload.HostPort{Addr: at, Port: port, To: to})
		}
	}
	return out
}
