// SPDX-License-Identifier: Apache-2.0

// Package networkpolicy says what Kubernetes' NetworkPolicies mean for connections inside
// the mesh. The pod network sees of them only tunnels to port 15008; here they are judged
// with the addresses and ports of the apps.
//
// A pod that no policy selects for a direction is open in it. One that is selected is
// isolated: a connection passes if one rule of one of these policies admits it. A
// namespace says by its label (ModeLabel) whether a refusal is enforced or only told.
package networkpolicy

import (
	"net/netip"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Policy is a NetworkPolicy, as far as it concerns TCP. What could not be judged is gone
// from it, and it admits less for that.
type Policy struct {
	Namespace string
	Name      string
	Pods      Selector // of its namespace
	Ingress   Side     `json:",omitzero"`
	Egress    Side     `json:",omitzero"`
	// Enforced: its namespace will say that it enforces, and has done so before the rest of
	// what it says may be believed.
	Enforced bool `json:",omitzero"`
	// Warnings say what could not be judged; each begins with its field.
	Warnings []string `json:",omitzero"`
}

// String returns "NetworkPolicy namespace/name".
func (p *Policy) String() string { return "NetworkPolicy " + p.Namespace + "/" + p.Name }

// Side is what a policy says of one direction.
type Side struct {
	Isolates bool   // what no rule admits is refused
	Rules    []Rule `json:",omitzero"`
}

// Rule admits a connection if one of the peers and one of the ports does.
type Rule struct {
	Index int    // in the object
	Peers []Peer `json:",omitzero"` // none: everybody
	Ports []Port `json:",omitzero"` // none: every port
}

// Peer is an address block, or pods by their labels and those of their namespaces. One
// that says nothing is nobody.
type Peer struct {
	Pods       *Selector `json:",omitzero"` // nil: all pods of Namespaces
	Namespaces *Selector `json:",omitzero"` // nil: that of the policy
	Block      *Block    `json:",omitzero"`
}

// Block is the addresses of CIDR without those of Except.
type Block struct {
	CIDR   netip.Prefix
	Except []netip.Prefix `json:",omitzero"`
}

// Has reports whether addr is in the block.
func (b *Block) Has(addr netip.Addr) bool {
	return b.CIDR.Contains(addr) && !slices.ContainsFunc(b.Except, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Port is TCP ports of the pod that is connected to.
type Port struct {
	Name        string `json:",omitzero"` // of a container's port; else the numbers count
	First, Last uint16 `json:",omitzero"`
}

// Selector matches labels if all requirements do.
type Selector []Requirement

// Operator is how a Requirement compares.
type Operator string

// The operators of a label selector.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Requirement is one condition on a label.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string `json:",omitzero"`
}

func (r *Requirement) matches(value string, has bool) bool {
	switch r.Operator {
	case In:
		return has && slices.Contains(r.Values, value)
	case NotIn:
		return !has || !slices.Contains(r.Values, value)
	case Exists:
		return has
	case DoesNotExist:
		return !has
	}
	return false
}

// MatchesPod reports whether a pod with these labels is meant.
func (s Selector) MatchesPod(labels workload.Labels) bool {
	for i := range s {
		if !s[i].matches(labels.Get(s[i].Key)) {
			return false
		}
	}
	return true
}

// NameLabel is on every Namespace with its name: the API server sees to that, and in a
// directory nobody has to write it.
const NameLabel = "kubernetes.io/metadata.name"

// MatchesNamespace matches nothing of a namespace that is not known, unless its name
// is all that is asked for.
func (s Selector) MatchesNamespace(name string, labels map[string]string, known bool) bool {
	for i := range s {
		value, has := labels[s[i].Key]
		if s[i].Key == NameLabel {
			value, has = name, true
		} else if !known {
			return false
		}
		if !s[i].matches(value, has) {
			return false
		}
	}
	return true
}
