// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"slices"

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
	b.peers[name] = compiled
	b.decisions++
	return nil
}

func (b *Builder) setAuthorizationPolicy(name Name, o *AuthorizationPolicy) error {
	compiled, err := o.Policy()
	if err != nil {
		b.Distrust(o)
		return err
	}
	b.authz[name] = compiled
	b.decisions++
	return nil
}

// Distrust takes a policy that is not understood whole: its former meaning stays
// in force. If it has none it gets the strictest that it may have: STRICT, or
// nobody may connect, for all that it may select.
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
		if _, known := b.authz[name]; !known {
			b.authz[name] = policy.AuthorizationPolicy{Object: widest(object(&o.ObjectMeta, o.Spec.Selector), o.Spec.Selector)}
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
func (b *Builder) Remember(p policy.Objects) {
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
}
