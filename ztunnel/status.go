// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// status tells operators how this ztunnel is.
type status struct {
	cfg      Config
	pods     *pods
	registry *workload.Registry
	objects  *file.Source
}

// pending names what readiness waits for. After the CA has answered once, its
// absence is a condition of certificates, not of the node.
func (s *status) pending() (waiting []string) {
	for _, p := range []struct {
		name string
		done bool
	}{
		{"workloads", s.registry.Synced()},
		{"sandboxes", s.pods.isLoaded()},
		{"CA", s.pods.certs.Answered()},
	} {
		if !p.done {
			waiting = append(waiting, p.name)
		}
	}
	return waiting
}

// dumps are the top-level keys of /config_dump, by the names that ztunnel's
// tools know.
func (s *status) dumps() map[string]func() any {
	return map[string]func() any{
		"workloads":     func() any { return s.registry.All().Workloads },
		"services":      func() any { return s.registry.All().Services },
		"policies":      func() any { return s.pods.policy.All() },
		"certificates":  func() any { return s.pods.certs.Dump() },
		"workloadState": func() any { return s.pods.dump() },
		"source":        func() any { return s.objects.Stats() },
		"version":       func() any { return version() },
		"config":        func() any { return s.cfg },
	}
}

// publish has the kernel's, the store's and the pods' counts scraped with the rest.
func (s *status) publish(counts *metrics.Metrics, datapath *redirect.Datapath) {
	counts.BPF(datapath.Stats)
	counts.Pods(s.pods.enrollment)
	counts.Certificates(s.pods.certs.Expiries)
}

// snapshot writes what the plugin decides by while no ztunnel answers. When it
// cannot be written the old one goes, too: it may call a namespace open that
// just became meshed, and without any the plugin lets nothing pass.
func (s *status) snapshot() {
	path := s.cfg.snapshotFile()
	if err := enroll.WriteSnapshot(path, snapshotOf(s.registry.All(), s.cfg.OwnPod)); err != nil {
		s.cfg.Log.Error("writing the plugin's snapshot; pods wait while ztunnel is away", "error", err)
		os.Remove(path)
	}
}

// namespacesOf says of each namespace whether an unknown pod in it may belong
// in the mesh: by the namespace's label, or as others in it do by their own.
func namespacesOf(mesh workload.Mesh) map[string]bool {
	meshed := make(map[string]bool, len(mesh.Namespaces))
	for name, ns := range mesh.Namespaces {
		meshed[name] = ns.Meshed
	}
	for _, w := range mesh.Workloads {
		if _, known := meshed[w.Namespace]; known && w.Meshed {
			meshed[w.Namespace] = true
		}
	}
	return meshed
}

func snapshotOf(mesh workload.Mesh, ownPod string) enroll.Snapshot {
	now := time.Now()
	snap := enroll.Snapshot{Generation: uint64(now.UnixNano()), Written: now}
	for name, meshed := range namespacesOf(mesh) {
		snap.AllNamespaces = append(snap.AllNamespaces, name)
		if meshed {
			snap.MeshedNamespaces = append(snap.MeshedNamespaces, name)
		}
	}
	slices.Sort(snap.AllNamespaces)
	slices.Sort(snap.MeshedNamespaces)
	snap.OwnPod.Namespace, snap.OwnPod.Name, _ = strings.Cut(ownPod, "/")
	return snap
}

// podState is one sandbox in the dump.
type podState struct {
	State       string             `json:"state"` // enrolled, pending or outside
	Reason      string             `json:"reason,omitempty"`
	Identity    string             `json:"identity,omitempty"`
	Sandbox     sandbox            `json:"sandbox"`
	Connections []proxy.Connection `json:"connections,omitempty"`
}

// dump is the state of every sandbox by pod UID.
func (p *pods) dump() map[string]podState {
	states := map[string]podState{}
	for _, pod := range p.all() {
		w, known := p.registry.ByUID(pod.PodUID)
		state := podState{State: "outside", Sandbox: pod.sandbox}
		if known && p.wanted(w) {
			state.State = "pending"
		}
		pod.mu.Lock()
		state.Reason = pod.failed
		if m := pod.member; m != nil {
			state.State, state.Identity = "enrolled", m.id.String()
			state.Connections = m.carrier.pod.Connections()
		}
		pod.mu.Unlock()
		states[pod.PodUID] = state
	}
	return states
}

// enrollment counts how many pods labels want, we enrolled, and the kernel
// confirmed.
func (p *pods) enrollment() (e metrics.Enrollment) {
	for _, w := range p.registry.Local(p.node) {
		if p.wanted(w) {
			e.Intended++
		}
	}
	for _, pod := range p.all() {
		if ok, _ := pod.enrolled(); ok {
			e.Enrolled++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Verified = p.verified
	return e
}

func (p *pods) isLoaded() bool {
	select {
	case <-p.loaded:
		return true
	default:
		return false
	}
}
