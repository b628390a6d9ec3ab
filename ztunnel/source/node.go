// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// nodes are the nodes' own addresses by the nodes' names, each with the number of
// objects that tell it: a pod tells those of its node, where there is no Node.
type nodes struct {
	told    map[string]map[netip.Addr]int
	own     map[string][]netip.Addr // what the Node objects tell
	zones   map[string]string       // what they are labelled with
	changed bool
	list    []workload.Node // sorted; of before changed
}

func newNodes() nodes {
	return nodes{told: map[string]map[netip.Addr]int{}, own: map[string][]netip.Addr{}, zones: map[string]string{}}
}

// setNode takes what a Node object tells; nil: it is gone.
func (n *nodes) setNode(name string, addrs []netip.Addr, zone string) {
	n.add(name, addrs)
	n.remove(name, n.own[name])
	if n.own[name] = addrs; addrs == nil {
		delete(n.own, name)
	}
	n.changed = n.changed || n.zones[name] != zone
	if n.zones[name] = zone; zone == "" {
		delete(n.zones, name)
	}
}

func (n *nodes) add(name string, addrs []netip.Addr) {
	for _, addr := range addrs {
		if n.told[name] == nil {
			n.told[name] = map[netip.Addr]int{}
		}
		n.told[name][addr]++
		n.changed = n.changed || n.told[name][addr] == 1
	}
}

func (n *nodes) remove(name string, addrs []netip.Addr) {
	for _, addr := range addrs {
		if n.told[name][addr]--; n.told[name][addr] == 0 {
			delete(n.told[name], addr)
			n.changed = true
		}
	}
	if len(n.told[name]) == 0 {
		delete(n.told, name)
	}
}

// sorted returns nodes by name, the addresses of each in order.
func (n *nodes) sorted() []workload.Node {
	if n.changed {
		n.changed, n.list = false, nil
		names := slices.Concat(sortedKeys(n.told), sortedKeys(n.zones))
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			addrs := slices.SortedFunc(maps.Keys(n.told[name]), netip.Addr.Compare)
			n.list = append(n.list, workload.Node{Name: name, Zone: n.zones[name], Addrs: addrs})
		}
	}
	return slices.Clone(n.list)
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
