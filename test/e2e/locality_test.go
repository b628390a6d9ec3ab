// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// locality are Services without EndpointSlices over the pods of the story, each with its
// cluster IP and what it says about where its connections go.
var locality = []struct{ name, ip, tier, says string }{
	{"anywhere", "10.78.90.1", "web", ""},
	{"on-node", "10.78.90.2", "web", "internalTrafficPolicy: Local"},
	{"on-other-node", "10.78.90.3", "lone", "internalTrafficPolicy: Local"},
	{"in-zone", "10.78.90.4", "web", "trafficDistribution: PreferSameZone"},
	{"in-other-zone", "10.78.90.5", "lone", "trafficDistribution: PreferSameZone"},
	{"faithful", "10.78.90.6", "web", "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}"},
	{"limited", "10.78.90.7", "web", "type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24]}, status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}"},
}

// Real sockets, as test/kubernetes has it beside kube-proxy.
func TestConnectionsToAServiceGoWhereItSays(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	for i, n := range s.Nodes {
		s.must(s.Apply(fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: %s, labels: {topology.kubernetes.io/zone: %s}}}",
			n.Name, []string{"east", "west"}[i])))
	}
	tier := func(name string) func(*lab.PodSpec) { return func(p *lab.PodSpec) { p.Labels["tier"] = name } }
	clients := map[*lab.Node]*lab.Pod{s.one: s.pod(s.one, "client1", nil), s.two: s.pod(s.two, "client2", nil)}
	for _, p := range []*lab.Pod{
		s.pod(s.one, "a", tier("web")), s.pod(s.one, "b", tier("web")), s.pod(s.two, "c", tier("web")), s.pod(s.two, "lone", tier("lone")),
	} {
		s.serve(p.Place, agent.Echo, 8080)
	}
	for _, l := range locality {
		s.must(s.Apply(fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {namespace: %s, name: %s},
  spec: {clusterIP: %s, selector: {tier: %s}, ports: [{port: 80, targetPort: 8080}], %s}}`, s.namespace, l.name, l.ip, l.tier, l.says)))
	}
	s.must(s.Settle(s.ctx))

	for _, c := range []struct {
		service string
		from    *lab.Node
		want    string
	}{
		{"anywhere", s.one, "a b c"},
		{"on-node", s.one, "a b"},
		{"on-node", s.two, "c"},
		{"on-other-node", s.two, "lone"},
		{"in-zone", s.one, "a b"},
		{"in-zone", s.two, "c"},
		{"in-other-zone", s.one, "lone"},
		{"limited", s.one, "a b c"},
	} {
		if got := s.leadsTo(clients[c.from], c.service, 30); got != c.want {
			t.Errorf("%s from %s leads to %s, want %s", c.service, c.from.Name, got, c.want)
		}
	}
	t.Run("nobody on the node", func(t *testing.T) {
		s.turnedAway(clients[s.one], s.vip("on-other-node"), "dial", "internalTrafficPolicy Local and nobody on node")
	})
	t.Run("not in loadBalancerSourceRanges", func(t *testing.T) {
		s.turnedAway(clients[s.one], netip.MustParseAddrPort("203.0.113.7:80"), "denied", "not in loadBalancerSourceRanges")
	})
	t.Run("sessionAffinity", func(t *testing.T) {
		start := time.Now()
		first := s.leadsTo(clients[s.one], "faithful", 20)
		for try := 0; len(first) != 1 && time.Since(start) > 2*time.Second && try < 10; try++ { // a slow machine was too slow
			start = time.Now()
			first = s.leadsTo(clients[s.one], "faithful", 20)
		}
		if len(first) != 1 {
			t.Errorf("within the timeout to %s", first)
		}
		for range 20 { // by chance to the same one each time: once in a billion
			time.Sleep(2100 * time.Millisecond)
			if s.leadsTo(clients[s.one], "faithful", 1) != first {
				return
			}
		}
		t.Errorf("after the timeout always to %s", first)
	})
}

func (s *story) vip(service string) netip.AddrPort {
	i := slices.IndexFunc(locality, func(l struct{ name, ip, tier, says string }) bool { return l.name == service })
	return netip.AddrPortFrom(netip.MustParseAddr(locality[i].ip), 80)
}

// leadsTo connects to a Service so often, one after the other, and returns the pods that
// the records of the new connections name.
func (s *story) leadsTo(from *lab.Pod, service string, times int) string {
	s.Helper()
	before := len(s.recordsOf(from, service))
	for range times {
		s.must(from.Ping(s.ctx, "tcp4", s.vip(service), "hello"))
	}
	var made []lab.Record
	s.eventually("all connections are on record", func() bool {
		made = s.recordsOf(from, service)[before:]
		return len(made) == times
	})
	pods := make(map[string]bool)
	for _, r := range made {
		pods[r.Get("dst.workload")] = true
		if r.Get("result") != "ok" {
			s.Errorf("%v", r)
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(pods)), " ")
}

func (s *story) recordsOf(from *lab.Pod, service string) (found []lab.Record) {
	records, err := from.Node.Records()
	s.must(err)
	for _, r := range records {
		if r.Get("direction") == "outbound" && r.Get("src.workload") == from.Name && r.Get("dst.service") == service+"."+s.namespace+".svc.cluster.local" {
			found = append(found, r)
		}
	}
	return found
}

// turnedAway asserts that a connection is reset, and why.
func (s *story) turnedAway(from *lab.Pod, to netip.AddrPort, result, why string) {
	s.Helper()
	if err := from.Ping(s.ctx, "tcp4", to, "hello"); !errors.Is(err, syscall.ECONNRESET) {
		s.Errorf("to %v: %v, want a reset", to, err)
	}
	if r := s.record(from.Node, "dst.addr", to.String(), "result", result); !strings.Contains(r.Get("error"), why) {
		s.Errorf("%v, want %q", r, why)
	}
}
