// SPDX-License-Identifier: Apache-2.0

// Package source says where workloads and policies come from: a Source
// delivers one full snapshot after another, and Build makes a snapshot of
// Kubernetes objects, wherever they were read.
package source

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Snapshot is everything known at one moment. Put Policies in force before
// Mesh: a workload must not be seen before the policy that restricts it.
type Snapshot struct {
	Version         uint64 // grows by one with each snapshot of a source
	Policies        policy.Objects
	NetworkPolicies []networkpolicy.Policy // the same slice for as long as none changes
	Mesh            workload.Mesh
	Accounts        Accounts
}

// Accounts are what a CA goes by beside workloads. Nobody writes to its maps.
type Accounts struct {
	ByName map[Name]Account
	// TTL has the annotation CertificateTTL of the Namespaces that bear it, as it stands.
	TTL map[string]string
}

// Account is a ServiceAccount.
type Account struct {
	UID string
	TTL string // its annotation CertificateTTL as it stands; none
}

// Sink takes one snapshot after another, in order, and owns them.
type Sink func(Snapshot)

// Source delivers snapshots until ctx ends; then Run returns nil. It delivers
// nothing that it could not read whole: the last good snapshot stays in force.
type Source interface {
	Run(ctx context.Context, sink Sink) error
	Stats() Stats
}

// Stats is what became of a source so far.
type Stats struct {
	Generation uint64    // version of the snapshot in force; 0: none yet
	InForce    time.Time // since when
	Stored     time.Time // when it was written to the file that it was read from; zero: it is live
	Files      int       // in that snapshot, where it comes from files
	Objects    int       // in that snapshot
	Held       int       // objects whose change is not in force yet, since it would let more in
	Failures   uint64    // times that it could not be read whole
	LastError  string    // why it cannot be now, or what of an object is wrong; empty: nothing is
	Old        bool      // what says who is where cannot be read now; what is wrong with one object does not count
}

// Options is how objects are read.
type Options struct {
	TrustDomain   spiffeid.TrustDomain // required
	RootNamespace string               // istio-system
	// IgnoreIstioLabels: istio.io/dataplane-mode puts nothing into the mesh. false
	IgnoreIstioLabels bool
	// AccountsOnly: a pod that names no ServiceAccount is left out. false: it has "default"
	AccountsOnly bool
	// Selectors: a snapshot's Services have theirs. false
	Selectors bool
}

// Objects are what a snapshot is built from. Build does not write to them, and
// the snapshot shares their label maps.
type Objects struct {
	Namespaces            []*corev1.Namespace
	Nodes                 []*corev1.Node
	Pods                  []*corev1.Pod
	ServiceAccounts       []*corev1.ServiceAccount
	RuntimeClasses        []*nodev1.RuntimeClass
	Services              []*corev1.Service
	EndpointSlices        []*discoveryv1.EndpointSlice
	PeerAuthentications   []*PeerAuthentication
	AuthorizationPolicies []*AuthorizationPolicy
	NetworkPolicies       []*NetworkPolicy
}
