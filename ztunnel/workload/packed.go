// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Packed is a Workload as a snapshot holds it: it says the same, and most of it
// stands in memory once for all pods of a Deployment. It is never written after a
// Packer returned it, so that a source and a Registry hold the same one.
//
// A pod whose name has 60 characters, with two addresses, in a Deployment of ten with
// five labels and two named ports, on a node of 20 pods, takes these bytes:
//
//	96  Packed
//	96  its name and UID
//	48  its addresses
//	80  its tenth of Shared
//	42  in the Registry: its place in the list (8), by UID (6), by address (14 each)
//	63  in the source.Builder: the same, by name, and what only the Builder asks
//	25  its part of its node's addresses
//
// TestAPodTakesLittleMemory in source/kube holds the sum.
type Packed struct {
	UID, Name, Node string
	Addrs           []netip.Addr
	created         int64 // in seconds since 1970
	*Shared

	Meshed, Undecided, HostNetwork, Static, Ready, Terminated, Daemon, MayForward bool
}

// Shared is what the pods of a Deployment have in common. Its fields are those of
// Workload.
type Shared struct {
	Namespace      string
	ServiceAccount string
	ID             spiffeid.ID
	Labels         Labels         `json:",omitempty"`
	Unsteerable    string         `json:",omitempty"`
	Ports          []NamedPort    `json:",omitempty"`
	HostPorts      []HostPort     `json:",omitempty"`
	Declared       []uint16       `json:",omitempty"`
	ProbePorts     []uint16       `json:",omitempty"`
	ForeignProbes  []ForeignProbe `json:",omitempty"`
	TakenProbes    []TakenProbe   `json:",omitempty"`

	Owner, CanonicalName, CanonicalRevision string

	users int // how many a Packer gave it to; only that uses it
}

// Workload returns what p says. It allocates nothing.
func (p *Packed) Workload() Workload {
	return Workload{
		UID: p.UID, Namespace: p.Namespace, Name: p.Name, Node: p.Node, Created: p.Created(),
		ServiceAccount: p.ServiceAccount, ID: p.ID, Addrs: p.Addrs, Labels: p.Labels,
		Meshed: p.Meshed, Undecided: p.Undecided, HostNetwork: p.HostNetwork, Static: p.Static, Ready: p.Ready, Terminated: p.Terminated,
		Unsteerable: p.Unsteerable, Daemon: p.Daemon, MayForward: p.MayForward,
		Ports: p.Ports, HostPorts: p.HostPorts, Declared: p.Declared,
		ProbePorts: p.ProbePorts, ForeignProbes: p.ForeignProbes, TakenProbes: p.TakenProbes,
		Owner: p.Owner, CanonicalName: p.CanonicalName, CanonicalRevision: p.CanonicalRevision,
	}
}

// Created is Workload.Created, in whole seconds, as Kubernetes has it.
func (p *Packed) Created() time.Time { return time.Unix(p.created, 0).UTC() }

// String returns "namespace/name".
func (p *Packed) String() string { return p.Namespace + "/" + p.Name }

// Equal reports whether both say the same.
func (p *Packed) Equal(q *Packed) bool {
	return p.UID == q.UID && p.Name == q.Name && p.Node == q.Node && slices.Equal(p.Addrs, q.Addrs) && p.created == q.created &&
		(p.Shared == q.Shared || p.Shared.equal(q.Shared)) &&
		p.Meshed == q.Meshed && p.Undecided == q.Undecided && p.HostNetwork == q.HostNetwork && p.Static == q.Static &&
		p.Ready == q.Ready && p.Terminated == q.Terminated && p.Daemon == q.Daemon && p.MayForward == q.MayForward
}

func (s *Shared) equal(o *Shared) bool {
	return s.Namespace == o.Namespace && s.ServiceAccount == o.ServiceAccount && s.ID == o.ID &&
		s.Labels == o.Labels && s.Unsteerable == o.Unsteerable && slices.Equal(s.Ports, o.Ports) &&
		slices.Equal(s.HostPorts, o.HostPorts) && slices.Equal(s.Declared, o.Declared) && slices.Equal(s.ProbePorts, o.ProbePorts) &&
		slices.Equal(s.ForeignProbes, o.ForeignProbes) && slices.Equal(s.TakenProbes, o.TakenProbes) &&
		s.Owner == o.Owner && s.CanonicalName == o.CanonicalName && s.CanonicalRevision == o.CanonicalRevision
}

// private returns a copy that shares what it says with nobody, so that whoever
// made it may write to it.
func (p *Packed) private() *Packed {
	own := *p
	own.Shared = sharedOf(p.Workload())
	return &own
}
