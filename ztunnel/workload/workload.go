// SPDX-License-Identifier: Apache-2.0

// Package workload knows who is at an address: the pods and services of the
// mesh as one immutable snapshot, and what a connection to an address or to a
// service's virtual address means.
//
// A workload is in the mesh by its label, never by its momentary state, so
// that a peer which is restarting is not mistaken for one outside. What stands
// inside the mesh CIDRs and is not known here is refused by Resolve.
package workload

import (
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// HBONEPort is where a meshed workload accepts tunnels.
const HBONEPort = 15008

// Workload is one pod. It is a value; its maps and slices are shared by all
// copies and are never written after the snapshot was handed over.
type Workload struct {
	// UID is the one by which the kubelet knows the pod: it stands in the name of
	// the pod's cgroup, and the runtime passes it to CNI. A static pod's is not
	// that of its object.
	UID       string
	Namespace string
	Name      string
	Node      string
	Created   time.Time

	ServiceAccount string
	ID             spiffeid.ID

	Addrs  []netip.Addr
	Labels Labels

	// Meshed: labels put it in the mesh, so it is reached by HBONE and in no
	// other way. Never true of a pod in the node's own network namespace.
	Meshed bool
	// Undecided: its own labels say nothing, and its namespace is not known; or one
	// of both has a label of ours whose value means nothing.
	// It is neither in the mesh nor outside until a label says so: nothing
	// reaches it, and it is neither enrolled nor let go. A registry that knew
	// better before keeps that.
	Undecided   bool
	HostNetwork bool
	// Static: a file of its node made it, and its object is only a mirror.
	Static bool
	Ready  bool
	// Terminated: all its containers ended for good; its addresses may be
	// another pod's by now.
	Terminated bool

	// Unsteerable says why the workload is not in the mesh although labels say
	// so; else empty.
	Unsteerable string
	// Daemon: its controller is a DaemonSet, and Owner that one's name.
	Daemon bool
	// MayForward: its policies do not concern what the pod forwards to a netns
	// behind it.
	MayForward bool

	// Ports are the named container ports, sorted by name.
	Ports []NamedPort
	// HostPorts are the node's ports that lead to it.
	HostPorts []HostPort
	// Declared are the TCP container ports, with a name or without, sorted.
	Declared []uint16
	// ProbePorts are the ports that the kubelet connects to for probes and
	// lifecycle handlers of this pod, sorted. Those that a Registry returns are
	// exempt from policy: it leaves out TakenProbes.
	ProbePorts []uint16
	// ForeignProbes are the pod's probes that lead elsewhere.
	ForeignProbes []ForeignProbe
	// TakenProbes are ports that a probe of another pod of the node names, or may
	// reach. A Registry fills it.
	TakenProbes []TakenProbe

	// Names for logs and metrics, as Istio derives them.
	Owner             string // Deployment, StatefulSet, ... or the pod's own name
	CanonicalName     string
	CanonicalRevision string
}

// NamedPort is a container port that has a name.
type NamedPort struct {
	Name string
	Port uint16
}

// HBONE returns where tunnels to the workload end if it is reached at addr, or
// the zero AddrPort if the workload is not in the mesh.
func (w Workload) HBONE(addr netip.Addr) netip.AddrPort {
	if !w.Meshed {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, HBONEPort)
}

// String returns "namespace/name".
func (w Workload) String() string { return w.Namespace + "/" + w.Name }

// Identity returns the SPIFFE ID of a ServiceAccount.
func Identity(td spiffeid.TrustDomain, namespace, serviceAccount string) (spiffeid.ID, error) {
	return identity.ServiceAccount{Namespace: namespace, Name: serviceAccount}.ID(td)
}

// Service is a virtual address with endpoints behind it.
type Service struct {
	Namespace string
	Name      string
	Created   time.Time

	// VIPs are the cluster IPs; empty for a headless service, whose clients
	// connect to the pods themselves.
	VIPs []netip.Addr
	// LoadBalancerIPs and ExternalIPs are addresses that lead to the service; the
	// node would short-cut them past us if we did not.
	LoadBalancerIPs, ExternalIPs []netip.Addr
	// SourceRanges hold the clients that may connect to LoadBalancerIPs of the same
	// family. A family without any is open.
	SourceRanges []netip.Prefix
	Headless     bool
	// Local: another node's port leads to pods of that node only (externalTrafficPolicy).
	Local bool
	// InternalLocal: a cluster IP leads to endpoints of the client's node only
	// (internalTrafficPolicy).
	InternalLocal bool
	// Affinity: a client that opens a connection within this time is led to the same
	// endpoint again (sessionAffinity ClientIP). 0: to any.
	Affinity time.Duration
	Ports    []ServicePort
	// Selector is what the pods behind it have for labels, if the source was to tell.
	Selector map[string]string `json:"-"`
}

// ServicePort is one TCP port of a service.
type ServicePort struct {
	Name     string
	Port     uint16
	NodePort uint16 // 0: none
	// Endpoints are those that are ready or Leaving, of both families, with the
	// target port resolved.
	Endpoints []Endpoint
}

// Hostname returns the service's name in the cluster's DNS.
func (s Service) Hostname() string { return s.Name + "." + s.Namespace + ".svc.cluster.local" }

// Namespace is what the mesh needs to know of a namespace.
type Namespace struct {
	Meshed bool // its pods are in the mesh, or may be: its label means nothing
	Labels map[string]string
}

// Mesh is one full snapshot.
type Mesh struct {
	Workloads  Workloads
	Services   []Service
	Namespaces map[string]Namespace
	// Nodes have addresses that are known, and never in the mesh.
	Nodes []Node
	// CIDRs are addresses of pods and services, beside those that the Registry
	// was made with. One that it got once stays.
	CIDRs []netip.Prefix
	// Stored: it was read from a file that the source wrote earlier. A label may have
	// come since, so that a pod outside the mesh is not proved to be outside.
	Stored bool `json:"-"`
}
