// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// bounded compares the CIDRs of the mesh with the pods in it, and says what they
// lack: an address outside them that is not known yet is taken for the world
// outside, and reached in plaintext. It reports false if they hold no pod at all,
// so that they cannot be meant. Placement alone reaches nobody. mu is held.
func (s *Source) bounded(mesh workload.Mesh) bool {
	if s.options.PlacementOnly {
		return true
	}
	cidrs := slices.Concat(s.options.MeshCIDRs, mesh.CIDRs)
	inside, outside := 0, 0
	var first string
	for _, w := range mesh.Workloads {
		if w.HostNetwork || w.Terminated || len(w.Addrs) == 0 {
			continue
		}
		i := slices.IndexFunc(w.Addrs, func(addr netip.Addr) bool {
			return !slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(addr) })
		})
		if i < 0 {
			inside++
			continue
		}
		if outside++; outside == 1 {
			first = fmt.Sprintf("Pod %v at %v", w, w.Addrs[i])
		}
	}
	ok := inside > 0 || outside == 0 && len(cidrs) > 0
	lack := ""
	switch {
	case outside > 0:
		lack = fmt.Sprintf("the CIDRs of the mesh do not hold the addresses of %d of %d pods, such as %s (-mesh-cidrs)", outside, inside+outside, first)
	case !ok:
		lack = "no Node has spec.podCIDRs, so that which addresses are of pods is not known (-mesh-cidrs)"
	}
	if lack != "" && s.health.cidrs == "" {
		s.options.Log.Error("connections to pods that are not known yet would be in plaintext", logError, lack)
	}
	s.health.cidrs = lack
	return ok
}
