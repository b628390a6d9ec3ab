// SPDX-License-Identifier: Apache-2.0

// Package lint finds what policies say and nobody meant: an object for the whole mesh in
// place of a namespace, a port of a Service in place of the pod's, a DENY that refuses
// nobody.
//
// What a policy means is the word of the source that ztunnel reads by: each of its
// warnings has a code here. What lint judges itself needs more than one object: the pods,
// Services, Namespaces and ServiceAccounts of the input, as far as there are any.
package lint

import (
	"cmp"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
)

// Severity is how much a finding matters.
type Severity string

// Severities.
const (
	Error   Severity = "error"   // the object does not do what it says
	Warning Severity = "warning" // it most likely does something else than was meant
	Info    Severity = "info"    // it does what it says, and people often expect otherwise
)

// Finding is one thing that was found.
type Finding struct {
	Code     source.Code `json:"code"` // stable
	Severity Severity    `json:"severity"`
	Object   string      `json:"object,omitempty"` // as "AuthorizationPolicy shop/web"
	Place    string      `json:"place,omitempty"`  // file and document
	Field    string      `json:"field,omitempty"`
	Text     string      `json:"text"`
	Hint     string      `json:"hint"`
	Docs     string      `json:"docs"`
}

// Docs is where each code is explained.
const Docs = "docs/lint.md"

// World is what is looked at.
type World struct {
	file.Text
	TrustDomain   spiffeid.TrustDomain // required
	RootNamespace string               // istio-system
	Federated     []string             // other trust domains whose workloads may be peers; none
	// Live: an API server has taken the objects. What it let pass of other kinds than
	// policies is no mistake.
	Live bool
	// Upgrade: also who is let in where versions without AuthorizationPolicy refused
	// everybody.
	Upgrade bool
}

// Run returns what it finds, object by object in the order of the input.
func Run(w World) []Finding {
	s := newScene(w)
	s.mistakes()
	s.remarks()
	s.twice()
	for _, o := range s.Objects {
		s.labels(o)
	}
	s.duplicates()
	s.shadows()
	for i := range s.peers {
		s.peer(&s.peers[i])
	}
	for i := range s.authz {
		s.authorization(&s.authz[i])
	}
	return s.sorted()
}

// sorted has the findings of an object side by side, the worst first.
func (s *scene) sorted() []Finding {
	place := map[string]int{}
	for i, o := range s.Objects {
		if name := named(o); place[name] == 0 {
			place[name] = i + 1
		}
	}
	worst := []Severity{Error, Warning, Info}
	slices.SortStableFunc(s.found, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(place[a.Object], place[b.Object]), cmp.Compare(slices.Index(worst, a.Severity), slices.Index(worst, b.Severity)),
			cmp.Compare(a.Code, b.Code),
		)
	})
	return s.found
}

func named(o file.Object) string { return string(source.KindOf(o.Object)) + " " + name(o).String() }

func name(o file.Object) source.Name {
	return source.Name{Namespace: o.GetNamespace(), Name: o.GetName()}
}
