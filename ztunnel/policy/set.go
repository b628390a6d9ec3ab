// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"sync/atomic"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
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

// Replace puts a snapshot's policies in force. Nobody writes to them any more. What
// they say of the workloads that were asked for lately is worked out first, so that
// no connection waits for that. It is for one goroutine at a time.
func (s *Set) Replace(objects Objects) {
	var before map[whom]*Concern
	if now := s.scopes.Load(); now != nil {
		if now.objects.same(&objects) {
			return
		}
		before = now.known.used()
	}
	next := arrange(objects)
	next.known = newKnown(before)
	for who := range before {
		next.known.find(next, who)
	}
	next.known.settle()
	s.scopes.Store(next)
}

// All returns the policies in force; the caller must not write to them.
func (s *Set) All() Objects { return s.scopes.Load().objects }

// scopes is the policies by scope, each list by precedence.
type scopes struct {
	objects Objects

	mesh       []PeerAuthentication            // of the root namespace, without selector
	namespaces map[string][]PeerAuthentication // without selector
	workloads  map[string][]PeerAuthentication // by namespace, with selector

	authz   authzScopes // those that are enforced
	dryRuns authzScopes // those that are not

	known *known
}

func arrange(objects Objects) *scopes {
	s := &scopes{
		objects:    objects,
		namespaces: map[string][]PeerAuthentication{},
		workloads:  map[string][]PeerAuthentication{},
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
	var authz, dryRuns []AuthorizationPolicy
	for _, p := range objects.AuthorizationPolicies {
		switch {
		case p.enforced():
			authz = append(authz, p)
		case p.rehearsed():
			dryRuns = append(dryRuns, p)
		}
	}
	s.authz, s.dryRuns = scopesOf(authz, objects.RootNamespace), scopesOf(dryRuns, objects.RootNamespace)
	return s
}

// authzScopes is AuthorizationPolicies by scope.
type authzScopes struct {
	all        []AuthorizationPolicy // by precedence
	mesh       []int                 // those of the root namespace, with or without selector
	namespaces map[string][]int
}

func scopesOf(policies []AuthorizationPolicy, root string) authzScopes {
	a := authzScopes{all: policies, namespaces: map[string][]int{}}
	slices.SortStableFunc(policies, func(a, b AuthorizationPolicy) int { return older(a.Object, b.Object) })
	for i, p := range policies {
		if p.Namespace == root {
			// Unlike a PeerAuthentication's, its selector is for all namespaces.
			a.mesh = append(a.mesh, i)
		} else {
			a.namespaces[p.Namespace] = append(a.namespaces[p.Namespace], i)
		}
	}
	return a
}

// selecting returns the places in a.all of the policies that select dst, mesh-wide ones
// first.
func (a *authzScopes) selecting(dst *workload.Workload) (places []int) {
	for _, scope := range [][]int{a.mesh, a.namespaces[dst.Namespace]} {
		for _, i := range scope {
			if a.all[i].Selector.Matches(dst.Labels) {
				places = append(places, i)
			}
		}
	}
	return places
}
