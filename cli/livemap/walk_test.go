// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/why"
)

// asked is a Walker that keeps what it was asked.
type asked struct {
	from, to string
	nodes    []string
	answer   why.Answer
	err      error
}

func (a *asked) walk(_ context.Context, from, to string, nodes []string) (why.Answer, error) {
	a.from, a.to, a.nodes = from, to, nodes
	return a.answer, a.err
}

// sees is a Gate that lets everybody see the same.
type sees struct {
	Token
	sight  Sight
	viewer string
}

func (s sees) Sight(*http.Request) (Sight, string, error) { return s.sight, s.viewer, nil }

func walked(t *testing.T, s *Server, id string) (int, string) {
	t.Helper()
	server, client := serve(t, s)
	answer, text := ask(t, client, "GET", server.URL+"/api/why?id="+url.QueryEscape(id), nil)
	return answer.StatusCode, strings.TrimSpace(text)
}

func TestARefusalIsWalkedFromItsSourceToWhatItAskedFor(t *testing.T) {
	h, id := refusedMesh()
	a := &asked{answer: why.Answer{Verdict: why.Refused, EndsAt: why.StepPolicy, Steps: []why.Step{{Step: why.StepPolicy, State: why.Fault, Says: "rule 0", By: "one"}}}}
	status, text := walked(t, &Server{History: h, Gate: sees{sight: all}, Walk: a.walk}, id)
	var got Walked
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != 200 {
		t.Fatalf("%d %s: %v", status, text, err)
	}
	if a.from != "shop/web-1" || a.to != "10.96.0.1:80" || len(a.nodes) != 2 || a.nodes[0] != "one" {
		t.Errorf("asked for %s to %s on %v", a.from, a.to, a.nodes)
	}
	if got.Verdict != why.Refused || got.EndsAt != why.StepPolicy || len(got.Steps) != 1 || got.Steps[0].By != "one" || got.At.IsZero() {
		t.Errorf("%+v", got)
	}
}

// What a step says is written for those who see all.
func TestAWalkTellsAViewerNothingOfOtherNamespaces(t *testing.T) {
	h, _ := refusedMesh()
	shop := Sight{Namespaces: map[string]bool{"shop": true}}
	id := h.Graph(shop, time.Time{}).Refusals[0].ID
	a := &asked{answer: why.Answer{Verdict: why.Refused, EndsAt: why.StepPolicy, Steps: []why.Step{
		{Step: why.StepSource, State: why.OK, Says: "shop/web-1 on one", By: "other"},
		{Step: why.StepDestination, State: why.Unknown, Says: "other did not answer"},
		{Step: why.StepPolicy, State: why.Fault, Says: "AuthorizationPolicy vault/no refuses it", Change: "AuthorizationPolicy vault/no: rule 1", Evidence: []string{"shop/db-1 is STRICT", "spiffe://cluster.local/ns/vault/sa/key"}},
	}}}
	status, text := walked(t, &Server{History: h, Gate: sees{sight: shop, viewer: "ann"}, Walk: a.walk}, id)
	if status != 200 || strings.Contains(text, "vault") || strings.Contains(text, "other did") || strings.Contains(text, `"by"`) {
		t.Errorf("%d %s", status, text)
	}
	if !strings.Contains(text, "shop/web-1 on one") || !strings.Contains(text, "shop/db-1 is STRICT") || !strings.Contains(text, `"endsAt":"policy"`) {
		t.Errorf("what is the viewer's is missing: %s", text)
	}
	for _, why := range []string{"no node knows pod vault/key", "Get https://10.96.0.1:443/api/v1/pods: refused"} {
		a.err = errors.New(why)
		if status, text := walked(t, &Server{History: h, Gate: sees{sight: shop, viewer: "ann"}, Walk: a.walk}, id); status != http.StatusBadGateway || strings.Contains(text, "vault") || strings.Contains(text, "10.96") {
			t.Errorf("%d %s", status, text)
		}
	}
}

// The walk asks nodes anew: one may have come since the last moment. One that has left may
// still be in what others say.
func TestAWalkHidesNodesThatCameSinceOrHaveLeft(t *testing.T) {
	h, _ := refusedMesh()
	h.Add([]fleet.Node{node("one"), node("brief")}, noon.Add(5*time.Second))
	h.Add([]fleet.Node{node("one")}, noon.Add(10*time.Second))
	shop := Sight{Namespaces: map[string]bool{"shop": true}}
	id := h.Graph(shop, time.Time{}).Refusals[0].ID
	a := &asked{answer: why.Answer{Verdict: why.Refused, EndsAt: why.StepTunnel, Nodes: []string{"one", "newcomer"}, Steps: []why.Step{
		{Step: why.StepSource, State: why.OK, Says: "shop/web-1 on one"},
		{Step: why.StepTunnel, State: why.Fault, Says: "newcomer does not answer", Change: "ztunnel on newcomer", Evidence: []string{"other told it", "brief told it", "one told it"}},
	}}}
	status, text := walked(t, &Server{History: h, Gate: sees{sight: shop, viewer: "ann"}, Walk: a.walk}, id)
	if status != 200 || !strings.Contains(text, "shop/web-1 on one") || !strings.Contains(text, "one told it") {
		t.Errorf("what is the viewer's is missing: %d %s", status, text)
	}
	for _, name := range []string{"newcomer", "other", "brief"} {
		if strings.Contains(text, name+" told") || strings.Contains(text, name+" does") || strings.Contains(text, "on "+name) {
			t.Errorf("the viewer reads of node %s: %s", name, text)
		}
	}
	if _, text := walked(t, &Server{History: h, Gate: sees{sight: all}, Walk: a.walk}, h.Graph(all, time.Time{}).Refusals[0].ID); !strings.Contains(text, "newcomer") {
		t.Errorf("who sees all does not: %s", text)
	}
}

func TestOnlyRefusalsWhoseEndsAreBothTheViewersAreWalked(t *testing.T) {
	h := &History{}
	n := node("one", toDB(2, 0, 1, 0, noon))
	n.Dump.Edges[0].Destination = end("vault", "key")
	h.Add([]fleet.Node{n}, noon)
	shop := Sight{Namespaces: map[string]bool{"shop": true}}
	half := h.Graph(shop, time.Time{}).Refusals[0].ID
	whole := h.Graph(all, time.Time{}).Refusals[0].ID
	a := &asked{}
	for id, want := range map[string]string{half: errNotYours.Error(), whole: errNoRefusal.Error(), "": errNoRefusal.Error()} {
		if status, text := walked(t, &Server{History: h, Gate: sees{sight: shop}, Walk: a.walk}, id); status != 404 || text != want {
			t.Errorf("%q: %d %s, want %s", id, status, text, want)
		}
	}
	if status, text := walked(t, &Server{History: h, Gate: sees{sight: all}, Walk: a.walk}, whole); status != 404 || text != errForgotten.Error() {
		t.Errorf("without addresses: %d %s", status, text)
	}
	if a.from != "" {
		t.Errorf("walked from %s", a.from)
	}
}

// An end without a name, as that of a Service of which nobody is ready, is walked by an
// address: whoever has that now may be another's.
func TestAWalkThatLeadsToAnotherNamespaceIsNotTold(t *testing.T) {
	h := &History{}
	n := node("one", toDB(2, 0, 1, 0, noon))
	n.Dump.Edges[0].Destination = fleet.End{}
	n.Dump.Pods = map[string]fleet.Pod{"web": {State: enrolled, Refused: []fleet.Refused{{
		Time: noon, Result: "denied", Asked: netip.MustParseAddrPort("10.96.0.9:80"), Source: fleet.RefusedEnd{Namespace: "shop", Pod: "web-1"},
	}}}}
	h.Add([]fleet.Node{n}, noon)
	shop := Sight{Namespaces: map[string]bool{"shop": true}}
	id := h.Graph(shop, time.Time{}).Refusals[0].ID
	unready := why.Step{Step: why.StepApp, State: why.Fault, Says: "nobody but vault/key-1", Evidence: []string{"not ready in namespace vault: key-0", "not ready in namespace shop: web-9"}}
	for _, tc := range []struct {
		source, destination, says string
		status                    int
	}{
		{"shop/web-1", "Service vault/key port 80 (10.96.0.9)", "Service", 404},
		{"shop/web-1", "10.96.0.9:80", "vault/key-0 on one", 404},
		{"vault/key-0", "10.96.0.9:80", "10.96.0.9:80 is outside the mesh", 404},
		{"shop/web-1", "10.96.0.9:80", "10.96.0.9:80 is outside the mesh", 200},
	} {
		a := &asked{answer: why.Answer{Verdict: why.Refused, Source: tc.source, Destination: tc.destination, Steps: []why.Step{{Step: why.StepDestination, State: why.OK, Says: tc.says}, unready}}}
		status, text := walked(t, &Server{History: h, Gate: sees{sight: shop, viewer: "ann"}, Walk: a.walk}, id)
		if a.to != "10.96.0.9:80" || status != tc.status || strings.Contains(text, "key-") || strings.Contains(text, "web-9") != (status == 200) {
			t.Errorf("%s to %s, %s: asked for %s: %d %s", tc.source, tc.destination, tc.says, a.to, status, text)
		}
	}
}

// A walk asks nodes for all that they know.
func TestAViewerWalksOneRefusalAtATimeAndAllOfThemFew(t *testing.T) {
	var w walks
	enter := func(viewer string) bool { return w.enter(viewer, noon) }
	if !enter("ann") || enter("ann") || !enter("") || !enter("") || !enter("bob") || enter("carl") {
		t.Error("want one of each viewer, and four of all")
	}
	w.leave("ann", noon)
	if enter("ann") || !enter("carl") {
		t.Error("who has left rests, and others have the place")
	}
	w.leave("", noon)
	if !w.enter("ann", noon.Add(walkRest)) || len(w.rests) != 3 {
		t.Errorf("the place of one who has left is lost: %v", w.rests)
	}
	h, id := refusedMesh()
	s := &Server{History: h, Gate: sees{sight: all, viewer: "ann"}, Walk: (&asked{}).walk}
	s.walks.enter("ann", time.Now())
	if status, text := walked(t, s, id); status != http.StatusServiceUnavailable || text != walkIsBusy {
		t.Errorf("%d %s", status, text)
	}
	s.walks.leave("ann", time.Now().Add(-walkRest))
	for _, want := range []int{http.StatusOK, http.StatusServiceUnavailable} { // after a walk she rests
		if status, text := walked(t, s, id); status != want {
			t.Errorf("%d %s, want %d", status, text, want)
		}
	}
	if s.walks.all != 0 {
		t.Errorf("%d walks are under way, want none", s.walks.all)
	}
}

// Of many nodes those of both ends are asked.
func TestAWalkAsksFewNodes(t *testing.T) {
	var all targets
	for _, name := range strings.Fields("a b c d e f g h i") {
		all = append(all, fleet.Target{Name: name})
	}
	for _, tc := range []struct {
		of   targets
		ends []string
		want string
	}{{all, []string{"c", "i"}, "c i"}, {all, nil, "a"}, {all[:3], []string{"c"}, "a b c"}} {
		some, err := (&someNodes{tc.of, tc.ends}).Ztunnels(t.Context())
		var names []string
		for _, one := range some {
			names = append(names, one.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != tc.want {
			t.Errorf("of %d, for %v: %s (%v), want %s", len(tc.of), tc.ends, got, err, tc.want)
		}
	}
}

type targets []fleet.Target

func (t targets) Ztunnels(context.Context) ([]fleet.Target, error) { return t, nil }
func (t targets) CAs(context.Context) ([]fleet.Target, error)      { return nil, nil }
