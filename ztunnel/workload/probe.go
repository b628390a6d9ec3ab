// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"slices"
)

// ForeignProbe is what the kubelet connects to on behalf of a pod and that is
// not the pod itself: httpGet.host or tcpSocket.host of a probe.
type ForeignProbe struct {
	Host string     // as it is written
	Addr netip.Addr // of Host; the zero Addr: it is a name, which may lead anywhere
	Port uint16
}

// TakenProbe is a port whose probes are exempt from policy no more.
type TakenProbe struct {
	Port uint16
	By   string // the pod whose probe names it, "namespace/name"
}

func (w *Packed) probesOthers() bool { return len(w.ForeignProbes) > 0 && !w.Terminated }

// probingOthers returns the pods with such probes, by their nodes: those of one node,
// if it is known.
func probingOthers(workloads []*Packed, node string) map[string][]*Packed {
	out := map[string][]*Packed{}
	for _, w := range workloads {
		if w.probesOthers() && (node == "" || w.Node == node) {
			out[w.Node] = append(out[w.Node], w)
		}
	}
	return out
}

// privateTakers returns workloads, in which those that takeProbes may write to are
// nobody else's.
func privateTakers(workloads []*Packed, node string) []*Packed {
	foreign := probingOthers(workloads, node)
	if len(foreign) == 0 {
		return workloads
	}
	out := slices.Clone(workloads)
	for i, w := range out {
		if len(foreign[w.Node]) > 0 && len(w.ProbePorts) > 0 {
			out[i] = w.private()
		}
	}
	return out
}

// takeProbes takes from workloads the exemptions that a probe of another pod
// would use. To the kernel all connections of a kubelet are alike: where the
// kubelet carries another pod's request to a port, every probe of that port has
// to pass the pod's policy. The other pod could else have the kubelet say to a
// STRICT pod what it may not say itself.
func (idx *index) takeProbes() {
	foreign := probingOthers(idx.mesh.Workloads, idx.here.node)
	if len(foreign) == 0 {
		return
	}
	for _, w := range idx.mesh.Workloads {
		for _, other := range foreign[w.Node] {
			if other.UID != w.UID && len(w.ProbePorts) > 0 {
				idx.take(w, other)
			}
		}
	}
}

// take takes the ports of w that the probes of other may reach.
func (idx *index) take(w, other *Packed) {
	for _, p := range other.ForeignProbes {
		if !slices.Contains(w.ProbePorts, p.Port) || !idx.mayLead(p.Addr, w) {
			continue
		}
		w.ProbePorts = slices.DeleteFunc(slices.Clone(w.ProbePorts), func(port uint16) bool { return port == p.Port })
		w.TakenProbes = append(w.TakenProbes, TakenProbe{p.Port, other.String()})
	}
}

// mayLead reports that an address may be the pod's: it is, or nobody is known to
// have it, so that it may be one of a second network.
func (idx *index) mayLead(addr netip.Addr, w *Packed) bool {
	return slices.Contains(w.Addrs, addr) || idx.addr(addr) == nil && idx.maybePod(addr)
}

// maybePod reports that an address is not known to be a node's or a service's.
func (idx *index) maybePod(addr netip.Addr) bool {
	_, node := idx.nodes[addr]
	return !node && idx.vips[addr] == nil && idx.lbs[addr] == nil
}

// ProbingOthers returns the pods of a node, those in its own network namespace
// too, of which a probe may lead to another pod. Their ForeignProbes are those
// that may.
func (r *Registry) ProbingOthers(node string) []Workload {
	var out []Workload
	idx := r.index.Load()
	for _, packed := range idx.mesh.Workloads {
		if packed.Node != node || !packed.probesOthers() {
			continue
		}
		w := packed.Workload()
		w.ForeignProbes = slices.DeleteFunc(slices.Clone(w.ForeignProbes), func(p ForeignProbe) bool { return !idx.maybePod(p.Addr) })
		if len(w.ForeignProbes) > 0 {
			out = append(out, w)
		}
	}
	return out
}
