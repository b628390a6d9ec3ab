// SPDX-License-Identifier: Apache-2.0

package records

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func meshPod(name, node, addr string) workload.Workload {
	account, _, _ := strings.Cut(name, "-")
	return workload.Workload{UID: name, Namespace: "shop", Name: name, Node: node, Meshed: true, Addrs: []netip.Addr{netip.MustParseAddr(addr)},
		ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/" + account), Labels: workload.NewLabels(map[string]string{"app": account})}
}

// isolating is NetworkPolicies of namespace shop, in a mode.
func isolating(mode networkpolicy.Mode, policies ...networkpolicy.Policy) *networkpolicy.Set {
	s := networkpolicy.NewSet()
	s.Replace(policies, map[string]workload.Namespace{"shop": {Labels: map[string]string{networkpolicy.ModeLabel: string(mode)}}})
	return s
}

func of(app string) networkpolicy.Selector {
	return networkpolicy.Selector{{Key: "app", Operator: networkpolicy.In, Values: []string{app}}}
}

func admits(apps ...string) networkpolicy.Side {
	s := networkpolicy.Side{Isolates: true}
	for _, app := range apps {
		s.Rules = append(s.Rules, networkpolicy.Rule{Peers: []networkpolicy.Peer{{Pods: new(of(app))}}})
	}
	return s
}

// What a NetworkPolicy refuses, no AuthorizationPolicy lets in; a change of these shows only
// what they change.
func TestWhatNetworkPoliciesRefuseNoPolicyLetsIn(t *testing.T) {
	live := []workload.Workload{meshPod("db-1", "n1", "10.0.0.2"), meshPod("web-1", "n1", "10.0.0.1")}
	closed, open := allow(), policy.Objects{}
	ingress := func(apps ...string) networkpolicy.Policy {
		return networkpolicy.Policy{Namespace: "shop", Name: "in", Pods: of("db"), Ingress: admits(apps...)}
	}
	egress := networkpolicy.Policy{Namespace: "shop", Name: "out", Pods: of("web"), Egress: admits("api")}
	for _, row := range []struct {
		what    string
		pods    []workload.Workload
		log     string
		network *networkpolicy.Set
		want    string // newly allowed, unchanged, not judged
	}{
		{"it is not known which there are", live, tunnel(web, "denied"), nil, "1 0 0"},
		{"one admits it", live, tunnel(web, "denied"), isolating("enforce", ingress("web")), "1 0 0"},
		{"none admits it", live, tunnel(web, "denied"), isolating("enforce", ingress("api")), "0 1 0"},
		{"egress of the source", live, tunnel(web, "denied"), isolating("enforce", egress), "0 1 0"},
		{"none admits it, in mode warn", live, tunnel(web, "denied"), isolating("warn", ingress("api")), "1 0 0"},
		{"plaintext is the pod network's", live, plaintext("10.0.0.9", "denied"), isolating("enforce", ingress("api")), "1 0 0"},
		{"the source is gone", live[:1], tunnel(web, "denied"), isolating("enforce", ingress("web")), "0 0 1"},
		{"the source is gone, and does not matter", live[:1], tunnel(web, "denied"), isolating("enforce", egress), "1 0 0"},
	} {
		c, err := Question{Views: []View{{Pods: row.pods, Before: closed, After: open, Network: row.network}}}.Compare(strings.NewReader(row.log))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.Allowed.Connections, c.Unchanged.Connections, c.NotJudged[stranger]); got != row.want {
			t.Errorf("%s: %s, want %s", row.what, got, row.want)
		}
		if row.want == "0 1 0" && (len(c.Unchanged.Edges) != 1 || c.Unchanged.Edges[0].By == "") {
			t.Errorf("%s: nobody is named: %+v", row.what, c.Unchanged.Edges)
		}
	}
}

// Nodes may hold different policies, for a moment or because one is behind.
func TestOfEachPodItsOwnNodeDecides(t *testing.T) {
	both := []workload.Workload{meshPod("db-1", "n1", "10.0.0.2"), meshPod("db-2", "n2", "10.0.0.3"), meshPod("db-3", "n3", "10.0.0.4")}
	closed, open := allow(), policy.Objects{}
	log := tunnel(web, "ok") + strings.ReplaceAll(tunnel(web, "ok"), "db-1", "db-2") + strings.ReplaceAll(tunnel(web, "ok"), "db-1", "db-3")
	q := Question{Views: []View{
		{Node: "n1", Pods: both, Before: open, After: open},
		{Node: "n2", Pods: both, Before: open, After: closed},
	}}
	c, err := q.Compare(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Refused.Edges) != 1 || c.Refused.Edges[0].Destination != "shop/db-2" || c.Unchanged.Connections != 2 {
		t.Errorf("refused %v, want that of the second node; unchanged %d, want that of the first, and of one that did not answer", c.Refused.Edges, c.Unchanged.Connections)
	}
}
