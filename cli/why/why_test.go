// SPDX-License-Identifier: Apache-2.0

package why

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
)

// pair is clitest.Pair, to be changed before it is asked.
type pair struct {
	t        *testing.T
	one, two clitest.Ztunnel
	silent   map[string]string // problems of nodes that do not answer
	skew     map[string]time.Duration
	probe    func(n *fleet.Node, q fleet.Question) (fleet.Proof, error)
	lacks    string // a key that no dump has
}

func newPair(t *testing.T) *pair {
	one, two := clitest.Pair()
	well := &fleet.Outcome{OK: true, Took: "3ms"}
	return &pair{t: t, one: one, two: two, silent: map[string]string{}, skew: map[string]time.Duration{},
		probe: func(*fleet.Node, fleet.Question) (fleet.Proof, error) {
			return fleet.Proof{Kernel: well, Tunnel: well, App: well}, nil
		}}
}

// pod is the state of a pod in its own node's dump.
func (p *pair) pod(uid string) map[string]any {
	for _, z := range []clitest.Ztunnel{p.one, p.two} {
		if state, is := z.Pods[uid].(map[string]any); is {
			return state
		}
	}
	p.t.Fatalf("no pod %s", uid)
	return nil
}

// tries has probes of one kind fail.
func (p *pair) tries(fails func(*fleet.Proof)) {
	before := p.probe
	p.probe = func(n *fleet.Node, q fleet.Question) (fleet.Proof, error) {
		proof, err := before(n, q)
		fails(&proof)
		return proof, err
	}
}

func (p *pair) world() *World {
	w := &World{Now: clitest.Now, Probe: func(_ context.Context, n *fleet.Node, q fleet.Question) (fleet.Proof, error) { return p.probe(n, q) }}
	for _, z := range []clitest.Ztunnel{p.one, p.two} {
		n := fleet.Node{Target: fleet.Target{Name: z.Node}, Clock: fleet.Clock{Offset: p.skew[z.Node], Within: time.Second}}
		if n.Problem = p.silent[z.Node]; n.Problem == "" {
			dump := z.Dump()
			delete(dump, p.lacks)
			text, err := json.Marshal(dump)
			if err == nil {
				err = json.Unmarshal(text, &n.Dump)
			}
			if err != nil {
				p.t.Fatal(err)
			}
		}
		w.Nodes = append(w.Nodes, n)
	}
	return w
}

func (p *pair) why(from, to string) Answer {
	p.t.Helper()
	a, err := p.world().Explain(p.t.Context(), from, to)
	if err != nil {
		p.t.Fatalf("%s to %s: %v", from, to, err)
	}
	return a
}

func (a Answer) step(name string) Step {
	for _, s := range a.Steps {
		if s.Step == name {
			return s
		}
	}
	return Step{}
}

func TestAConnectionThatIsWellIsCarried(t *testing.T) {
	for _, to := range []string{"shop/db", "shop/db:sql", "shop/db-1", "shop/db-1:main", "db-1:5432", "10.96.0.10:5432", "10.0.1.8:5432", "10.0.1.8:main"} {
		for _, from := range []string{"shop/web-1", "10.0.0.7"} {
			a := newPair(t).why(from, to)
			if a.Verdict != Carried || len(a.Steps) != len(looks) {
				t.Errorf("%s to %s: %s at %q: %+v", from, to, a.Verdict, a.EndsAt, a.Steps)
			}
		}
	}
	p := newPair(t) // what is open proves as much as what is tried
	p.probe = func(*fleet.Node, fleet.Question) (fleet.Proof, error) { return fleet.Proof{}, errors.New("no way") }
	if a := p.why("shop/web-1", "shop/db"); a.Verdict != Carried {
		t.Errorf("without a way to try anything: %s: %+v", a.Verdict, a.Steps)
	}
}

// Each fault ends the connection at its step, and names what to change.
func TestEachFaultIsNamedWithTheObjectToChange(t *testing.T) {
	refusedAt := func(word, text string, refused bool) func(*fleet.Proof) {
		return func(p *fleet.Proof) {
			p.Tunnel = &fleet.Outcome{Word: word, Error: text, Refused: refused}
		}
	}
	for _, tc := range []struct {
		fault        string
		plant        func(p *pair)
		to           string // default shop/db:5432
		step, change string
	}{
		{fault: "the hook is removed", step: StepSourceSteered, change: "ztunnel on node1: whoever removes its hooks", plant: func(p *pair) {
			p.tries(func(proof *fleet.Proof) { proof.Kernel = &fleet.Outcome{Error: "connect4 was detached"} })
		}},
		{fault: "steering cannot be restored", step: StepSourceSteered, change: "ztunnel on node1", plant: func(p *pair) {
			p.one.More["steering"] = map[string]any{"problem": "the bpffs was unmounted"}
		}},
		{fault: "a pod's processes are outside -cgroup", step: StepSourceSteered, change: "-cgroup must be above the cgroup of Pod shop/web-1", plant: func(p *pair) {
			p.pod("uid-web-1")["state"] = "unprotected"
		}},
		{fault: "the pod's node does not know it", step: StepDestSteered, change: "what node2 reads of the API server or of -workloads", plant: func(p *pair) {
			p.two.Pods, p.two.Workloads = map[string]any{}, []any{}
		}},
		{fault: "the pod has no sandbox", step: StepDestSteered, change: "Pod shop/db-1: restart it", plant: func(p *pair) {
			p.two.Pods = map[string]any{}
		}},
		{fault: "15008 is dropped", step: StepTunnel, change: "what drops TCP port 15008 from node1 to node2", plant: func(p *pair) {
			p.tries(refusedAt("dial", "i/o timeout", false))
		}},
		{fault: "a NetworkPolicy drops 15008", step: StepTunnel, change: "NetworkPolicy shop/closed: admit TCP port 15008", plant: func(p *pair) {
			p.tries(refusedAt("dial", "i/o timeout", false))
			p.two.More["networkPolicies"].(map[string]any)["blocking"] = []string{"shop/closed", "bank/other"}
		}},
		{fault: "nobody takes tunnels", step: StepTunnel, change: "ztunnel on node2, or the enrolment of Pod shop/db-1", plant: func(p *pair) {
			p.tries(refusedAt("dial", "connection refused", true))
		}},
		{fault: "another ServiceAccount", step: StepDestCert, change: "Pod shop/db-1: spec.serviceAccountName, as node1 reads it", plant: func(p *pair) {
			p.one.Workloads.([]any)[1].(map[string]any)["ID"] = clitest.PairID("impostor")
		}},
		{fault: "the peer proves to be another", step: StepDestCert, change: "Pod shop/db-1: spec.serviceAccountName", plant: func(p *pair) {
			p.tries(refusedAt("tls", "unexpected ID", false))
			p.tries(func(proof *fleet.Proof) { proof.Tunnel.Shown = new(true) })
		}},
		{fault: "the peer proves to be another, by an older ztunnel", step: StepDestCert, change: "Pod shop/db-1: spec.serviceAccountName", plant: func(p *pair) {
			p.tries(refusedAt("tls", "unexpected ID", false))
		}},
		{fault: "a handshake that nobody answers", step: StepTunnel, change: "ztunnel on node2, or whatever else takes TCP port 15008 of Pod shop/db-1", plant: func(p *pair) {
			p.tries(refusedAt("tls", "i/o timeout", false))
			p.tries(func(proof *fleet.Proof) { proof.Tunnel.Shown = new(false) })
		}},
		{fault: "an expired leaf", step: StepSourceCert, change: "culvert-identity at ca.test:15012: it does not answer node1", plant: func(p *pair) {
			p.pod("uid-web-1")["certificate"] = map[string]any{"state": "expired", "error": "no answer"}
			p.one.CA = map[string]any{"ready": true, "reason": "unreachable", "problem": "connection refused"}
		}},
		{fault: "an expired leaf of the peer", step: StepDestCert, change: "its log says why it signs no certificate for this ServiceAccount on node2", plant: func(p *pair) {
			p.pod("uid-db-1")["certificate"] = map[string]any{"state": "expired", "error": "not_placed"}
		}},
		{fault: "the CA is away", step: StepSourceCert, change: "culvert-identity at ca.test:15012: it does not answer node1", plant: func(p *pair) {
			p.one.Held, p.one.CA = nil, map[string]any{"ready": true, "reason": "unreachable", "problem": "connection refused"}
			p.pod("uid-web-1")["certificate"] = map[string]any{"state": "missing", "error": "connection refused"}
		}},
		{fault: "a policy denies", step: StepPolicy, change: "AuthorizationPolicy shop/no: spec.rules[0]", plant: func(p *pair) {
			o := p.two.Policies.(map[string]any)
			o["AuthorizationPolicies"] = append(o["AuthorizationPolicies"].([]any), map[string]any{"Namespace": "shop", "Name": "no", "Action": "DENY", "Rules": []any{[]any{[]any{map[string]any{"Ports": []int{5432}}}}}})
		}},
		{fault: "no policy allows", step: StepPolicy, change: "AuthorizationPolicy shop/db: spec.rules, of which one must match", plant: func(p *pair) {
			for _, z := range []clitest.Ztunnel{p.one, p.two} {
				for i, account := range []string{"job", "db"} {
					z.Workloads.([]any)[i].(map[string]any)["ID"] = clitest.PairID(account)
				}
			}
			p.one.Held[0].ID = clitest.PairID("job")
		}},
		{fault: "plaintext to what is STRICT", step: StepPolicy, change: "PeerAuthentication shop/default: spec.mtls.mode", plant: func(p *pair) {
			p.two.Policies = map[string]any{"RootNamespace": "istio-system", "PeerAuthentications": []any{map[string]any{"Namespace": "shop", "Name": "default", "Mode": "STRICT"}}}
			for _, z := range []clitest.Ztunnel{p.one, p.two} {
				z.Workloads.([]any)[0].(map[string]any)["Meshed"] = false
			}
		}},
		{fault: "a NetworkPolicy", step: StepNetworkPolicy, change: "NetworkPolicy shop/closed: a rule that admits it", plant: func(p *pair) {
			p.two.More["networkPolicies"] = map[string]any{
				"policies": []any{map[string]any{"Namespace": "shop", "Name": "closed", "Pods": []any{}, "Ingress": map[string]any{"Isolates": true}}},
				"modes":    map[string]any{"shop": "enforce"}, "namespaces": map[string]any{"shop": map[string]string{}},
			}
		}},
		{fault: "an unknown address", to: "10.0.9.9:80", step: StepDestination, change: "the Pod or EndpointSlice that should have 10.0.9.9; or -mesh-cidrs", plant: func(*pair) {}},
		{fault: "no ready endpoint", to: "shop/empty", step: StepEndpoint, change: "Service shop/empty: spec.selector, or the readiness of its pods", plant: func(*pair) {}},
		{fault: "no such port", to: "shop/db:99", step: StepEndpoint, change: "Service shop/db: spec.ports", plant: func(*pair) {}},
		{fault: "the app does not listen", step: StepApp, change: "Pod shop/db-1: its app does not listen on port 5432", plant: func(p *pair) {
			p.tries(func(proof *fleet.Proof) {
				proof.App = &fleet.Outcome{Word: "dial", Error: "connection refused", Refused: true}
			})
		}},
		{fault: "the source's ztunnel is gone", step: StepSourceSteered, change: "ztunnel on node1: start it", plant: func(p *pair) {
			p.silent["node1"] = "dial unix /run/culvert/admin.sock: connect: connection refused"
		}},
		{fault: "the destination's ztunnel is gone", step: StepDestSteered, change: "ztunnel on node2: start it", plant: func(p *pair) {
			p.silent["node2"] = "dial unix /run/culvert/admin.sock: connect: no such file or directory"
		}},
		{fault: "a clock is ahead", step: StepDestCert, change: "the clock of node node2: set it", plant: func(p *pair) {
			p.skew["node2"] = time.Hour
		}},
		{fault: "a clock is ahead, so that nothing can be shown", step: StepDestCert, change: "the clock of node node2: set it", plant: func(p *pair) {
			p.skew["node2"] = time.Hour
			p.tries(refusedAt("tls", "EOF", false))
			p.tries(func(proof *fleet.Proof) { proof.Tunnel.Shown = new(false) })
		}},
		{fault: "a clock is behind", step: StepSourceCert, change: "the clock of node node1: set it", plant: func(p *pair) {
			p.skew["node1"] = -time.Hour
		}},
		{fault: "nobody knows whether it is in the mesh", step: StepSource, change: "Namespace shop or Pod shop/web-1: the label culvert.dev/mesh", plant: func(p *pair) {
			w := p.one.Workloads.([]any)[0].(map[string]any)
			w["Meshed"], w["Undecided"] = false, true
		}},
		{fault: "another family", to: "[fd00::8]:80", step: StepDestination, change: "an address of the family of fd00::8 for shop/web-1", plant: func(*pair) {}},
		{fault: "ztunnel's own port", to: "shop/db-1:15008", step: StepDestination, change: "port 15008", plant: func(*pair) {}},
		{fault: "a root that is not trusted", step: StepDestCert, change: "the bundle of roots on node1", plant: func(p *pair) {
			p.one.Held[0].Roots = []*clitest.Signer{clitest.Authority("another root", nil, clitest.Now.Add(-clitest.Day), clitest.Now.Add(clitest.Day))}
		}},
	} {
		t.Run(tc.fault, func(t *testing.T) {
			p := newPair(t)
			tc.plant(p)
			to := tc.to
			if to == "" {
				to = "shop/db:5432"
			}
			a := p.why("shop/web-1", to)
			s := a.step(tc.step)
			if a.Verdict != Refused || a.EndsAt != tc.step || !strings.Contains(s.Change, tc.change) || s.Docs != "docs/troubleshooting.md#why-"+tc.step {
				t.Errorf("%s at %q, want %s: %+v\n%+v", a.Verdict, a.EndsAt, tc.step, s, a.Steps)
			}
			for i, s := range a.Steps {
				if reached := i <= stepAt(tc.step); reached != (s.State != NotReached) {
					t.Errorf("step %s is %s", s.Step, s.State)
				}
			}
		})
	}
}

// What nobody says is unknown: neither ok nor a fault.
func TestWhatNobodySaysIsUnknown(t *testing.T) {
	for name, tc := range map[string]struct {
		plant func(p *pair)
		step  string
	}{
		"no tunnel is open and none is tried": {step: StepTunnel, plant: func(p *pair) {
			delete(p.pod("uid-web-1"), "tunnels")
			p.probe = func(*fleet.Node, fleet.Question) (fleet.Proof, error) { return fleet.Proof{}, errors.New("no way") }
		}},
		"no connection is open and none is tried": {step: StepApp, plant: func(p *pair) {
			delete(p.pod("uid-db-1"), "connections")
			p.probe = func(*fleet.Node, fleet.Question) (fleet.Proof, error) { return fleet.Proof{}, errors.New("no way") }
		}},
		"a node is slow": {step: StepDestSteered, plant: func(p *pair) { p.silent["node2"] = "no answer within 10s" }},
		"the kernel's word is old": {step: StepSourceSteered, plant: func(p *pair) {
			p.pod("uid-web-1")["verified"] = clitest.Now.Add(-time.Minute)
			p.probe = func(*fleet.Node, fleet.Question) (fleet.Proof, error) { return fleet.Proof{}, errors.New("no way") }
		}},
		"the source's node has no room to try": {step: StepTunnel, plant: func(p *pair) {
			p.tries(func(proof *fleet.Proof) {
				proof.Tunnel = &fleet.Outcome{Word: "limit", Error: "too many handshakes", Shown: new(false)}
			})
		}},
		"the kernel does not confirm all of it": {step: StepSourceSteered, plant: (*pair).unconfirmed},
		"the kernel does not confirm, and is not asked": {step: StepSourceSteered, plant: func(p *pair) {
			p.unconfirmed()
			p.tries(func(proof *fleet.Proof) { proof.Kernel = nil })
		}},
	} {
		p := newPair(t)
		tc.plant(p)
		a := p.why("shop/web-1", "shop/db:5432")
		if a.Verdict != NotKnown || a.step(tc.step).State != Unknown {
			t.Errorf("%s: %s, the step is %+v", name, a.Verdict, a.step(tc.step))
		}
	}
}

func (p *pair) unconfirmed() {
	p.pod("uid-web-1")["reason"] = "no process of the pod was found yet"
}

// A node without a certificate has the CA asked about it.
func TestTheCASaysWhatItKnowsOfANodeWithoutACertificate(t *testing.T) {
	p := newPair(t)
	p.one.Held = nil
	p.pod("uid-web-1")["certificate"] = map[string]any{"state": "missing", "error": "not_placed"}
	w := p.world()
	state := &fleet.State{Nodes: []fleet.Visit{{Node: "node1", LastRequest: clitest.Now, LastResult: "not_placed"}}}
	w.CAs = func(context.Context) []fleet.CA {
		return []fleet.CA{
			{Target: fleet.Target{Name: "a"}, State: state}, {Target: fleet.Target{Name: "b"}, Problem: "connection refused"},
			{Target: fleet.Target{Name: "c"}, State: &fleet.State{}}, {Target: fleet.Target{Name: "d"}, StateProblem: "no address"},
		}
	}
	a, err := w.Explain(t.Context(), "shop/web-1", "shop/db")
	if err != nil {
		t.Fatal(err)
	}
	evidence := strings.Join(a.step(StepSourceCert).Evidence, "; ")
	const want = "not_placed; the CA a says that node1 asked last at 2026-11-29T12:00:00Z: not_placed; the CA b does not answer: connection refused; " +
		"the CA c has not heard of node1 lately; the CA d answers, and does not say more: no address"
	if evidence != want {
		t.Errorf("%s\nwant %s", evidence, want)
	}
}

// Whoever must not read the names of nodes leaves out what has one of these.
func TestAnAnswerNamesAllNodesThatItMayTellOf(t *testing.T) {
	p := newPair(t)
	p.silent["two"] = "no route to host"
	w := p.world()
	w.Nodes[0].Dump.Workloads[0].Node = "without-a-ztunnel"
	a, err := w.Explain(t.Context(), "shop/web-1", "shop/db")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{w.Nodes[0].Name, w.Nodes[1].Name, "without-a-ztunnel"} {
		if !slices.Contains(a.Nodes, name) {
			t.Errorf("%s is not among %v", name, a.Nodes)
		}
	}
}

func TestTheLastRefusedConnectionOfAPodIsExplained(t *testing.T) {
	p := newPair(t)
	record := func(result string, ago time.Duration, asked string) map[string]any {
		return map[string]any{"time": clitest.Now.Add(-ago), "direction": "outbound", "result": result, "error": result + " it was", "asked": asked,
			"source":      map[string]any{"address": "10.0.0.7:4711", "namespace": "shop", "pod": "web-1"},
			"destination": map[string]any{"address": asked}}
	}
	p.pod("uid-web-1")["lastRefused"] = []any{record("dial", time.Hour, "10.96.0.10:5432"), record("unknown_peer", time.Minute, "10.0.9.9:80")}
	a, err := p.world().LastRefused(t.Context(), "shop/web-1")
	if err != nil || a.Record == nil || a.Record.Result != "unknown_peer" || a.Record.Node != "node1" || a.EndsAt != StepDestination {
		t.Errorf("%+v, %v", a, err)
	}
	if a := p.why("shop/web-1", "shop/db"); len(a.Records) != 1 || a.Records[0].Result != "dial" {
		t.Errorf("records between the two: %+v", a.Records)
	}
	for pod, want := range map[string]string{"shop/db-1": "no node that answered remembers", "shop/none": "no node that answered knows a pod shop/none"} {
		if _, err := p.world().LastRefused(t.Context(), pod); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", pod, err)
		}
	}
}

func TestEndsThatMeanNothingAreRefused(t *testing.T) {
	for _, tc := range []struct{ from, to, want string }{
		{"shop/nobody", "shop/db", "no node that answered knows a pod shop/nobody"},
		{"shop/web-1", "shop/nobody:80", "no node that answered knows a pod or a Service shop/nobody"},
		{"shop/web-1", "shop/db:http", `port "http": it is no number from 1 to 65535, and the destination has no TCP port of that name`},
		{"shop/web-1", "shop/db:70000", `port "70000"`},
		{"shop/web-1", "10.9.9.9", "to which port?"},
	} {
		if _, err := newPair(t).world().Explain(t.Context(), tc.from, tc.to); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s to %s: %v, want %s", tc.from, tc.to, err, tc.want)
		}
	}
}

// On Kubernetes every ztunnel is listed: a node without one has none.
func TestANodeWithoutAZtunnelIsAFaultOnKubernetes(t *testing.T) {
	w := newPair(t).world()
	w.Nodes = w.Nodes[:1]
	for pod, want := range map[string]State{"": Unknown, "culvert-system/ztunnel-a": Fault} {
		w.Nodes[0].Pod = pod
		a, err := w.Explain(t.Context(), "shop/web-1", "shop/db")
		if err != nil || a.step(StepDestSteered).State != want {
			t.Errorf("pod %q: %+v, %v", pod, a.step(StepDestSteered), err)
		}
	}
}

// What a pod sends to itself needs no tunnel, and no policy is asked.
func TestAPodThatConnectsToItselfStaysInside(t *testing.T) {
	a := newPair(t).why("shop/db-1", "shop/db")
	for _, step := range []string{StepSourceCert, StepTunnel, StepDestCert, StepNetworkPolicy, StepPolicy} {
		if s := a.step(step); s.State != NotNeeded {
			t.Errorf("%+v", s)
		}
	}
	if a.Verdict == Refused {
		t.Errorf("%+v", a.Steps)
	}
}

// A destination outside the mesh is reached in plaintext, and nobody says whether it answers.
func TestADestinationOutsideTheMeshIsPassedThrough(t *testing.T) {
	a := newPair(t).why("shop/web-1", "192.0.2.1:443")
	if s := a.step(StepDestination); s.State != OK || !strings.Contains(s.Says, "outside the mesh") || a.step(StepTunnel).State != NotNeeded || a.Verdict != NotKnown {
		t.Errorf("%s: %+v", a.Verdict, a.Steps)
	}
}
