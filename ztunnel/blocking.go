// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

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

const (
	// findEvery is how often the policies are looked at while snapshots come.
	findEvery = time.Second
	// findPart bounds what that takes of a processor: one part of so many.
	findPart = 20
)

// Run looks anew after snapshots, which do not wait for it, until ctx ends; then it returns
// nil.
func (b *blocking) Run(ctx context.Context) error {
	for {
		changed, begun := b.registry.Changed(), time.Now()
		b.find(ctx)
		pause := time.NewTimer(max(findEvery, findPart*time.Since(begun)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// find logs what it finds when that has changed, and nothing if ctx ends meanwhile. It is for
// one goroutine at a time.
func (b *blocking) find(ctx context.Context) {
	var concerns []*networkpolicy.Concern
	for _, w := range b.registry.Local(b.node) {
		if c := b.policies.Concern(&w); w.Meshed && !slices.Contains(concerns, c) {
			concerns = append(concerns, c)
		}
	}
	names, err := b.policies.Blocking(ctx, concerns, b.pods)
	if err != nil {
		return
	}
	if old := b.names.Swap(&names); old != nil && slices.Equal(*old, names) || old == nil && len(names) == 0 {
		return
	}
	if len(names) == 0 {
		b.log.Info("no NetworkPolicy blocks tunnels any more")
		return
	}
	said := names[:min(len(names), maxBlocking)]
	b.log.Warn("NetworkPolicies admit connections of pods in the mesh, and not the tunnels that carry them: they need a rule for TCP port 15008 with the same peers",
		logWhat, strings.Join(said, ", "), logOmitted, len(names)-len(said))
}

// pods yields all pods.
func (b *blocking) pods(yield func(workload.Workload) bool) {
	for _, w := range b.registry.All().Workloads {
		if !yield(w.Workload()) {
			return
		}
	}
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
		// Namespaces are the labels by which policies select, of all.
		Namespaces map[string]map[string]string `json:"namespaces"`
	}{b.policies.All(), b.policies.Modes(), b.all(), b.labels()}
}

func (b *blocking) labels() map[string]map[string]string {
	out := map[string]map[string]string{}
	if len(b.policies.All()) == 0 {
		return out
	}
	for name, namespace := range b.registry.All().Namespaces {
		out[name] = namespace.Labels
	}
	return out
}
