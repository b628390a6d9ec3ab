// SPDX-License-Identifier: Apache-2.0

package why

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
)

// another puts shop/db-N behind the Service shop/db, at 10.0.1.(7+N).
func (p *pair) another(n int) {
	uid, name, addr := fmt.Sprintf("uid-db-%d", n), fmt.Sprintf("db-%d", n), fmt.Sprintf("10.0.1.%d", 7+n)
	for _, z := range []*clitest.Ztunnel{&p.one, &p.two} {
		pod := clitest.PairPod("db", "node2", addr, 5432)
		pod["UID"], pod["Name"] = uid, name
		z.Workloads = append(z.Workloads.([]any), pod)
		endpoints := z.More["services"].([]any)[0].(map[string]any)["endpoints"].(map[string]any)
		endpoints[uid] = map[string]any{"workloadUid": uid, "port": map[string]any{"5432": 5432}, "addresses": []string{addr}, "node": "node2"}
	}
}

// enrolled has node2 serve shop/db-N as it serves shop/db-1.
func (p *pair) enrolled(n int) {
	state := map[string]any{}
	for key, value := range p.pod("uid-db-1") {
		state[key] = value
	}
	delete(state, "connections")
	p.two.Pods[fmt.Sprintf("uid-db-%d", n)] = state
}

// One endpoint of a Service that faults is found among others that do not.
func TestTheEndpointThatFaultsIsFound(t *testing.T) {
	p := newPair(t)
	p.another(2)
	if a := p.why("shop/web-1", "shop/db"); a.EndsAt != StepDestSteered || !strings.Contains(a.step(StepDestSteered).Says, "has no sandbox of shop/db-2") {
		t.Errorf("%s at %s: %+v", a.Verdict, a.EndsAt, a.step(StepDestSteered))
	}
}

// Each endpoint is tried: what nodes say of one may be as of another, and only it refuses.
func TestEachEndpointIsTried(t *testing.T) {
	p := newPair(t)
	p.another(2)
	p.enrolled(2)
	a := p.why("shop/web-1", "shop/db")
	if evidence := a.step(StepEndpoint).Evidence; a.Verdict != Carried || len(evidence) != 1 || evidence[0] != "none of the 2 endpoints faults" {
		t.Errorf("%s at %q: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
	well := p.probe
	p.probe = func(n *fleet.Node, q fleet.Question) (fleet.Proof, error) {
		proof, err := well(n, q)
		if q.Peer.IsValid() && q.Peer.Addr().String() == "10.0.1.9" {
			proof.Tunnel = &fleet.Outcome{Word: "dial", Error: "connection refused", Refused: true}
		}
		return proof, err
	}
	a = p.why("shop/web-1", "shop/db")
	if s := a.step(StepTunnel); a.EndsAt != StepTunnel || !strings.Contains(s.Change, "the enrolment of Pod shop/db-2") {
		t.Errorf("db-2 takes no tunnels: %s at %q: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
	p.probe = func(n *fleet.Node, q fleet.Question) (fleet.Proof, error) {
		if q.App.IsValid() && q.App.Addr().String() == "10.0.1.9" {
			return fleet.Proof{}, errors.New("no answer")
		}
		return well(n, q)
	}
	a = p.why("shop/web-1", "shop/db")
	if a.Verdict != NotKnown || !strings.Contains(a.step(StepEndpoint).Says, "shop/db-2") || a.step(StepApp).State != Unknown {
		t.Errorf("db-2 could not be tried: %s at %q: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
}

// What is not walked to is not proved, and few that do not answer end it.
func TestEndpointsBeyondTheBoundAreNotProved(t *testing.T) {
	p := newPair(t)
	for n := 2; n <= maxWalks+1; n++ {
		p.another(n)
		p.enrolled(n)
	}
	a := p.why("shop/web-1", "shop/db")
	want := fmt.Sprintf("none of %d endpoints faults, and 1 more were not looked at", maxWalks)
	if s := a.step(StepEndpoint); a.Verdict != NotKnown || s.State != Unknown || !strings.HasPrefix(strings.Join(s.Evidence, "; "), want) {
		t.Errorf("%s at %q: %+v", a.Verdict, a.EndsAt, s)
	}
	asked := 0
	p.probe = func(*fleet.Node, fleet.Question) (fleet.Proof, error) {
		asked++
		return fleet.Proof{}, errors.New("no answer")
	}
	if a := p.why("shop/web-1", "shop/db"); a.Verdict != NotKnown || asked > 4*(maxUnproved+1) {
		t.Errorf("%s after %d tries that nobody answered", a.Verdict, asked)
	}
}

// Plaintext that comes to a pod in the mesh is the pod network's on its way.
func TestPlaintextIsNotProvedByTheDestination(t *testing.T) {
	open := func(p *pair, src string) {
		p.pod("uid-db-1")["connections"] = map[string]any{"inbound": []any{
			map[string]any{"direction": "inbound", "path": "direct", "protocol": "TCP", "src": src, "actualDst": "10.0.1.8:5432"},
		}}
	}
	for name, tc := range map[string]struct {
		from, src string
		want      Verdict
	}{
		"an address that is nobody's":           {"203.0.113.9", "203.0.113.8:4711", NotKnown},
		"with a connection open":                {"203.0.113.9", "203.0.113.9:4711", Carried},
		"a pod that is not in the mesh":         {"shop/web-1", "", NotKnown},
		"a pod outside with a connection open":  {"shop/web-1", "[::ffff:10.0.0.7]:4711", Carried},
		"a pod outside, and another's is open":  {"shop/web-1", "10.0.0.70:4711", NotKnown},
		"a record of an address that is broken": {"shop/web-1", "web", NotKnown},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			for _, z := range []*clitest.Ztunnel{&p.one, &p.two} {
				z.Policies = map[string]any{"RootNamespace": "istio-system"}
				z.Workloads.([]any)[0].(map[string]any)["Meshed"] = false
			}
			open(p, tc.src)
			a := p.why(tc.from, "shop/db")
			state := map[Verdict]State{Carried: OK, NotKnown: Unknown}[tc.want]
			if s := a.step(StepNetworkPolicy); a.Verdict != tc.want || s.State != state {
				t.Errorf("%s at %q: %+v", a.Verdict, a.EndsAt, s)
			}
		})
	}
}
