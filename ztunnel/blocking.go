// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// blocking finds the NetworkPolicies by which the pod network drops tunnels of the node's
// pods although they admit what the tunnels carry.
type blocking struct {
	policies *networkpolicy.Set
	registry *workload.Registry
	node     string
	log      *slog.Logger

	names atomic.Pointer[[]string] // sorted
}

// maxBlocking is how many policies one line of the log names.
const maxBlocking = 20

// find looks anew after each snapshot, and logs what it finds when that has changed. It is
// for one goroutine at a time.
func (b *blocking) find() {
	var names []string
	asked := map[*networkpolicy.Concern]bool{}
	for _, w := range b.registry.Local(b.node) {
		if c := b.policies.Concern(&w); w.Meshed && !asked[c] {
			asked[c] = true
			names = append(names, c.Blocking()...)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if old := b.names.Swap(&names); old != nil && slices.Equal(*old, names) || old == nil && len(names) == 0 {
		return
	}
	if len(names) == 0 {
		b.log.Info("no NetworkPolicy blocks tunnels any more")
		return
	}
	said := names[:min(len(names), maxBlocking)]
	b.log.Warn("NetworkPolicies admit connections of pods in the mesh, and not the tunnels that carry them: where peers are in the mesh, they need a rule for TCP port 15008",
		logWhat, strings.Join(said, ", "), logOmitted, len(names)-len(said))
}

// all returns what find found.
func (b *blocking) all() []string {
	if names := b.names.Load(); names != nil {
		return *names
	}
	return nil
}

// dump is the key networkPolicies of /config_dump.
func (b *blocking) dump() any {
	return struct {
		Policies []networkpolicy.Policy        `json:"policies"`
		Modes    map[string]networkpolicy.Mode `json:"modes"`
		Blocking []string                      `json:"blocking"`
	}{b.policies.All(), b.policies.Modes(), b.all()}
}
