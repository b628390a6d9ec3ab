// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// namespacesOf says of each namespace whether an unknown pod in it may belong
// in the mesh: by the namespace's label, or as others in it do by their own.
func namespacesOf(mesh workload.Mesh) map[string]bool {
	meshed := make(map[string]bool, len(mesh.Namespaces))
	for name, ns := range mesh.Namespaces {
		meshed[name] = ns.Meshed
	}
	last := ""
	for _, w := range mesh.Workloads {
		if !w.Meshed || w.Namespace == last { // mostly, and many times a second
			continue
		}
		last = w.Namespace
		if _, known := meshed[last]; known {
			meshed[last] = true
		}
	}
	return meshed
}

// Snapshot is what the plugin decides by while no ztunnel answers; ownPod is
// ztunnel's own, as namespace/name.
func Snapshot(mesh workload.Mesh, ownPod string) enroll.Snapshot {
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
