// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"os"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// status tells operators how this ztunnel is.
type status struct {
	cfg      Config
	pods     *pods.Pods
	registry *workload.Registry
	objects  source.Source
}

// pending names what readiness waits for. After the CA has answered once, its
// absence is a condition of certificates, not of the node.
func (s *status) pending() (waiting []string) {
	for _, p := range []struct {
		name string
		done bool
	}{
		{"workloads", s.registry.Synced()},
		{"sandboxes", s.pods.Loaded()},
		{"CA", s.pods.Certs.Answered()},
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
		"policies":      func() any { return s.pods.Policy.All() },
		"certificates":  func() any { return s.pods.Certs.Dump() },
		"workloadState": func() any { return s.pods.Dump() },
		"source":        func() any { return s.objects.Stats() },
		"version":       func() any { return version() },
		"config":        func() any { return s.cfg },
	}
}

// publish has the kernel's, the store's and the pods' counts scraped with the rest.
func (s *status) publish(counts *metrics.Metrics, datapath *redirect.Datapath) {
	counts.BPF(datapath.Stats)
	if s.cfg.KubeletCgroup != "" {
		counts.Kubelet(func() bool { return datapath.Kubelet() == nil })
	}
	counts.Pods(s.pods.Enrollment)
	counts.Certificates(s.pods.Certs.Expiries)
}

// snapshot writes what the plugin decides by while no ztunnel answers. When it
// cannot be written the old one goes, too: it may call a namespace open that
// just became meshed, and without any the plugin lets nothing pass.
func (s *status) snapshot() {
	path := s.cfg.snapshotFile()
	if err := enroll.WriteSnapshot(path, pods.Snapshot(s.registry.All(), s.cfg.OwnPod)); err != nil {
		s.cfg.Log.Error("writing the plugin's snapshot; pods wait while ztunnel is away", "error", err)
		os.Remove(path)
	}
}
