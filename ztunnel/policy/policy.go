// SPDX-License-Identifier: Apache-2.0

// Package policy says whether two workloads may talk: allow, or a reason.
//
// Everything is a pure function of the policies in force and of the two ends.
// Inbound, in order: an unknown workload is refused; an AuthorizationPolicy that
// applies refuses, since its rules are not understood; a verified peer is
// allowed; plaintext is allowed unless the effective PeerAuthentication mode is
// STRICT. The address of the source gives no right.
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
	Port uint16 // of the pod
}

// AllowInbound returns nil or a *Denied.
func (s *Set) AllowInbound(r Request) error {
	if r.Dst.UID == "" {
		// Its namespace and labels are unknown, so what applies to it is too.
		return &Denied{Reason: "the destination is no workload that is known"}
	}
	in := s.scopes.Load()
	if p, ok := in.authorization(r.Dst); ok {
		return &Denied{Policy: p.String(), Reason: "not understood by this version"}
	}
	if !r.Peer.IsZero() {
		return nil
	}
	if mode, by := in.mode(r.Dst, r.Port); !mode.Plaintext() {
		return &Denied{Policy: by, Reason: mode.String() + ", and the connection is plaintext"}
	}
	return nil
}

// AllowOutbound returns nil or a *Denied. A destination outside the mesh is
// allowed; one inside is reached by HBONE or not at all, so it needs an
// identity that its certificate can be held against.
func (s *Set) AllowOutbound(src workload.Workload, d workload.Destination) error {
	if d.Peer.Meshed && d.Peer.ID.IsZero() {
		return &Denied{Reason: "workload " + d.Peer.String() + " is in the mesh and has no identity"}
	}
	return nil
}

// RefusesPlaintext reports at which ports of dst plaintext is refused: at those
// that have a mode of their own, and at all others.
func (s *Set) RefusesPlaintext(dst workload.Workload) (others bool, ports map[uint16]bool) {
	in := s.scopes.Load()
	if _, ok := in.authorization(dst); ok {
		return true, nil
	}
	ports = make(map[uint16]bool)
	if p, ok := first(in.workloads[dst.Namespace], dst); ok {
		for port := range p.Ports {
			mode, _ := in.mode(dst, port)
			ports[port] = !mode.Plaintext()
		}
	}
	mode, _ := in.mode(dst, 0) // no port is 0
	return !mode.Plaintext(), ports
}

// Mode returns the effective mode of a workload's port; never Unset.
func (s *Set) Mode(dst workload.Workload, port uint16) Mode {
	mode, _ := s.scopes.Load().mode(dst, port)
	return mode
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

// authorization returns an AuthorizationPolicy that applies to dst.
func (s *scopes) authorization(dst workload.Workload) (AuthorizationPolicy, bool) {
	for _, scope := range [][]AuthorizationPolicy{s.authzMesh, s.authzNamespaces[dst.Namespace]} {
		for _, p := range scope {
			if p.Selector.Matches(dst.Labels) {
				return p, true
			}
		}
	}
	return AuthorizationPolicy{}, false
}
