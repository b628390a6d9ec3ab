// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Network is the NetworkPolicies that somebody goes by.
type Network struct {
	Policies   []networkpolicy.Policy
	Modes      map[string]networkpolicy.Mode // of the namespaces that have policies
	Namespaces map[string]workload.Namespace // nil: their labels are not known
	Strange    map[string]string             // by namespace: the value that says its mode, and means nothing
}

// Isolation is what a NetworkPolicy that isolates one end says of the connection.
type Isolation struct {
	Policy    string             `json:"policy"` // namespace/name
	Pod       string             `json:"pod"`    // that it isolates
	Direction string             `json:"direction"`
	Mode      networkpolicy.Mode `json:"mode"` // of the policy's namespace
	Admits    Truth              `json:"admits"`
	Rule      int                `json:"rule"` // that admits it, or may; -1: none
	Warnings  []string           `json:"warnings,omitempty"`
}

// AskNetwork asks NetworkPolicies, too: ingress of the destination and, if it is known
// which pod the source is, egress of that. A nil Network was not read.
func (a *Answer) AskNetwork(n *Network, c Connection) {
	a.Network = []Isolation{}
	switch {
	case !c.Dst.Meshed:
		a.NetworkNotAsked = "the pod is not in the mesh, and the pod network judges them"
		return
	case c.From != nil && c.From.ID.IsZero():
		a.NetworkNotAsked = "the connection is plaintext, and the pod network judges them"
		return
	case n == nil:
		a.NetworkNotAsked = "the node does not say which it holds"
		return
	}
	in := networkpolicy.Question{Direction: networkpolicy.Ingress, Self: &c.Dst, Port: c.Port}
	if c.From != nil {
		in.Peer, in.Addr = c.From.Pod, plain(c.From.Addr)
	}
	if in.Peer != nil {
		a.isolated(n, networkpolicy.Question{Direction: networkpolicy.Egress, Self: in.Peer, Peer: &c.Dst, Addr: newQuestion(c).dst, Port: c.Port}, false)
	} else if n.mayLeave(c.From) {
		a.hangsOn("whether egress rules of NetworkPolicies admit it, as the source is no pod that is known")
	}
	a.isolated(n, in, c.From == nil)
}

// isolated adds what isolates q.Self, and lets it count. A connection that may be
// plaintext may pass by what refuses it.
func (a *Answer) isolated(n *Network, q networkpolicy.Question, mayBePlaintext bool) {
	mode, admits, names := n.Modes[q.Self.Namespace], No, []string(nil)
	for i := range n.Policies {
		p := &n.Policies[i]
		side := p.Side(q.Direction)
		if p.Namespace != q.Self.Namespace || !side.Isolates || !p.Pods.MatchesPod(q.Self.Labels) {
			continue
		}
		row := Isolation{Policy: p.Namespace + "/" + p.Name, Pod: q.Self.String(), Direction: q.Direction.String(), Mode: mode, Rule: -1, Warnings: p.Warnings}
		for i := range side.Rules {
			if t := n.rule(&side.Rules[i], &q); t > row.Admits {
				row.Admits, row.Rule = t, side.Rules[i].Index
			}
		}
		a.Network, names, admits = append(a.Network, row), append(names, row.Policy), max(admits, row.Admits)
	}
	if len(names) == 0 || admits == Yes || mode == networkpolicy.Off || a.Allowed == No {
		return
	}
	by, why := "NetworkPolicy "+listed(names, ", "), fmt.Sprintf("no %v rule admits it", q.Direction)
	if value, strange := n.Strange[q.Self.Namespace]; strange {
		a.hangsOn(fmt.Sprintf("what nodes do in namespace %s, whose mode %q means nothing: they go on in the one that they had, and warn after a restart; %s does not admit it",
			q.Self.Namespace, value, by))
		return
	}
	switch {
	case mode == networkpolicy.Warn && admits == No:
		a.Why += fmt.Sprintf("; %s would refuse it (%s), and only warns", by, why)
	case mode == networkpolicy.Warn:
		a.Why += fmt.Sprintf("; %s may refuse it, and only warns", by)
	case admits == Open || mayBePlaintext:
		a.hangsOn(fmt.Sprintf("whether an %v rule of %s admits it", q.Direction, by))
	default:
		a.refuse(by, why)
	}
}

// hangsOn makes the verdict open, unless it is a refusal.
func (a *Answer) hangsOn(what string) {
	switch a.Allowed {
	case Yes:
		a.Allowed, a.Why = Open, "it hangs on "+what
	case Open:
		a.Why += ", and " + what
	}
}

// mayLeave reports whether egress may be enforced for a source of which no pod is known.
func (n *Network) mayLeave(from *Source) bool {
	namespace := ""
	if from != nil {
		account, err := identity.Parse(from.ID)
		if err != nil {
			return false // nobody's pod
		}
		namespace = account.Namespace
	}
	return slices.ContainsFunc(n.Policies, func(p networkpolicy.Policy) bool {
		return p.Egress.Isolates && (namespace == "" || p.Namespace == namespace) && n.Modes[p.Namespace] == networkpolicy.Enforce
	})
}

// rule is whether r admits q.
func (n *Network) rule(r *networkpolicy.Rule, q *networkpolicy.Question) Truth {
	return min(
		either(r.Ports, func(p *networkpolicy.Port) Truth { return port(p, q) }),
		either(r.Peers, func(p *networkpolicy.Peer) Truth { return n.peer(p, q) }))
}

// either is Yes, too, if there is none.
func either[T any](all []T, ask func(*T) Truth) (best Truth) {
	for i := range all {
		best = max(best, ask(&all[i]))
	}
	if len(all) == 0 {
		return Yes
	}
	return best
}

func port(p *networkpolicy.Port, q *networkpolicy.Question) Truth {
	if q.Port != 0 {
		return truth(p.Has(q))
	}
	if p.Name == "" && p.First <= 1 && p.Last == 1<<16-1 {
		return Yes
	}
	return Open
}

func (n *Network) peer(p *networkpolicy.Peer, q *networkpolicy.Question) Truth {
	switch {
	case p.Block != nil && q.Addr == (netip.Addr{}):
		return Open
	case p.Block != nil:
		return truth(p.Block.Has(q.Addr))
	case p.Pods == nil && p.Namespaces == nil:
		return No
	case q.Peer == nil:
		return Open
	case p.Pods != nil && !p.Pods.MatchesPod(q.Peer.Labels):
		return No
	case p.Namespaces == nil:
		return truth(q.Peer.Namespace == q.Self.Namespace)
	case n.Namespaces == nil && slices.ContainsFunc(*p.Namespaces, func(r networkpolicy.Requirement) bool { return r.Key != networkpolicy.NameLabel }):
		return Open
	}
	namespace, known := n.Namespaces[q.Peer.Namespace]
	return truth(p.Namespaces.MatchesNamespace(q.Peer.Namespace, namespace.Labels, known))
}
