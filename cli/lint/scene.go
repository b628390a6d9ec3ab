// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// scene is the world as the mesh would take it, and what was found in it.
type scene struct {
	World
	pods       []*workload.Packed            // that have not ended
	beside     map[string][]*workload.Packed // pods by namespace
	services   []*corev1.Service
	namespaces map[string]bool      // empty: the input has none, and which there are is not known
	accounts   map[source.Name]bool // likewise
	peers      []peer
	authz      []authorization
	set        *policy.Set

	doubted map[string]bool // objects with mistakes that may change what all the rest means
	found   []Finding
}

// peer is a PeerAuthentication that is understood.
type peer struct {
	file.Object
	spec   *source.PeerAuthenticationSpec
	policy policy.PeerAuthentication
	by     string // the object that counts in its place; empty: none
}

// authorization is an AuthorizationPolicy that is understood.
type authorization struct {
	file.Object
	object *source.AuthorizationPolicy
	policy policy.AuthorizationPolicy
}

func newScene(w World) *scene {
	w.RootNamespace = cmp.Or(w.RootNamespace, source.DefaultRootNamespace)
	s := &scene{World: w, beside: map[string][]*workload.Packed{}, namespaces: map[string]bool{}, accounts: map[source.Name]bool{}, set: policy.NewSet(), doubted: map[string]bool{}}
	for _, err := range s.Mistakes {
		var m *file.Mistake
		var p *source.Problem
		if errors.As(err, &m) && !errors.As(err, &p) {
			s.doubted[mistaken(m)] = true
		}
	}
	builder := source.NewBuilder(source.Options{TrustDomain: w.TrustDomain, RootNamespace: w.RootNamespace})
	for _, o := range s.Objects {
		if !s.take(o) {
			_ = builder.Set(o.Object) // a pod that is not understood is no pod
		}
	}
	snapshot := builder.Snapshot()
	for _, p := range snapshot.Mesh.Workloads {
		if p.Terminated {
			continue
		}
		s.pods, s.beside[p.Namespace] = append(s.pods, p), append(s.beside[p.Namespace], p)
		s.account(source.Name{Namespace: p.Namespace, Name: p.ServiceAccount})
	}
	s.set.Replace(snapshot.Policies)
	return s
}

// take keeps what is looked at by itself. It reports whether o is a policy that is not
// understood, so that it must not count for others.
func (s *scene) take(o file.Object) (doubted bool) {
	switch object := o.Object.(type) {
	case *corev1.Namespace:
		s.namespaces[object.Name] = true
	case *corev1.ServiceAccount:
		s.accounts[name(o)] = true
	case *corev1.Service:
		s.services = append(s.services, object)
	case *source.PeerAuthentication:
		p, err := object.Policy()
		if err != nil || s.doubted[named(o)] {
			return true
		}
		s.peers = append(s.peers, peer{o, &object.Spec, p, ""})
	case *source.AuthorizationPolicy:
		p, err := object.Policy()
		if err != nil || s.doubted[named(o)] {
			return true
		}
		s.authz = append(s.authz, authorization{o, object, p})
	}
	return false
}

// account adds one that a pod has, if ServiceAccounts are known.
func (s *scene) account(name source.Name) {
	if len(s.accounts) > 0 {
		s.accounts[name] = true
	}
}

// say adds a finding.
func (s *scene) say(o file.Object, code source.Code, field, format string, args ...any) {
	s.tell(Finding{Code: code, Object: named(o), Place: o.Place, Field: field, Text: fmt.Sprintf(format, args...)})
}

// tell adds a finding, with what its code says of it.
func (s *scene) tell(f Finding) {
	if s.Live {
		f.Place = "" // that of a page of a list
	}
	c := codes[slices.IndexFunc(codes, func(c sort) bool { return c.code == f.Code })]
	f.Severity, f.Hint, f.Docs = cmp.Or(f.Severity, c.severity), c.hint, Docs+"#"+string(f.Code)
	s.found = append(s.found, f)
}

// selected are the pods that a selector of a policy in a namespace selects. That of an
// AuthorizationPolicy in the root namespace is for all namespaces.
func (s *scene) selected(p policy.Object, everywhere bool) (pods []*workload.Packed) {
	among := s.beside[p.Namespace]
	if everywhere {
		among = s.pods
	}
	for _, pod := range among {
		if p.Selector.Matches(pod.Labels) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// most is how many names one finding shows.
const most = 3

// some shows the first names.
func some(names []string) string {
	slices.Sort(names)
	names = slices.Compact(names)
	switch n := len(names); {
	case n == 1:
		return names[0]
	case n > most:
		return fmt.Sprintf("%s and %d more", join(names[:most], ", "), n-most)
	}
	return join(names, " and ")
}

func join(names []string, last string) (out string) {
	for i, name := range names {
		switch {
		case i == 0:
		case i == len(names)-1:
			out += last
		default:
			out += ", "
		}
		out += name
	}
	return out
}

// owners are what pods belong to.
func owners(pods []*workload.Packed) (names []string) {
	for _, pod := range pods {
		names = append(names, pod.Namespace+"/"+cmp.Or(pod.Owner, pod.Name))
	}
	return names
}
