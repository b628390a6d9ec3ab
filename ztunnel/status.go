// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/configdump"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/report"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/foreign"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// status tells operators how this ztunnel is.
type status struct {
	cfg      Config
	pods     *pods.Pods
	registry *workload.Registry
	objects  source.Source
	steering func() error // what the kernel does not do as it should
	others   func() ([]redirect.Other, error)
	state    func() error // what of the state directory cannot be restored
	blocking *blocking
	abroad   *foreign.Source // nil: no workloads of other trust domains

	written      enroll.Snapshot // what the plugin's snapshot says; of the sink alone
	snapshotFile string          // by redirect.Lock's path, so that it is written to no other ztunnel's directory
}

// pending says what readiness waits for, a sentence each. Once the CA would have
// signed for this node, its absence is a condition of certificates, not of the
// node. What the kernel does not do as it should, as it said when it was last
// asked, is one of the node.
func (s *status) pending() (waiting []string) {
	if !s.registry.Synced() {
		waiting = append(waiting, "workloads: "+s.unread())
	} else if !s.pods.Loaded() {
		waiting = append(waiting, "sandboxes: those of an earlier run are being taken over")
	}
	if err := s.cfg.meshes(s.registry.All().CIDRs); err != nil {
		waiting = append(waiting, "CIDRs of Nodes and ServiceCIDRs: "+err.Error())
	}
	if wrong := s.pods.Misplaced(); wrong != "" {
		waiting = append(waiting, "node: "+wrong+" (-node-name)")
	}
	if ca := s.pods.Certs.Standing(); !ca.Ready {
		waiting = append(waiting, "CA: "+cmp.Or(ca.Problem, "it has not answered yet whether it signs for this node"))
	}
	if err := s.steering(); err != nil {
		waiting = append(waiting, "steering: "+err.Error())
	}
	if err := s.state(); err != nil {
		waiting = append(waiting, "state directory: "+err.Error()+" (-state-dir)")
	}
	return waiting
}

// reporter tells Kubernetes' users how this node and its pods are; nil: there is no
// API server to tell it.
func (s *status) reporter() (*report.Reporter, error) {
	watched, ok := s.objects.(*kube.Source)
	if !ok {
		return nil, nil
	}
	return report.New(report.Config{
		Kubeconfig: s.cfg.Kubeconfig, Node: s.cfg.NodeName, Shown: watched.Own, Pending: s.pending,
		OwnPod: s.cfg.OwnPod, Untaint: s.cfg.Untaint, Log: s.cfg.levels.Logger(loglevel.Report),
		Conditions: func() []pods.Condition {
			if !s.pods.Loaded() {
				return nil
			}
			return s.pods.Conditions()
		},
	})
}

// unread says why there is no snapshot of workloads yet.
func (s *status) unread() string {
	if s.cfg.Kubeconfig != "" {
		return cmp.Or(s.objects.Stats().LastError, "the API server has not told all of them yet") + " (-kubeconfig)"
	}
	return cmp.Or(s.objects.Stats().LastError, s.cfg.Workloads+" is not read yet") + " (-workloads)"
}

// dumps are the top-level keys of /config_dump, by the names that ztunnel's
// tools know.
func (s *status) dumps() map[string]func() any {
	return map[string]func() any{
		"workloads": func() any {
			mesh := s.registry.All()
			return configdump.Workloads(mesh.Workloads.Unpack(), mesh.Services, s.cfg.Cluster, s.registry.Locality)
		},
		"services": func() any {
			mesh := s.registry.All()
			return configdump.Services(mesh.Services, mesh.Workloads)
		},
		"policies":        func() any { return configdump.Policies(s.pods.Policy.All()) },
		"policyObjects":   func() any { return s.pods.Policy.All() },
		"networkPolicies": s.blocking.dump,
		"mesh":            s.mesh,
		"foreign":         s.foreign,
		"steering":        s.steeringDump,
		"policyFeatures":  func() any { return policy.Features },
		"edges":           func() any { return s.pods.Edges.Rows() },
		"certificates":    func() any { return s.pods.Certs.Dump() },
		"workloadState":   func() any { return s.pods.Dump() },
		"ca":              func() any { return s.pods.Certs.Standing() },
		"bundle":          func() any { return s.pods.Certs.Following() },
		"denials":         func() any { return s.pods.Certs.Denying() },
		"source":          func() any { return s.objects.Stats() },
		"version":         func() any { return version() },
		"time":            func() any { return time.Now().UTC() },
		"host":            func() any { return lookAtHost(s.cfg.Cgroup, s.others) },
		"config":          func() any { return s.cfg },
	}
}

// mesh is what is known of addresses beside pods and services.
func (s *status) mesh() any {
	mesh := s.registry.All()
	return struct {
		CIDRs []netip.Prefix  `json:"cidrs"` // of the API server, beside -mesh-cidrs
		Nodes []workload.Node `json:"nodes"`
	}{mesh.CIDRs, mesh.Nodes}
}

// foreign is the workloads of other trust domains, and what is wrong with their file.
func (s *status) foreign() any {
	out := struct {
		Domains []workload.ForeignDomain `json:"domains"`
		Former  []workload.ForeignDomain `json:"former,omitempty"` // CIDRs of before, which stay refused
		Problem string                   `json:"problem,omitempty"`
	}{Domains: []workload.ForeignDomain{}}
	if s.abroad != nil {
		out.Domains, out.Former, out.Problem = s.abroad.Domains(), s.registry.FormerForeign(), s.abroad.Problem()
	}
	return out
}

// steeringDump is what the kernel does not do as it should, and what another hand removed.
func (s *status) steeringDump() any {
	problem := ""
	if err := s.steering(); err != nil {
		problem = err.Error()
	}
	return struct {
		Problem string        `json:"problem,omitempty"`
		Repairs []pods.Repair `json:"repairs"`
	}{problem, s.pods.Repairs()}
}

// publish registers the counts of kernel, store and pods with the rest.
func (s *status) publish(counts *metrics.Metrics, datapath *redirect.Datapath, budget *proxy.Budget) {
	counts.BPF(datapath.Stats)
	counts.Budget(func() (size, used map[string]float64) {
		size, used = budget.Stats()
		most, underWay := s.pods.Handshakes()
		size["handshakes"], used["handshakes"] = float64(most), float64(underWay)
		mayHold, held := hbone.MemoryHeld()
		size["memory"], used["memory"] = float64(mayHold), float64(held)
		return size, used
	})
	if s.cfg.KubeletCgroup != "" {
		counts.Kubelet(func() bool { return datapath.Kubelet() == nil })
	}
	counts.Pods(s.pods.Enrollment)
	counts.Tunnels(s.pods.Tunnels)
	counts.Certificates(s.certificates)
	counts.Bundle(func() metrics.Bundle {
		f := s.pods.Certs.Following()
		return metrics.Bundle{Generation: f.Generation, Roots: f.Roots, Connected: f.Connected, Age: f.AgeSeconds}
	})
	counts.DenySet(func() metrics.DenySet {
		d := s.pods.Certs.Denying()
		return metrics.DenySet{Generation: d.Generation, Entries: d.Entries, Connected: d.Connected > 0, Age: d.AgeSeconds}
	})
	counts.CA(func() string { return string(s.pods.Certs.Standing().Reason) })
	counts.Known(s.workloads)
	counts.DryRuns(s.dryRuns)
	counts.NetworkPoliciesBlocking(func() int { return len(s.blocking.all()) })
	counts.LogDropped(s.cfg.LogDropped)
}

func (s *status) certificates() metrics.Certificates {
	store := s.pods.Certs.Stats()
	c := metrics.Certificates{
		Held: map[string]int{}, Lives: map[string]metrics.Life{}, Failed: map[string]uint64{},
		Issued: store.Issued, InFlight: store.InFlight,
	}
	for state, n := range store.Held {
		c.Held[string(state)] = n
	}
	for reason, n := range store.Failed {
		c.Failed[string(reason)] = n
	}
	for id, life := range s.pods.Certs.Lives() {
		c.Lives[id] = metrics.Life{
			Until: life.Until, Lifetime: life.Lifetime, Next: life.Next, Overdue: life.State == certs.Overdue || life.State == certs.Expired,
		}
	}
	return c
}

func (s *status) dryRuns() (counts []metrics.DryRun) {
	for _, d := range s.pods.Policy.DryRuns() {
		counts = append(counts, metrics.DryRun{
			Namespace: d.Namespace, Policy: d.Name, Verdict: d.Verdict, Enforced: d.Enforced, Connections: d.Connections,
		})
	}
	return counts
}

// workloads are those that have pods, by the labels of their connections.
func (s *status) workloads() map[metrics.Workload]bool {
	known := map[metrics.Workload]bool{}
	for _, w := range s.registry.All().Workloads {
		known[metrics.Workload{Namespace: w.Namespace, Workload: w.Owner}] = true
	}
	return known
}

// stricter has namespaces of a stored mesh be of the mesh if the plugin's snapshot has
// them so. That is written when a namespace gets its label, what is stored a second or
// two later: a pod of such a namespace that nobody knows yet waits.
func (s *status) stricter(mesh workload.Mesh) workload.Mesh {
	if !mesh.Stored {
		return mesh
	}
	last, err := enroll.ReadSnapshot(s.snapshotFile)
	if err != nil {
		return mesh // there is none, or the plugin lets nothing pass by it
	}
	stored := mesh.Namespaces
	mesh.Namespaces = make(map[string]workload.Namespace, len(stored))
	maps.Copy(mesh.Namespaces, stored)
	for _, name := range last.MeshedNamespaces {
		ns := mesh.Namespaces[name]
		ns.Meshed = true
		mesh.Namespaces[name] = ns
	}
	return mesh
}

// snapshot writes what the plugin decides by while no ztunnel answers. When it
// cannot be written the old one goes, too: it may call a namespace open that
// just became meshed, and without any the plugin lets nothing pass.
func (s *status) snapshot() {
	if errors.Is(s.state(), redirect.ErrLocked) {
		return // what is there now is another's
	}
	path, next := s.snapshotFile, pods.Snapshot(s.registry.All(), s.cfg.OwnPod)
	if !s.written.Written.IsZero() && slices.Equal(next.AllNamespaces, s.written.AllNamespaces) && slices.Equal(next.MeshedNamespaces, s.written.MeshedNamespaces) {
		return // a cluster changes all the time, its namespaces seldom
	}
	s.written = next
	if err := enroll.WriteSnapshot(path, next); err != nil {
		s.cfg.Log.Error("writing the plugin's snapshot; pods wait while ztunnel is away", logError, err)
		os.Remove(path)
		s.written = enroll.Snapshot{}
	}
}

// keepSnapshot writes the snapshot again if another hand removed it.
func (s *status) keepSnapshot() (replaced bool, err error) {
	if !s.registry.Synced() {
		return false, nil
	}
	path := s.snapshotFile
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, enroll.WriteSnapshot(path, pods.Snapshot(s.registry.All(), s.cfg.OwnPod))
}
