// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"

	"github.com/culvert-mesh/culvert/ztunnel/metrics"
)

// wellNode is a node at which nothing fires. Alerts on a CA that is not there are no part
// of its stories.
func wellNode(t *testing.T) (*agent, *installer, *prometheus) {
	a, in := newAgent(t, "node1"), newInstaller(t)
	p := newPrometheus(t, a.target(), in.target("node1"))
	p.leaveOut("CulvertCAAbsent")
	p.wantsNone(12 * time.Minute)
	return a, in, p
}

// A ztunnel stops answering; later its pod is gone, too.
func ztunnelGoes(t *testing.T) {
	a, _, p := wellNode(t)
	a.down.Store(true)
	p.wants(10*time.Minute, "CulvertZtunnelDown/critical", "CulvertZtunnelAbsent/critical")
}

// One of two that does not answer is not taken for none.
func oneOfTwoZtunnelsGoes(t *testing.T) {
	a, _, p := wellNode(t)
	p.targets = append(p.targets, newAgent(t, "node2").target())
	p.run(2 * time.Minute)
	a.down.Store(true)
	p.wants(10*time.Minute, "CulvertZtunnelDown/critical")
	p.run(10 * time.Minute)
	if p.fired["CulvertZtunnelAbsent/critical"] {
		t.Error("no ztunnel is scraped, it says, and one is")
	}
}

func podsAreNotWhatTheyShouldBe(t *testing.T) {
	a, _, p := wellNode(t)
	a.pods.Store(&metrics.Enrollment{Intended: 3, Enrolled: 3, Verified: 2, Certified: 3, Unprotected: 1, Unexplained: 1})
	p.wants(10*time.Minute, "CulvertPodsNotVerified/critical", "CulvertPodsUnprotected/critical", "CulvertNetnsUnexplained/warning")
}

func anotherHandRemovesALink(t *testing.T) {
	a, _, p := wellNode(t)
	a.Repaired("connect4")
	p.wants(2*time.Minute, "CulvertSteeringRepaired/warning")
	p.run(25 * time.Minute)
	if len(p.active) > 0 {
		t.Errorf("still active 25 minutes later: %v", p.states())
	}
	p.fired = map[string]bool{}
	a.Repaired("connect4") // its series is there already
	p.wants(2*time.Minute, "CulvertSteeringRepaired/warning")
}

// Ten denials an hour are what this node has; then a policy changes.
func policiesRefuseMore(t *testing.T) {
	a, _, p := wellNode(t)
	for range 10 {
		a.Refused("inbound", "denied")
		a.Refused("outbound", "unknown_peer")
		p.run(6 * time.Minute)
	}
	if len(p.fired) > 0 {
		t.Errorf("fired: %v", p.states())
	}
	for range 40 {
		for range 100 {
			a.Refused("inbound", "denied")
			a.Refused("outbound", "unknown_peer")
		}
		p.run(interval)
	}
	p.wants(interval, "CulvertDenials/warning", "CulvertUnknownPeers/warning")
}

// A node refuses two connections a second for as long as anybody knows it: in the first
// hours that is what it does, not more than it did.
func aNewNodeRefusesAlways(t *testing.T) {
	a, in := newAgent(t, "node1"), newInstaller(t)
	p := newPrometheus(t, a.target(), in.target("node1"))
	p.rules = slices.DeleteFunc(p.rules, func(r rulefmt.Rule) bool { return r.Alert != "CulvertDenials" })
	for range 240 {
		for range 60 {
			a.Refused("inbound", "denied")
		}
		p.run(0)
	}
	if len(p.active) > 0 || len(p.fired) > 0 {
		t.Errorf("active: %v; fired: %v", p.states(), slices.Sorted(maps.Keys(p.fired)))
	}
}

func aNodeRunsShort(t *testing.T) {
	a, _, p := wellNode(t)
	a.used.Store(95)
	a.lost.Store(7)
	a.lostBy.Store(7)
	a.SourceError()
	for i := range 520 { // a workload has 512 series
		flow := metrics.Flow{Reporter: metrics.Source, Source: metrics.Peer{Workload: "client"}, Service: metrics.Service{Name: string(rune('a'+i%26)) + string(rune('a'+i/26))}}
		a.Open(&flow, func() metrics.Bytes { return metrics.Bytes{} }).Close("-")
	}
	p.wants(10*time.Minute, "CulvertBudgetUsedUp/warning", "CulvertRecordsDropped/warning", "CulvertRecordsNotExported/warning", "CulvertSourceFails/warning", "CulvertSeriesOverflow/info")
}

// The list of plugins goes, and with it the plugin's entry.
func thePluginGoes(t *testing.T) {
	_, in, p := wellNode(t)
	if err := os.Remove(filepath.Join(in.conf, "10-net.conflist")); err != nil {
		t.Fatal(err)
	}
	in.says(t, "culvert_cni_installed 0")
	p.wants(10*time.Minute, "CulvertPluginMissing/critical")
}

// Another program writes its list again as soon as the plugin's entry is in it.
func anotherProgramFights(t *testing.T) {
	_, in, p := wellNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	var other sync.WaitGroup
	defer func() { cancel(); other.Wait() }()
	other.Go(func() {
		for ctx.Err() == nil {
			in.lists(t, `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}`)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	in.says(t, "culvert_cni_fight 1")
	p.wants(10*time.Minute, "CulvertPluginFought/warning")
}
