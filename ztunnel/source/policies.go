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
	if err == nil {
		b.peers[name] = compiled
	} else if _, known := b.peers[name]; !known {
		b.peers[name] = policy.PeerAuthentication{Object: widest(compiled.Object, o.Spec.Selector), Mode: policy.Strict}
	}
	return err
}

// setAuthorizationPolicy has no need of a former meaning: whatever a policy says,
// it refuses everyone to those whom it selects.
func (b *Builder) setAuthorizationPolicy(name Name, o *AuthorizationPolicy) error {
	compiled, err := o.Policy()
	if err != nil {
		compiled.Object = widest(compiled.Object, o.Spec.Selector)
		compiled.TargetRefs = compiled.TargetRefs && o.Spec.Selector == nil
	}
	b.authz[name] = compiled
	return err
}

// widest returns o without a selector that cannot be understood: it may have
// meant everybody.
func widest(o policy.Object, s *Selector) policy.Object {
	if checkSelector(s) != nil {
		o.Selector = nil
	}
	return o
}
