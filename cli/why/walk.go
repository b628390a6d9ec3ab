// SPDX-License-Identifier: Apache-2.0

package why

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// walk is one connection on its way, and what its steps have found out so far.
type walk struct {
	*World
	ctx context.Context
	src source
	dst destination
	way *way // the endpoint of a Service that it is led to; nil: any

	peer   *workload.Workload // whom the source's node expects; nil: outside the mesh, or not known
	target netip.AddrPort     // of the app
	plain  string             // why the connection is plaintext; empty: it is in mutual TLS

	dstNode *fleet.Node  // the destination's own if it answered; else nil
	tried   *fleet.Proof // of a tunnel, by the source's node; nil: it was not asked
	reach   error        // why it was not
}

// podState is what the node of a pod says of its sandbox.
func podState(n *fleet.Node, uid string) (fleet.Pod, bool) {
	p, has := n.Dump.Pods[uid]
	return p, has
}

func (k *walk) theSource() Step {
	pod := k.src.pod
	switch {
	case pod == nil:
		k.plain = "the source is no pod of the mesh"
		return ok("%v is no pod that is known: it connects in plaintext", k.src.addr).by(k.World, k.src.view)
	case pod.Undecided:
		return fault(fmt.Sprintf("Namespace %s or Pod %v: the label culvert.dev/mesh, enabled or disabled", pod.Namespace, pod),
			"no label says whether %v is in the mesh, or one means nothing", pod).by(k.World, k.src.view)
	case !pod.Meshed:
		k.plain = "the source is not in the mesh"
		return ok("%v on %s is not in the mesh: it connects in plaintext", pod, pod.Node).because(pod.Unsteerable).by(k.World, k.src.view)
	}
	return ok("%v on %s, %v", pod, pod.Node, pod.ID).because(listed("addresses", pod.Addrs)).by(k.World, k.src.view)
}

func listed(what string, addrs []netip.Addr) string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return what + " " + strings.Join(all, ", ")
}

func (k *walk) sourceSteered() Step {
	if k.src.pod == nil || !k.src.pod.Meshed {
		return notNeeded("it is not steered: it is not in the mesh")
	}
	return k.steered(k.src.pod)
}

func (k *walk) destinationSteered() Step {
	if k.peer == nil || !k.peer.Meshed {
		return notNeeded("the destination is not in the mesh")
	}
	if k.peer.IsForeign() {
		return notNeeded("%v is of another mesh: its ztunnel shows itself in the tunnel", k.peer.ID)
	}
	if n := k.node(k.peer.Node); n != nil && n.Problem == "" {
		k.dstNode = n
	}
	return k.steered(k.peer)
}

// steered is whether ztunnel has a pod, and the kernel steers it.
func (k *walk) steered(pod *workload.Workload) Step {
	n := k.node(pod.Node)
	if n == nil || n.Problem != "" {
		return k.nodeSilent(n, pod)
	}
	state, has := podState(n, pod.UID)
	pods := "Pod " + pod.String()
	switch {
	case !has && !knows(n, pod):
		return fault("what "+n.Name+" reads of the API server or of -workloads (source of its /config_dump)", "%s does not know %v", n.Name, pod).by(k.World, n)
	case !has:
		return fault(pods+": restart it; if it stays so, culvert-cni on "+n.Name, "ztunnel on %s has no sandbox of %v", n.Name, pod).by(k.World, n)
	case state.State == "unprotected":
		return fault("ztunnel on "+n.Name+": -cgroup must be above the cgroup of "+pods, "%v is enrolled, and the hooks do not see its processes: %s", pod, state.Reason).by(k.World, n)
	case state.State != "enrolled":
		return fault(pods+": its state on "+n.Name+" is "+state.State, "%v is %s: %s", pod, state.State, state.Reason).by(k.World, n)
	}
	if s := n.Dump.Steering; s != nil && s.Problem != "" {
		return fault("ztunnel on "+n.Name+": what it says of its steering", "steering is not sound: %s", s.Problem).by(k.World, n)
	}
	return k.inKernel(n, pod, state)
}

// knows reports whether a node has read of a pod.
func knows(n *fleet.Node, pod *workload.Workload) bool {
	return slices.ContainsFunc(n.Dump.Workloads, func(w workload.Workload) bool { return w.UID == pod.UID })
}

// inKernel asks the kernel now, or goes by when ztunnel did last.
func (k *walk) inKernel(n *fleet.Node, pod *workload.Workload, state fleet.Pod) Step {
	repairs := k.repairs(n, pod)
	if p, err := k.probe(n, fleet.Question{Pod: pod.UID}); err == nil && p.Kernel != nil {
		if !p.Kernel.OK {
			return fault("ztunnel on "+n.Name+": whoever removes its hooks there; ztunnel restores them within 5 s",
				"the kernel does not steer %v: %s", pod, p.Kernel.Error).because(repairs...).by(k.World, n)
		}
		if state.Reason != "" { // it was asked for links, programs and maps now, and for the rest before
			return unknown("the hooks are there, and the rest is not confirmed: %s", state.Reason).because(repairs...).by(k.World, n)
		}
		return ok("the kernel says now that it steers %v", pod).because(repairs...).by(k.World, n)
	}
	switch {
	case state.Reason != "":
		return unknown("%v is enrolled, and the kernel does not confirm it: %s", pod, state.Reason).because(repairs...).by(k.World, n)
	case state.Verified.IsZero():
		return unknown("%v is enrolled; when the kernel confirmed it is not said", pod).because(repairs...).by(k.World, n)
	case undated(n):
		return unknown("the kernel said at %s that it steers %v; it is not said when that was read", stamp(state.Verified), pod).because(older).by(k.World, n)
	case k.at(n).Sub(state.Verified) > stale:
		return unknown("the kernel said at %s that it steers %v, and not since", stamp(state.Verified), pod).because(repairs...).by(k.World, n)
	}
	return ok("the kernel said at %s that it steers %v", stamp(state.Verified), pod).because(repairs...).by(k.World, n)
}

// repairs are those of the last minutes that concern a pod.
func (k *walk) repairs(n *fleet.Node, pod *workload.Workload) (all []string) {
	if n.Dump.Steering == nil {
		return nil
	}
	for _, r := range n.Dump.Steering.Repairs {
		if r.Pod == "" || r.Pod == pod.String() {
			all = append(all, fmt.Sprintf("at %s %s, and ztunnel restored it", stamp(r.At), r.What))
		}
	}
	return all[max(0, len(all)-3):]
}

// nodeSilent is of a pod whose node did not answer, or was not asked. A ztunnel that is
// gone refuses what its pods open, and what is opened to them.
func (k *walk) nodeSilent(n *fleet.Node, pod *workload.Workload) Step {
	var silent []*fleet.Node
	if n != nil {
		silent = append(silent, n)
	} else { // outside Kubernetes a silent one has no name
		for i := range k.Nodes {
			if k.Nodes[i].Problem != "" {
				silent = append(silent, &k.Nodes[i])
			}
		}
	}
	if len(silent) == 0 && slices.ContainsFunc(k.Nodes, func(n fleet.Node) bool { return n.Pod != "" }) {
		return fault("the DaemonSet of ztunnel: it has no pod on "+pod.Node, "no ztunnel is on %s, where %v is", pod.Node, pod) // Kubernetes lists all
	}
	if len(silent) == 0 {
		return unknown("ztunnel on %s, where %v is, was not asked", pod.Node, pod)
	}
	var problems []string
	gone := true
	for _, n := range silent {
		problems = append(problems, n.Name+": "+n.Problem)
		gone = gone && nobodyListens(n.Problem)
	}
	if !gone {
		return unknown("ztunnel on %s, where %v is, does not answer", pod.Node, pod).because(problems...)
	}
	return fault(ztunnelOf(n, pod.Node), "ztunnel on %s, where %v is, does not run: %s", pod.Node, pod, strings.Join(problems, "; "))
}

// absent is the end of a problem that only a ztunnel which does not run has: nobody listens
// at its socket, or on loopback at its port. Others refuse connections too: the API server
// tells of a kubelet that is down, and an address may be the wrong one.
var absent = regexp.MustCompile(`(^dial unix .+: connect: (connection refused|no such file or directory)|` +
	`\bdial tcp[46]? (127\.0\.0\.1|\[::1\]|localhost):15000: connect: connection refused)$`)

// nobodyListens reports whether a problem is that the program is not there.
func nobodyListens(problem string) bool { return absent.MatchString(problem) }

// ztunnelOf names the object that runs ztunnel on a node.
func ztunnelOf(n *fleet.Node, node string) string {
	if n != nil && n.Pod != "" {
		return "Pod " + n.Pod + ": ztunnel on " + node
	}
	return "ztunnel on " + node + ": start it"
}

func (k *walk) theDestination() Step {
	d := k.dst
	if !d.addr.Addr().IsValid() {
		return ok("Service %s/%s, whose names lead to its pods", d.service.Namespace, d.service.Name).by(k.World, k.src.view) // the next step says that there are none
	}
	if !d.from.IsValid() {
		return fault(fmt.Sprintf("an address of the family of %v for %s", d.addr.Addr(), k.src.text), "%s has no address of the family of %v", k.src.text, d.addr.Addr()).by(k.World, k.src.view)
	}
	if k.src.view.Dump.Mesh == nil && len(k.src.view.Dump.Config.MeshCIDRs) == 0 && d.pod == nil && d.service == nil {
		k.plain = "where it leads is not known"
		return unknown("nobody known has %v, and %s does not say which addresses are of the mesh", d.addr, k.src.view.Name).by(k.World, k.src.view)
	}
	found, err := registry(k.src.view, k.src.node()).Resolve(d.from, d.addr)
	switch {
	case d.service == nil && (errors.Is(err, workload.ErrNoEndpoint) || errors.Is(err, workload.ErrSource)): // by a port of a node
		return fault("the Service that the error names", "%v", err).by(k.World, k.src.view)
	case errors.Is(err, workload.ErrNoEndpoint):
		return ok("Service %s/%s", d.service.Namespace, d.service.Name).by(k.World, k.src.view) // the next step says what of it
	case errors.Is(err, workload.ErrSource):
		return fault(fmt.Sprintf("Service %s/%s: spec.loadBalancerSourceRanges", d.service.Namespace, d.service.Name), "%v", err).by(k.World, k.src.view)
	case err != nil && d.pod != nil:
		return fault(fmt.Sprintf("Namespace %s or Pod %v: the label culvert.dev/mesh, enabled or disabled", d.pod.Namespace, d.pod), "%v", err).by(k.World, k.src.view)
	case err != nil && strings.Contains(err.Error(), "-foreign-workloads"):
		return fault("the file of -foreign-workloads of "+k.src.view.Name, "%v", err).by(k.World, k.src.view)
	case err != nil:
		return fault(fmt.Sprintf("the Pod or EndpointSlice that should have %v; or -mesh-cidrs of ztunnel, which hold it", d.addr.Addr()), "%v", err).by(k.World, k.src.view)
	}
	k.resolved(found)
	return k.isThere().by(k.World, k.src.view)
}

// resolved notes where the source's node leads the connection.
func (k *walk) resolved(d workload.Destination) {
	k.target = d.Target
	if k.way != nil {
		k.target = k.way.target
		d.Peer = &workload.Workload{}
		for i := range k.src.view.Dump.Workloads {
			if w := &k.src.view.Dump.Workloads[i]; !w.Terminated && !w.HostNetwork && slices.Contains(w.Addrs, k.target.Addr()) {
				d.Peer = w
			}
		}
		if there, err := registry(k.src.view, k.src.node()).Resolve(k.dst.from, k.target); err == nil && there.Peer.IsForeign() {
			d.Peer = there.Peer
		}
	}
	if d.Peer.UID != "" || d.Peer.IsForeign() {
		k.peer = d.Peer
	}
	if k.peer == nil || !k.peer.Meshed {
		k.plain = "the destination is not in the mesh"
	}
}

// isThere is the step of a destination that resolves.
func (k *walk) isThere() Step {
	switch {
	case k.peer != nil && k.target.Port() == workload.HBONEPort && k.peer.Meshed:
		return fault("the client: port 15008 of a pod in the mesh is ztunnel's own", "%v is ztunnel's own port", k.target)
	case k.dst.service != nil:
		return ok("Service %s/%s", k.dst.service.Namespace, k.dst.service.Name)
	case k.peer == nil:
		return ok("%v is outside the mesh: the connection leaves in plaintext", k.target)
	case k.peer.IsForeign():
		return ok("%v of another trust domain, by -foreign-workloads", k.peer.ID)
	case !k.peer.Meshed:
		return ok("%v on %s is not in the mesh: the connection leaves in plaintext", k.peer, k.peer.Node).because(k.peer.Unsteerable)
	}
	return ok("%v on %s, %v", k.peer, k.peer.Node, k.peer.ID)
}

func (k *walk) endpoint() Step {
	s := k.dst.service
	if s == nil {
		return notNeeded("no Service was asked for")
	}
	err := workload.ErrNoEndpoint
	if k.dst.addr.Addr().IsValid() {
		_, err = registry(k.src.view, k.src.node()).Resolve(k.dst.from, k.dst.addr)
	}
	if err != nil {
		return fault(k.whatLacks(s), "%v", err).because(k.unready(s)...).by(k.World, k.src.view)
	}
	who := k.target.String() + ", which is no pod that is known"
	switch {
	case k.peer == nil:
	case k.peer.IsForeign():
		who = fmt.Sprintf("%v of another trust domain (%v)", k.peer.ID, k.target)
	default:
		who = fmt.Sprintf("%v on %s (%v)", k.peer, k.peer.Node, k.target)
	}
	all := 0
	for _, p := range s.Ports {
		if p.Port == k.dst.addr.Port() {
			all = len(p.Endpoints)
		}
	}
	return ok("one of %d endpoints: %s", all, who).by(k.World, k.src.view)
}

// whatLacks is what of a Service, or of its pods, has a connection lead nowhere.
func (k *walk) whatLacks(s *workload.Service) string {
	name := fmt.Sprintf("Service %s/%s", s.Namespace, s.Name)
	for _, p := range s.Ports {
		if p.Port != k.dst.addr.Port() {
			continue
		}
		if len(p.Endpoints) > 0 && s.InternalLocal {
			return name + ": spec.internalTrafficPolicy, or a pod of it on " + k.src.node()
		}
		return name + ": spec.selector, or the readiness of its pods (its EndpointSlices)"
	}
	return name + ": spec.ports"
}

// unready names pods of the Service's namespace that are not ready: which of them are
// behind it nobody says.
func (k *walk) unready(s *workload.Service) (all []string) {
	var names []string
	for i := range k.src.view.Dump.Workloads {
		if w := &k.src.view.Dump.Workloads[i]; w.Namespace == s.Namespace && !w.Ready && !w.Terminated {
			names = append(names, w.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []string{fmt.Sprintf("not ready in namespace %s: %s", s.Namespace, strings.Join(names[:min(len(names), 5)], ", "))}
}
