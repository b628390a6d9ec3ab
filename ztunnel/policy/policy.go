// SPDX-License-Identifier: Apache-2.0

// Package policy says whether two workloads may talk: allow, or a reason.
//
// Everything is a pure function of the policies in force and of the two ends.
// Inbound, in order: an unknown workload is refused; so is what a DENY policy of the
// workload matches, and, if it has ALLOW policies, what none of them matches; then a
// verified peer is allowed, and plaintext is unless the effective PeerAuthentication
// mode is STRICT. The address of the source gives a right only where a policy says so.
// A peer of another trust domain is let in only by a rule that names its domain.
//
// A policy that is a dry run is asked too (Concern.DryRun), and refuses nobody.
//
// Policies are objects (Objects), compiled when a workload of this node first needs
// them (compiled), and joined to what concerns that workload (Concern), with an index
// (index). A Concern outlives snapshots that do not change it.
package policy

import (
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Denied is a refusal, and says by whom.
type Denied struct {
	Policy string // kind namespace/name; empty if no object but a law of the mesh decides
	Reason string
}

func (d *Denied) Error() string {
	if d.Policy == "" {
		return d.Reason
	}
	return d.Policy + ": " + d.Reason
}

// Request is a connection that arrived for a workload.
type Request struct {
	Src  netip.Addr
	Peer spiffeid.ID // from a verified certificate; zero: plaintext
	Dst  workload.Workload
	Addr netip.Addr // of the pod, at which it arrived
	Port uint16     // of the pod
}

var errUnknown = &Denied{Reason: "the destination is no workload that is known"}

// AllowInbound returns nil or a *Denied.
func (s *Set) AllowInbound(r Request) error {
	return s.scopes.Load().concern(r.Dst).AllowInbound(&r)
}

// Concern returns what the policies in force say of dst.
func (s *Set) Concern(dst workload.Workload) *Concern { return s.scopes.Load().concern(dst) }

// AllowOutbound returns nil or a *Denied. A destination outside the mesh is
// allowed; one inside is reached by HBONE or not at all, so it needs an
// identity that its certificate can be held against.
func (s *Set) AllowOutbound(src workload.Workload, d workload.Destination) error {
	if d.Peer.Meshed && d.Peer.ID.IsZero() {
		return &Denied{Reason: "workload " + d.Peer.String() + " is in the mesh and has no identity"}
	}
	return nil
}

// RefusesPlaintext reports at which ports of dst plaintext is refused, or may be: at
// those that have a mode of their own, and at all others. Under an AuthorizationPolicy
// it may be everywhere.
func (s *Set) RefusesPlaintext(dst workload.Workload) (others bool, ports map[uint16]bool) {
	c := s.Concern(dst)
	if len(c.policies) > 0 {
		return true, nil
	}
	ports = make(map[uint16]bool, len(c.peers.ports))
	for port, v := range c.peers.ports {
		ports[port] = v.plaintext != nil
	}
	return c.peers.others.plaintext != nil, ports
}

// Mode returns the effective mode of a workload's port; never Unset.
func (s *Set) Mode(dst workload.Workload, port uint16) Mode {
	mode, _ := s.Effective(dst, port)
	return mode
}

// Effective is Mode, with the object that set it; empty: none did.
func (s *Set) Effective(dst workload.Workload, port uint16) (mode Mode, by string) {
	return s.scopes.Load().mode(dst, port)
}

// mode asks the scopes from narrow to wide: the port, the workload, its
// namespace, the mesh. In each the oldest policy speaks, and if it says UNSET
// the next wider scope does. It also returns which policy decided.
func (s *scopes) mode(dst workload.Workload, port uint16) (Mode, string) {
	if p, ok := first(s.workloads[dst.Namespace], dst); ok {
		if m := p.Ports[port]; m != Unset {
			return m, p.String()
		}
		if p.Mode != Unset {
			return p.Mode, p.String()
		}
	}
	for _, scope := range [][]PeerAuthentication{s.namespaces[dst.Namespace], s.mesh} {
		if p, ok := first(scope, dst); ok && p.Mode != Unset {
			return p.Mode, p.String()
		}
	}
	return Permissive, ""
}

// first returns the policy with the highest precedence that selects dst.
func first(policies []PeerAuthentication, dst workload.Workload) (PeerAuthentication, bool) {
	for _, p := range policies {
		if p.Selector.Matches(dst.Labels) {
			return p, true
		}
	}
	return PeerAuthentication{}, false
}
