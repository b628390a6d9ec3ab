// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Object is one of the objects that a Builder understands.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is what sort of Object something is.
type Kind string

// The kinds that a Builder understands.
const (
	KindNamespace           Kind = "Namespace"
	KindServiceAccount      Kind = "ServiceAccount"
	KindNode                Kind = "Node"
	KindPod                 Kind = "Pod"
	KindRuntimeClass        Kind = "RuntimeClass"
	KindService             Kind = "Service"
	KindEndpointSlice       Kind = "EndpointSlice"
	KindServiceCIDR         Kind = "ServiceCIDR"
	KindPeerAuthentication  Kind = "PeerAuthentication"
	KindAuthorizationPolicy Kind = "AuthorizationPolicy"
	KindNetworkPolicy       Kind = "NetworkPolicy"
)

// KindOf returns the kind of o, "" if a Builder does not understand it.
func KindOf(o Object) Kind {
	switch o.(type) {
	case *corev1.Namespace:
		return KindNamespace
	case *corev1.ServiceAccount:
		return KindServiceAccount
	case *corev1.Node:
		return KindNode
	case *corev1.Pod:
		return KindPod
	case *nodev1.RuntimeClass:
		return KindRuntimeClass
	case *corev1.Service:
		return KindService
	case *discoveryv1.EndpointSlice:
		return KindEndpointSlice
	case *networkingv1.ServiceCIDR:
		return KindServiceCIDR
	case *PeerAuthentication:
		return KindPeerAuthentication
	case *AuthorizationPolicy:
		return KindAuthorizationPolicy
	case *NetworkPolicy:
		return KindNetworkPolicy
	}
	return ""
}

// Name is an object's own among those of its kind. Namespace is empty for kinds
// that stand in none.
type Name struct{ Namespace, Name string }

// String returns "namespace/name", or the name alone.
func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

func nameOf(o Object) Name { return Name{o.GetNamespace(), o.GetName()} }

func byName(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Builder makes one snapshot after another of objects that come, change and go
// one at a time. A change costs what hangs on the object: that of a pod does not
// concern other pods, that of a namespace concerns its pods. It is for one
// goroutine at a time, and keeps parts of the objects but writes to none.
type Builder struct {
	options Options

	names      names
	namespaces map[string]workload.Namespace
	accounts   accounts
	classes    map[string]*nodev1.RuntimeClass
	pods       pods
	services   services
	nodes      nodes
	cidrs      cidrs
	peers      policies[policy.PeerAuthentication]
	authz      policies[policy.AuthorizationPolicy]
	network    networkPolicies

	decisions uint64
}

// NewBuilder returns a builder without objects.
func NewBuilder(o Options) *Builder {
	o.RootNamespace = cmp.Or(o.RootNamespace, DefaultRootNamespace)
	return &Builder{
		options:    o,
		names:      names{},
		namespaces: map[string]workload.Namespace{},
		classes:    map[string]*nodev1.RuntimeClass{},
		pods:       newPods(),
		services:   newServices(o.Selectors),
		nodes:      newNodes(),
		cidrs:      cidrs{},
		peers:      policies[policy.PeerAuthentication]{},
		authz:      policies[policy.AuthorizationPolicy]{},
		network:    networkPolicies{byName: policies[networkpolicy.Policy]{}},
	}
}

// Decisions counts what may have put a known pod into the mesh or out of it, an
// unknown one of a Namespace likewise, or changed what a policy means.
func (b *Builder) Decisions() uint64 { return b.decisions }

// Set takes an object that is new or has changed. An error says why it cannot be
// understood. A pod is then left out, so that nobody reaches it. Of a policy the
// former meaning stays in force, or, if it has none, the strictest that it may
// have meant.
func (b *Builder) Set(o Object) error {
	name := nameOf(o)
	b.names.add(KindOf(o), name)
	switch o := o.(type) {
	case *corev1.Namespace:
		in, decided := meshed(o.Labels, nil, b.options)
		_, strange := StrangeLabel(o.Labels)
		ns := workload.Namespace{Meshed: in || strange && !decided, Labels: b.namespaceLabels(o)}
		if b.namespaces[name.Name].Meshed != ns.Meshed {
			b.decisions++
		}
		b.namespaces[name.Name] = ns
		b.accounts.setNamespace(name.Name, o.Annotations[CertificateTTL])
		b.joinNamespace(name.Name)
	case *corev1.ServiceAccount:
		b.accounts.set(name, o)
	case *corev1.Node:
		b.setNode(name.Name, ownAddrs(o), localityOf(o))
		b.cidrs.addTexts(o.Spec.PodCIDR)
		b.cidrs.addTexts(o.Spec.PodCIDRs...)
	case *corev1.Pod:
		return b.setPod(name, o)
	case *nodev1.RuntimeClass:
		b.classes[name.Name] = o
		b.joinClass(name.Name)
	case *corev1.Service:
		b.services.set(name, o)
	case *discoveryv1.EndpointSlice:
		b.services.setSlice(name, o)
	case *networkingv1.ServiceCIDR:
		b.cidrs.addTexts(o.Spec.CIDRs...)
	case *PeerAuthentication:
		return b.setPeerAuthentication(name, o)
	case *AuthorizationPolicy:
		return b.setAuthorizationPolicy(name, o)
	case *NetworkPolicy:
		return b.setNetworkPolicy(name, o)
	}
	return nil
}

// Delete takes an object out; one that is not there is fine. CIDRs stay: what
// was the mesh's once is not taken for the world outside because its Node went.
func (b *Builder) Delete(kind Kind, name Name) {
	delete(b.names[kind], name)
	switch kind {
	case KindNamespace:
		delete(b.namespaces, name.Name)
		b.accounts.setNamespace(name.Name, "")
		b.joinNamespace(name.Name)
	case KindServiceAccount:
		b.accounts.delete(name)
	case KindNode:
		b.setNode(name.Name, nil, workload.Locality{})
	case KindPod:
		b.deletePod(name)
	case KindRuntimeClass:
		delete(b.classes, name.Name)
		b.joinClass(name.Name)
	case KindService:
		b.services.delete(name)
	case KindEndpointSlice:
		b.services.deleteSlice(name)
	case KindPeerAuthentication:
		delete(b.peers, name)
		b.decisions++
	case KindAuthorizationPolicy:
		delete(b.authz, name)
		b.decisions++
	case KindNetworkPolicy:
		b.network.delete(name)
		b.decisions++
	}
}

// AddCIDRs adds addresses of the mesh that are known from elsewhere.
func (b *Builder) AddCIDRs(prefixes []netip.Prefix) { b.cidrs.add(prefixes...) }

// Snapshot returns what the objects mean now. It shares nothing with the builder
// that either will write to.
func (b *Builder) Snapshot() Snapshot {
	namespaces := make(map[string]workload.Namespace, len(b.namespaces))
	for name, ns := range b.namespaces {
		namespaces[name] = ns
	}
	return Snapshot{
		Policies: policy.Objects{
			RootNamespace: b.options.RootNamespace, PeerAuthentications: b.peers.sorted(), AuthorizationPolicies: b.authz.sorted(),
		},
		NetworkPolicies: b.network.all(),
		Mesh: workload.Mesh{
			Workloads: slices.Clone(b.pods.workloads), Services: b.services.build(&b.pods, b.nodes.localities),
			Namespaces: namespaces, Nodes: b.nodes.sorted(), CIDRs: b.cidrs.merged(),
		},
		Accounts: b.accounts.snapshot(),
	}
}

func (b *Builder) setNode(name string, addrs []netip.Addr, where workload.Locality) {
	if b.nodes.localities[name].Zone != where.Zone {
		b.services.zoneChanged()
	}
	b.nodes.setNode(name, addrs, where)
}
