// SPDX-License-Identifier: Apache-2.0

package why

import (
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// service changes a Service that both nodes know.
func (p *pair) service(i int, key string, value any) {
	for _, z := range []clitest.Ztunnel{p.one, p.two} {
		z.More["services"].([]any)[i].(map[string]any)[key] = value
	}
}

func TestServicesAreReachedByNodesPortsAndByTheNamesOfTheirPods(t *testing.T) {
	p := newPair(t)
	nodes := []any{map[string]any{"Name": "node1", "Addrs": []string{"192.168.0.1"}}}
	p.one.More["mesh"].(map[string]any)["nodes"] = nodes
	p.service(0, "nodePorts", map[string]any{"5432": 30001})
	p.service(1, "nodePorts", map[string]any{"5432": 30002})
	if a := p.why("shop/web-1", "192.168.0.1:30001"); a.Verdict != Carried {
		t.Errorf("%s at %s: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
	if a := p.why("shop/web-1", "192.168.0.1:30002"); a.EndsAt != StepDestination || !strings.Contains(a.step(StepDestination).Says, "shop/empty") {
		t.Errorf("%s at %s: %+v", a.Verdict, a.EndsAt, a.step(StepDestination))
	}

	p = newPair(t)
	for i := range 2 {
		p.service(i, "vips", []string{})
		p.service(i, "headless", true)
	}
	if a := p.why("shop/web-1", "shop/db"); a.Verdict != Carried || !strings.Contains(a.step(StepEndpoint).Says, "shop/db-1") {
		t.Errorf("%s at %s: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
	if a := p.why("shop/web-1", "shop/empty"); a.EndsAt != StepEndpoint || !strings.Contains(a.step(StepEndpoint).Change, "Service shop/empty: spec.selector") {
		t.Errorf("%s at %s: %+v", a.Verdict, a.EndsAt, a.step(StepEndpoint))
	}
}

// An older ztunnel does not say which addresses are of the mesh.
func TestAnAddressThatMayBeOfTheMeshIsUnknown(t *testing.T) {
	p := newPair(t)
	delete(p.one.More, "mesh")
	if a := p.why("shop/web-1", "10.0.9.9:80"); a.Verdict != NotKnown || a.step(StepDestination).State != Unknown {
		t.Errorf("%s at %s: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
	if a := p.why("192.0.2.7", "10.0.1.8:5432"); a.Verdict != Refused || a.EndsAt != StepPolicy { // it is no web
		t.Errorf("%s at %s: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
}

// What a node leaves out, as an older one does, makes steps unknown, and breaks nothing.
func TestWhateverANodeDoesNotSayTheWalkEnds(t *testing.T) {
	one, _ := clitest.Pair()
	for key := range one.Dump() {
		for _, silent := range []string{"", "node1", "node2"} {
			for _, to := range []string{"shop/db", "shop/db-1:5432", "shop/empty", "10.0.1.8:5432", "10.0.9.9:80", "192.0.2.1:443", "shop/web-1:80"} {
				for _, from := range []string{"shop/web-1", "shop/db-1", "192.0.2.7"} {
					p := newPair(t)
					p.lacks = key
					if silent != "" {
						p.silent[silent] = "no answer within 10s"
					}
					a, err := p.world().Explain(t.Context(), from, to)
					if err == nil && len(a.Steps) != len(looks) {
						t.Errorf("without %s, %s silent, %s to %s: %+v", key, silent, from, to, a)
					}
				}
			}
		}
	}
}
