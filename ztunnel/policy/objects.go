// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Mode is a PeerAuthentication's mTLS mode.
type Mode uint8

// What a port expects of those who connect to it.
const (
	Unset      Mode = iota // as the next wider scope says
	Permissive             // plaintext and mutual TLS
	Strict                 // mutual TLS only
	Disable                // as Permissive: a tunnel cannot be without TLS
)

// String returns the mode as it is written in a PeerAuthentication.
func (m Mode) String() string {
	switch m {
	case Permissive:
		return "PERMISSIVE"
	case Strict:
		return "STRICT"
	case Disable:
		return "DISABLE"
	}
	return "UNSET"
}

// MarshalText writes the mode's name into dumps.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the mode's name.
func (m *Mode) UnmarshalText(text []byte) error {
	mode, ok := ParseMode(string(text))
	if !ok {
		return fmt.Errorf("%q: not a mode", text)
	}
	*m = mode
	return nil
}

// ParseMode is String's inverse; the empty string is UNSET.
func ParseMode(s string) (Mode, bool) {
	for _, m := range []Mode{Unset, Permissive, Strict, Disable} {
		if s == m.String() {
			return m, true
		}
	}
	return Unset, s == ""
}

// Plaintext reports whether connections without mutual TLS are accepted.
func (m Mode) Plaintext() bool { return m != Strict }

// Objects are all policies of one snapshot.
type Objects struct {
	RootNamespace         string // where mesh-wide ones stand
	PeerAuthentications   []PeerAuthentication
	AuthorizationPolicies []AuthorizationPolicy
}

// same reports whether both are the very same slices, as of a source whose policies
// did not change.
func (o *Objects) same(p *Objects) bool {
	return o.RootNamespace == p.RootNamespace &&
		sameSlice(o.PeerAuthentications, p.PeerAuthentications) && sameSlice(o.AuthorizationPolicies, p.AuthorizationPolicies)
}

func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// Object is what every policy has.
type Object struct {
	Namespace string
	Name      string
	Created   time.Time
	Selector  Selector
}

// PeerAuthentication says whether plaintext is accepted.
type PeerAuthentication struct {
	Object
	Mode Mode
	// Ports are modes for single ports of the pod, never of a service. Only
	// with a selector.
	Ports map[uint16]Mode
}

// String returns "PeerAuthentication namespace/name".
func (p PeerAuthentication) String() string {
	return "PeerAuthentication " + p.Namespace + "/" + p.Name
}

// Selector is the labels that a workload must have. The empty one is no
// selector: the policy is for its whole namespace.
type Selector map[string]string

// Matches reports whether a workload with these labels is selected.
func (s Selector) Matches(labels workload.Labels) bool {
	for k, want := range s {
		if got, ok := labels.Get(k); !ok || got != want {
			return false
		}
	}
	return true
}

// older orders policies by precedence: the oldest wins, then the first by name.
func older(a, b Object) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
