// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// refusing is a node that has refused shop/web some connections, the last one by a policy.
func refusing(denied uint64, policy string, last time.Time) fleet.Node {
	n := node("one", toDB(denied, 0, denied, 0, last))
	n.Dump.Pods = map[string]fleet.Pod{"web": {State: enrolled, Refused: []fleet.Refused{{
		Time: last, Result: "denied", Policy: policy, Error: "of " + policy,
		Source: fleet.RefusedEnd{Namespace: "shop", Pod: "web-1", Address: netip.MustParseAddrPort("10.0.0.7:4711")}, Dest: fleet.RefusedEnd{Namespace: "shop", Pod: "db-1"},
	}}}}
	return n
}

func TestThePastHasTheRefusalsOfThen(t *testing.T) {
	h := &History{}
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * 5 * time.Second) }
	h.Add([]fleet.Node{node("one", toDB(0, 0, 0, 0, noon))}, at(0))
	h.Add([]fleet.Node{refusing(1, "AuthorizationPolicy shop/db", at(1))}, at(1))
	h.Add([]fleet.Node{refusing(1, "AuthorizationPolicy shop/db", at(1))}, at(2))
	h.Add([]fleet.Node{refusing(4, "AuthorizationPolicy vault/no", at(3))}, at(3))
	if r := h.Graph(all, at(0)).Refusals; len(r) != 0 {
		t.Errorf("before the first: %+v", r)
	}
	check := func(i int, count uint64, policy string, last time.Time) {
		t.Helper()
		r := h.Graph(all, at(i)).Refusals
		if len(r) != 1 || r[0].Count != count || r[0].Policy != policy || r[0].Error != "of "+policy || !r[0].Last.Equal(last) || !r[0].First.Equal(at(1)) {
			t.Errorf("at %d: %+v", i, r)
		}
	}
	check(1, 1, "AuthorizationPolicy shop/db", at(1))
	check(2, 1, "AuthorizationPolicy shop/db", at(1))
	check(3, 4, "AuthorizationPolicy vault/no", at(3))
	if h.frames[1].refused[0] != h.frames[2].refused[0] {
		t.Error("moments do not share what has not changed")
	}
	for id := range h.refusals.all {
		h.refusals.remove(id)
	}
	h.Add([]fleet.Node{node("one")}, at(4))
	check(2, 1, "AuthorizationPolicy shop/db", at(1))
	if r := h.Graph(all, at(4)).Refusals; len(r) != 0 {
		t.Errorf("there is none any more: %+v", r)
	}

	shop := Sight{Namespaces: map[string]bool{"shop": true}}
	if r := h.Graph(shop, at(3)).Refusals; len(r) != 1 || r[0].Policy != "" || r[0].Error != "" || r[0].Node != "" {
		t.Errorf("a viewer reads of another namespace's policy in the past: %+v", r)
	}
	if r := h.Graph(Sight{Namespaces: map[string]bool{"till": true}}, at(3)).Refusals; len(r) != 0 {
		t.Errorf("a viewer of another namespace sees %+v", r)
	}
}

// Whoever is refused everywhere, and each time for another reason, leaves the past to others.
func TestAMomentKeepsAShareOfWhatASourceIsRefused(t *testing.T) {
	const kinds = 4 * maxNoted
	h, step := &History{}, 0
	moment := func() {
		at := noon.Add(time.Duration(step) * 5 * time.Second)
		for i := range kinds {
			one := Refusal{From: "shop/greedy", To: fmt.Sprintf("shop/app-%d", i), Word: "denied", Node: "one", Count: 1, First: noon, Last: at.Add(time.Duration(i) * time.Millisecond)}
			h.refusals.put(one)
			h.refusals.all[one.id()].Error = fmt.Sprintf("reason %d", step)
		}
		h.refusals.put(Refusal{From: "shop/web", To: "shop/db", Word: "denied", Node: "one", Count: 1, First: noon, Last: at})
		h.Add([]fleet.Node{node("one")}, at)
		step++
	}
	for range 12 {
		moment()
		f := &h.frames[len(h.frames)-1]
		if f.bytes > (maxNoted+1)*600+8*kinds+100 && step > 1 {
			t.Errorf("moment %d keeps %d bytes of its own", step, f.bytes)
		}
		seen, youngest := 0, uint64(step)
		for _, one := range h.Graph(all, f.at).Refusals {
			switch {
			case one.From == "shop/greedy":
				seen, youngest = seen+1, min(youngest, one.Count)
			case one.Count != uint64(step):
				t.Errorf("moment %d has %d of another source", step, one.Count)
			}
		}
		if step >= 4 && (seen != kinds || youngest+4 < uint64(step)) {
			t.Errorf("moment %d: %d kinds of the greedy one, one of them of moment %d", step, seen, youngest)
		}
	}
}
