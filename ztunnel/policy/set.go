// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"sync/atomic"
)

// Set is the policies in force. Readers load one immutable arrangement.
type Set struct {
	scopes atomic.Pointer[scopes]
}

// NewSet returns a set without policies: everything is PERMISSIVE.
func NewSet() *Set {
	s := &Set{}
	s.Replace(Objects{})
	return s
}

// Replace puts a snapshot's policies in force.
func (s *Set) Replace(objects Objects) { s.scopes.Store(arrange(objects)) }

// All returns the policies in force; the caller must not write to them.
func (s *Set) All() Objects { return s.scopes.Load().objects }

// scopes is the policies by scope, each list by precedence.
type scopes struct {
	objects Objects

	mesh       []PeerAuthentication            // of the root namespace, without selector
	namespaces map[string][]PeerAuthentication // without selector
	workloads  map[string][]PeerAuthentication // by namespace, with selector

	authzMesh       []AuthorizationPolicy // of the root namespace, with or without selector
	authzNamespaces map[string][]AuthorizationPolicy
}

func arrange(objects Objects) *scopes {
	s := &scopes{
		objects:         objects,
		namespaces:      map[string][]PeerAuthentication{},
		workloads:       map[string][]PeerAuthentication{},
		authzNamespaces: map[string][]AuthorizationPolicy{},
	}
	peers := slices.Clone(objects.PeerAuthentications)
	slices.SortStableFunc(peers, func(a, b PeerAuthentication) int { return older(a.Object, b.Object) })
	for _, p := range peers {
		switch root := p.Namespace == objects.RootNamespace; {
		case root && len(p.Selector) == 0:
			s.mesh = append(s.mesh, p)
		case root:
			// Istio's rule: a selector means nothing in the root namespace.
		case len(p.Selector) == 0:
			s.namespaces[p.Namespace] = append(s.namespaces[p.Namespace], p)
		default:
			s.workloads[p.Namespace] = append(s.workloads[p.Namespace], p)
		}
	}
	authz := slices.Clone(objects.AuthorizationPolicies)
	slices.SortStableFunc(authz, func(a, b AuthorizationPolicy) int { return older(a.Object, b.Object) })
	for _, p := range authz {
		switch {
		case p.TargetRefs:
			// For a waypoint or service; it does not select workloads.
		case p.Namespace == objects.RootNamespace:
			// Unlike a PeerAuthentication's, its selector is for all namespaces.
			s.authzMesh = append(s.authzMesh, p)
		default:
			s.authzNamespaces[p.Namespace] = append(s.authzNamespaces[p.Namespace], p)
		}
	}
	return s
}
