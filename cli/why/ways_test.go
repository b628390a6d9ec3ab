// SPDX-License-Identifier: Apache-2.0

package why

import (
	"strings"
	"testing"
	"time"

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

// Others refuse connections too: only where ztunnel itself listens does that say that it
// does not run.
func TestANodeThatDoesNotAnswerIsNoFaultOfItsZtunnel(t *testing.T) {
	for problem, want := range map[string]State{
		"dial unix /run/culvert/admin.sock: connect: connection refused":                            Fault,
		"dial unix /run/culvert/admin.sock: connect: no such file or directory":                     Fault,
		"dial tcp4 127.0.0.1:15000: connect: connection refused":                                    Fault,
		"dial tcp6 [::1]:15000: connect: connection refused":                                        Fault,
		"port-forward: error dialing backend: dial tcp 10.1.2.3:10250: connect: connection refused": Unknown,
		"dial tcp 10.1.2.3:6443: connect: connection refused":                                       Unknown,
		"dial tcp 127.0.0.1:16000: connect: connection refused":                                     Unknown,
		"dial unix /run/culvert/admin.sock: connect: permission denied":                             Unknown,
		"open dumps/node2.json: no such file or directory":                                          Unknown,
	} {
		p := newPair(t)
		p.silent["node2"] = problem
		if s := p.why("shop/web-1", "shop/db").step(StepDestSteered); s.State != want {
			t.Errorf("%s: %s, want %s", problem, s.State, want)
		}
	}
}

// A name that is a pod's and a Service's is neither, until it says which.
func TestANameOfAPodAndAServiceSaysWhich(t *testing.T) {
	p := newPair(t)
	for i := range 2 {
		p.one.Workloads.([]any)[i].(map[string]any)["Name"] = []string{"web", "db"}[i]
	}
	for to, want := range map[string]string{
		"svc/shop/db:5432": "Service shop/db port 5432 (10.96.0.10)", "svc/db": "Service shop/db port 5432 (10.96.0.10)",
		"service/db:sql": "Service shop/db port 5432 (10.96.0.10)", "pod/shop/db:5432": "shop/db port 5432 (10.0.1.8)", "pod/db": "shop/db port 5432 (10.0.1.8)",
	} {
		w := p.world()
		w.Nodes = w.Nodes[:1]
		if a, err := w.Explain(t.Context(), "pod/web", to); err != nil || a.Destination != want || a.Source != "shop/web" {
			t.Errorf("%s: from %q to %q, %v", to, a.Source, a.Destination, err)
		}
	}
	for _, tc := range []struct{ from, to, want string }{
		{"shop/web", "shop/db:5432", "shop/db is a pod and a Service: say which, as pod/shop/db or svc/shop/db"},
		{"shop/web", "db", "db is a pod and a Service: say which, as pod/shop/db or svc/shop/db"},
		{"svc/db", "shop/db:5432", "svc/db: want a pod, as shop/web-1"},
		{"shop/web", "pod/empty:80", "no node that answered knows a pod or a Service pod/empty"},
		{"shop/web", "svc/web:80", "no node that answered knows a pod or a Service svc/web"},
	} {
		w := p.world()
		w.Nodes = w.Nodes[:1]
		if _, err := w.Explain(t.Context(), tc.from, tc.to); err == nil || err.Error() != tc.want {
			t.Errorf("%s to %s: %v, want %s", tc.from, tc.to, err, tc.want)
		}
	}
}

// A file is as of the time that it says. Without one nothing that ends with time is ok.
func TestAFileIsAsOfTheTimeInIt(t *testing.T) {
	why := func(taken time.Time) Answer {
		w := newPair(t).world()
		for i := range w.Nodes {
			w.Nodes[i].File, w.Nodes[i].Taken = true, taken
		}
		a, err := w.Explain(t.Context(), "shop/web-1", "shop/db")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := why(clitest.Now); a.Verdict != Carried || !a.AsOf.Equal(clitest.Now) {
		t.Errorf("taken now: %s as of %v: %+v", a.Verdict, a.AsOf, a.Steps)
	}
	if a := why(clitest.Now.Add(time.Hour)); a.EndsAt != StepSourceCert {
		t.Errorf("taken when the certificates are over: %s at %q: %+v", a.Verdict, a.EndsAt, a.Steps)
	}
	a := why(time.Time{})
	if a.Verdict != NotKnown || !a.AsOf.IsZero() {
		t.Errorf("without a time: %s as of %v", a.Verdict, a.AsOf)
	}
	for _, step := range []string{StepSourceSteered, StepSourceCert, StepDestSteered, StepDestCert} {
		if s := a.step(step); s.State != Unknown || !strings.HasSuffix(s.By, ", when is not said") {
			t.Errorf("without a time: %s is %s by %s", step, s.State, s.By)
		}
	}
}
