// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// NotReadyTaint is the key of the taint that keeps pods off a Node whose ztunnel is not
// ready. ztunnel takes it off.
const NotReadyTaint = "culvert.dev/not-ready"

// place is where a pod runs, as its object tells.
type place struct {
	node         string // its name
	addrs        string // the node's own addresses, a space between two
	runtimeClass string
}

func newPlace(pod *corev1.Pod) unique.Handle[place] {
	addrs := []string{pod.Status.HostIP}
	for _, ip := range pod.Status.HostIPs {
		if ip.IP != pod.Status.HostIP {
			addrs = append(addrs, ip.IP)
		}
	}
	return unique.Make(place{pod.Spec.NodeName, strings.Join(addrs, " "), deref(pod.Spec.RuntimeClassName, "")})
}

// nodes are the nodes' own addresses: those that Node objects tell, and those that
// pods tell of their nodes, where there is no Node.
type nodes struct {
	told       map[unique.Handle[place]]int // how many pods tell it
	own        map[string][]netip.Addr      // what the Node objects tell
	localities localities                   // what they are labelled with
	changed    bool
	list       []workload.Node // sorted; of before changed
}

// localities are where nodes are, by name, of those that say so.
type localities map[string]workload.Locality

func newNodes() nodes {
	return nodes{told: map[unique.Handle[place]]int{}, own: map[string][]netip.Addr{}, localities: localities{}}
}

// localityOf is what the labels of a Node say.
func localityOf(node *corev1.Node) workload.Locality {
	return workload.Locality{Region: node.Labels[corev1.LabelTopologyRegion], Zone: node.Labels[corev1.LabelTopologyZone]}
}

// setNode takes what a Node object tells; nil: it is gone.
func (n *nodes) setNode(name string, addrs []netip.Addr, where workload.Locality) {
	n.changed = n.changed || n.localities[name] != where || !slices.Equal(n.own[name], addrs)
	if n.own[name] = addrs; addrs == nil {
		delete(n.own, name)
	}
	if n.localities[name] = where; where == (workload.Locality{}) {
		delete(n.localities, name)
	}
}

func (n *nodes) add(p unique.Handle[place]) {
	n.told[p]++
	n.changed = n.changed || n.told[p] == 1
}

func (n *nodes) remove(p unique.Handle[place]) {
	if n.told[p]--; n.told[p] == 0 {
		delete(n.told, p)
		n.changed = true
	}
}

// sorted returns nodes by name, the addresses of each in order.
func (n *nodes) sorted() []workload.Node {
	if n.changed {
		n.changed, n.list = false, nil
		addrs := map[string][]netip.Addr{}
		for name := range n.localities {
			addrs[name] = nil
		}
		for name, own := range n.own {
			addrs[name] = slices.Clone(own)
		}
		for told := range n.told {
			if p := told.Value(); p.addrs != "" {
				addrs[p.node] = append(addrs[p.node], parseAddrs(strings.Fields(p.addrs))...)
			}
		}
		for _, name := range sortedKeys(addrs) {
			slices.SortFunc(addrs[name], netip.Addr.Compare)
			where := n.localities[name]
			n.list = append(n.list, workload.Node{Name: name, Region: where.Region, Zone: where.Zone, Addrs: slices.Compact(addrs[name])})
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
