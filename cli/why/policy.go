// SPDX-License-Identifier: Apache-2.0

package why

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/cli/explain"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// judge is the node whose policies count for the destination: its own, or the source's.
func (k *walk) judge() *fleet.Node {
	if k.dstNode != nil {
		return k.dstNode
	}
	return k.src.view
}

// connection is what policies are asked about. The destination is as its judge has it.
func (k *walk) connection() explain.Connection {
	dst := *k.peer
	for i := range k.judge().Dump.Workloads {
		if w := &k.judge().Dump.Workloads[i]; w.UID == dst.UID {
			dst = *w
		}
	}
	dst.Addrs = []netip.Addr{k.target.Addr()}
	from := &explain.Source{Addr: k.dst.from}
	if k.plain == "" && k.src.pod != nil {
		from.ID, from.Pod = k.src.pod.ID, k.src.pod
	}
	return explain.Connection{Dst: dst, Port: k.target.Port(), From: from}
}

func (k *walk) networkPolicy() Step {
	switch {
	case k.peer == nil || !k.peer.Meshed || k.itself():
		return notNeeded("ztunnel does not ask NetworkPolicies about it: the pod network does")
	case k.plain != "":
		return k.podNetwork()
	case k.peer.IsForeign():
		return unknown("NetworkPolicies are not asked here about a workload of another trust domain; what they refuse is in the access record")
	}
	n := k.judge()
	a := explain.Answer{Allowed: explain.Yes}
	a.AskNetwork(network(n.Dump), k.connection())
	var rows []string
	for _, i := range a.Network {
		rows = append(rows, fmt.Sprintf("NetworkPolicy %s isolates %s (%s, mode %s): %s", i.Policy, i.Pod, i.Direction, i.Mode, admits(i)))
	}
	switch {
	case a.NetworkNotAsked != "":
		return unknown("%s", a.NetworkNotAsked).by(k.World, n)
	case a.Allowed == explain.No:
		return fault(a.By+": a rule that admits it", "%s: %s", a.By, a.Why).because(rows...).by(k.World, n)
	case a.Allowed == explain.Open:
		return unknown("%s", a.Why).because(rows...).by(k.World, n)
	case len(rows) == 0:
		return ok("no NetworkPolicy isolates either end").by(k.World, n)
	}
	return ok("NetworkPolicies admit it, or their namespace does not enforce them").because(rows...).by(k.World, n)
}

// podNetwork is whether plaintext comes to a pod in the mesh. NetworkPolicies on its way
// are the pod network's, and nobody of the mesh can ask that. Only a connection that came
// proves it: the app is tried on its own node.
func (k *walk) podNetwork() Step {
	if n := k.dstNode; n != nil {
		state, _ := podState(n, k.peer.UID)
		for _, c := range state.Connections.Inbound {
			src, err := netip.ParseAddrPort(c.Src)
			if err == nil && src.Addr().Unmap() == k.dst.from && c.ActualDst == k.target.String() {
				return ok("a connection from %v to %v is open", k.dst.from, k.target).by(k.World, n)
			}
		}
	}
	return unknown("%s: whether the pod network, and its NetworkPolicies, let it through from %v to %v nobody in the mesh knows", k.plain, k.dst.from, k.target)
}

func admits(i explain.Isolation) string {
	if i.Rule < 0 {
		return "no rule admits it"
	}
	return fmt.Sprintf("rule %d: %v", i.Rule, i.Admits)
}

// network is the NetworkPolicies of a node; nil: it does not say them.
func network(d fleet.Dump) *explain.Network {
	if d.Network == nil {
		return nil
	}
	n := &explain.Network{Policies: d.Network.Policies, Modes: d.Network.Modes}
	if n.Modes == nil {
		n.Modes = map[string]networkpolicy.Mode{}
	}
	if d.Network.Namespaces == nil {
		return n
	}
	n.Namespaces = map[string]workload.Namespace{}
	for name, labels := range d.Network.Namespaces {
		n.Namespaces[name] = workload.Namespace{Labels: labels}
	}
	return n
}

func (k *walk) authorization() Step {
	if k.peer == nil || !k.peer.Meshed || k.itself() {
		return notNeeded("the destination is not in the mesh, or the connection stays inside its pod")
	}
	if k.peer.IsForeign() {
		return k.elsewhere("whether its policies let it in")
	}
	n, c := k.judge(), k.connection()
	a := explain.Explain(n.Dump.Policies, c)
	var rows []string
	for _, m := range a.Modes {
		rows = append(rows, fmt.Sprintf("mode %v by %s", m.Mode, m.By))
	}
	rules := slices.DeleteFunc(slices.Clone(a.Rules), func(r explain.Rule) bool { return r.Idle != "" })
	slices.SortStableFunc(rules, func(a, b explain.Rule) int { return cmp.Compare(b.Matches, a.Matches) }) // those that match first
	for _, r := range rules {
		rows = append(rows, fmt.Sprintf("AuthorizationPolicy %s %v rule %d: %v: %s", r.Policy, r.Action, r.Rule, r.Matches, r.Why))
	}
	if n != k.dstNode {
		rows = append(rows, fmt.Sprintf("%s, where the pod is and which decides, did not answer", k.peer.Node))
	}
	switch {
	case a.Allowed == explain.No:
		return fault(k.toAllow(a), "%s", strings.TrimPrefix(a.By+": "+a.Why, ": ")).because(rows...).by(k.World, n)
	case a.Allowed == explain.Open:
		return unknown("%s", a.Why).because(rows...).by(k.World, n)
	}
	return ok("%s", a.Why).because(rows...).by(k.World, n)
}

// toAllow is the object that refuses the connection, and what of it.
func (k *walk) toAllow(a explain.Answer) string {
	i := slices.IndexFunc(a.Rules, func(r explain.Rule) bool {
		return r.Idle == "" && r.Matches == explain.Yes && a.By == "AuthorizationPolicy "+r.Policy && r.Rule >= 0
	})
	switch {
	case i >= 0:
		return fmt.Sprintf("%s: spec.rules[%d]", a.By, a.Rules[i].Rule)
	case strings.HasPrefix(a.By, "AuthorizationPolicy "):
		return a.By + ": spec.rules, of which one must match"
	case strings.HasPrefix(a.By, "PeerAuthentication "):
		return a.By + ": spec.mtls.mode; or put the source into the mesh"
	}
	return "the policies of Pod " + k.peer.String()
}
