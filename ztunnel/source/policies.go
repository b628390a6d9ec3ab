// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"reflect"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// policies are the ones of a kind that are in force, as they are understood.
type policies[P any] map[Name]P

// sorted returns them by name.
func (p policies[P]) sorted() []P {
	var out []P
	for _, name := range slices.SortedFunc(maps.Keys(p), byName) {
		out = append(out, p[name])
	}
	return out
}

func (b *Builder) setPeerAuthentication(name Name, o *PeerAuthentication) error {
	compiled, err := o.Policy()
	if err != nil {
		b.Distrust(o)
		return err
	}
	setPolicy(b, b.peers, name, compiled)
	return nil
}

func (b *Builder) setAuthorizationPolicy(name Name, o *AuthorizationPolicy) error {
	compiled, err := o.Policy()
	if err != nil {
		b.Distrust(o)
		return err
	}
	setPolicy(b, b.authz, name, compiled)
	return nil
}

// setPolicy puts a policy in force. One that means what it meant, as after a write to its
// status, is no decision.
func setPolicy[P any](b *Builder, in policies[P], name Name, p P) {
	if was, known := in[name]; known && reflect.DeepEqual(was, p) {
		return
	}
	in[name] = p
	b.decisions++
}

// networkPolicies are those in force.
type networkPolicies struct {
	byName   policies[networkpolicy.Policy]
	enforced map[string]bool        // namespaces, by Builder.Enforce
	sorted   []networkpolicy.Policy // nil: not since the last change
}

func (n *networkPolicies) put(name Name, p networkpolicy.Policy) { n.byName[name], n.sorted = p, nil }

func (n *networkPolicies) delete(name Name) {
	delete(n.byName, name)
	n.sorted = nil
}

func (n *networkPolicies) all() []networkpolicy.Policy {
	if n.sorted == nil {
		n.sorted = n.byName.sorted()
		for i := range n.sorted {
			n.sorted[i].Enforced = n.enforced[n.sorted[i].Namespace]
		}
	}
	return n.sorted
}

// Enforce has the NetworkPolicies of these namespaces, and of no others, be enforced
// whatever the labels in force say: of a Namespace whose labels wait, that part narrows.
func (b *Builder) Enforce(namespaces map[string]bool) {
	if !maps.Equal(b.network.enforced, namespaces) {
		b.network.enforced, b.network.sorted = namespaces, nil
		b.decisions++
	}
}

func (b *Builder) setNetworkPolicy(name Name, o *NetworkPolicy) error {
	compiled, err := o.Policy()
	if err != nil {
		b.Distrust(o)
		return err
	}
	b.network.put(name, compiled)
	b.decisions++
	return nil
}

// Distrust takes a policy that is not understood whole: its former meaning stays
// in force. If it has none it gets the strictest that it may have: STRICT, or nobody
// may connect (to a NetworkPolicy: neither way), for all that it may select.
func (b *Builder) Distrust(o Object) {
	name := nameOf(o)
	b.names.add(KindOf(o), name)
	b.decisions++
	switch o := o.(type) {
	case *PeerAuthentication:
		if _, known := b.peers[name]; !known {
			b.peers[name] = policy.PeerAuthentication{Object: widest(object(&o.ObjectMeta, o.Spec.Selector), o.Spec.Selector), Mode: policy.Strict}
		}
	case *AuthorizationPolicy:
		if before, known := b.authz[name]; !known || before.Action == policy.Refuse {
			b.authz[name] = policy.AuthorizationPolicy{
				Object: widest(object(&o.ObjectMeta, o.Spec.Selector), o.Spec.Selector), DryRun: o.isDryRun(), Action: policy.Refuse,
			}
		}
	case *NetworkPolicy:
		if _, known := b.network.byName[name]; !known {
			pods, _ := podSelector("", &o.Spec.PodSelector) // nil: it may have meant all
			isolated := networkpolicy.Side{Isolates: true}
			b.network.put(name, networkpolicy.Policy{Namespace: name.Namespace, Name: name.Name, Pods: pods, Ingress: isolated, Egress: isolated})
		}
	}
}

// widest returns o without a selector that cannot be understood: it may have
// meant everybody.
func widest(o policy.Object, s *Selector) policy.Object {
	if checkSelector(s) != nil {
		o.Selector = nil
	}
	return o
}

// Remember puts policies in force that are known from before, until Set or Delete
// says something else of them.
func (b *Builder) Remember(p policy.Objects, network []networkpolicy.Policy) {
	for _, pa := range p.PeerAuthentications {
		name := Name{pa.Namespace, pa.Name}
		b.peers[name] = pa
		b.names.add(KindPeerAuthentication, name)
	}
	for _, ap := range p.AuthorizationPolicies {
		name := Name{ap.Namespace, ap.Name}
		b.authz[name] = ap
		b.names.add(KindAuthorizationPolicy, name)
	}
	for _, np := range network {
		name := Name{np.Namespace, np.Name}
		b.network.put(name, np)
		b.names.add(KindNetworkPolicy, name)
	}
}
