// SPDX-License-Identifier: Apache-2.0

package why

import (
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// abroad names a workload of another trust domain at 172.20.0.7 of 172.20.0.0/16.
func (p *pair) abroad() {
	p.one.More["foreign"] = map[string]any{"domains": []any{map[string]any{
		"trustDomain": "other.example", "cidrs": []string{"172.20.0.0/16"},
		"workloads": []any{map[string]any{"id": "spiffe://other.example/ns/shop/sa/db", "addresses": []string{"172.20.0.7"}}},
	}}}
}

// A workload of another trust domain is proved by the tunnel alone: what its own mesh does is
// not known, and the connection is not said to be carried.
func TestAWorkloadOfAnotherTrustDomainIsProvedByItsTunnelAlone(t *testing.T) {
	p := newPair(t)
	p.abroad()
	a := p.why("shop/web-1", "172.20.0.7:5432")
	for step, says := range map[string]string{
		StepDestination: "spiffe://other.example/ns/shop/sa/db of another trust domain", StepTunnel: "node1 has proved a tunnel to 172.20.0.7:15008",
		StepDestCert: "node1 has verified that it is spiffe://other.example/ns/shop/sa/db's", StepPolicy: "is known to the mesh of other.example",
	} {
		if !strings.Contains(a.step(step).Says, says) {
			t.Errorf("%s: %+v, want %q", step, a.step(step), says)
		}
	}
	if a.Verdict != NotKnown {
		t.Errorf("the verdict is %s", a.Verdict)
	}
	if a := p.why("shop/web-1", "172.20.0.8:5432"); a.EndsAt != StepDestination || !strings.Contains(a.step(StepDestination).Change, "-foreign-workloads") {
		t.Errorf("nobody is named there: %+v", a)
	}
	shown := false
	p.tries(func(proof *fleet.Proof) {
		proof.Tunnel = &fleet.Outcome{Word: wordTLS, Shown: &shown, Error: "this node has no bundle of that trust domain"}
	})
	if a := p.why("shop/web-1", "172.20.0.7:5432"); a.EndsAt != StepTunnel || !strings.Contains(a.step(StepTunnel).Change, "-federation of the CA") {
		t.Errorf("without a bundle: %+v", a)
	}
	shown = true
	if a := p.why("shop/web-1", "172.20.0.7:5432"); a.EndsAt != StepDestCert {
		t.Errorf("it proves to be somebody else: %+v", a)
	}
	for says, change := range map[string]string{"the CA denies spiffe://other.example/ns/shop/sa/db": "the deny set of the CA", "-foreign-workloads does not name it": "-foreign-workloads"} {
		p.tries(func(proof *fleet.Proof) {
			proof.Tunnel = &fleet.Outcome{Word: wordDenied, Shown: &shown, Error: says}
		})
		if a := p.why("shop/web-1", "172.20.0.7:5432"); a.EndsAt != StepDestCert || !strings.Contains(a.step(StepDestCert).Change, change) {
			t.Errorf("%s: %+v", says, a)
		}
	}
}

// A domain left the list: its addresses do not lead outside.
func TestAnAddressOfATrustDomainThatLeftIsRefused(t *testing.T) {
	p := newPair(t)
	p.one.More["foreign"] = map[string]any{"domains": []any{}, "former": []any{map[string]any{"trustDomain": "other.example", "cidrs": []string{"172.20.0.0/16"}}}}
	if a := p.why("shop/web-1", "172.20.0.7:5432"); a.EndsAt != StepDestination || !strings.Contains(a.step(StepDestination).Says, "other.example") {
		t.Errorf("%+v", a)
	}
}
