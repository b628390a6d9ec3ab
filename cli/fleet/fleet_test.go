// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

const web = "spiffe://cluster.local/ns/shop/sa/web"

func leaf() *clitest.Signer {
	root := clitest.Authority("root", nil, clitest.Now.Add(-clitest.Day), clitest.Now.Add(100*clitest.Day))
	issuer := clitest.Authority("issuer", root, clitest.Now.Add(-clitest.Day), clitest.Now.Add(10*clitest.Day))
	return issuer.Leaf(web, clitest.Now, clitest.Now.Add(time.Hour))
}

func TestNodesOfAClusterAreAskedThroughTheAPIServer(t *testing.T) {
	held := []clitest.Held{{ID: web, Leaf: leaf()}}
	k := &clitest.Kubernetes{}
	k.Pod("culvert-system", "ztunnel-a", "ztunnel", "node-a", true, map[string]string{
		"15000": clitest.Serve(t, clitest.Ztunnel{Node: "node-a", Held: held}),
	})
	k.Pod("culvert-system", "ztunnel-b", "ztunnel", "node-b", false, nil) // nothing listens
	k.Pod("elsewhere", "ztunnel-c", "ztunnel", "node-c", true, nil)
	k.Pod("culvert-system", "other", "other", "node-a", true, nil)
	k.Pod("culvert-system", "culvert-identity-1", "culvert-identity", "node-a", true, map[string]string{
		"15012": clitest.ServeTLS(t, leaf()),
	})
	api, err := kubeapi.Open(k.Kubeconfig(t, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	cluster := &Cluster{API: api, Namespace: "culvert-system"}

	nodes, err := Nodes(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 {
		t.Fatalf("%d nodes, want 2", len(nodes))
	}
	if a := nodes[0]; a.Name != "node-a" || a.Problem != "" || !a.Ready || len(a.Dump.Certificates) != 1 || a.Dump.Certificates[0].Identity != web {
		t.Errorf("node-a: %+v", a)
	}
	if b := nodes[1]; b.Name != "node-b" || b.Ready || !strings.HasSuffix(b.Problem, "connection refused") {
		t.Errorf("node-b: ready %v, problem %q", b.Ready, b.Problem)
	}
	cas, err := CAs(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	if len(cas) != 1 || cas[0].Problem != "" || len(cas[0].Chain) != 2 || cas[0].StateProblem == "" {
		t.Errorf("CAs: %+v", cas)
	}
}

func TestADumpThatIsNoneIsARowAndNotTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		problem string
	}{
		{"another program", func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) }, "404 Not Found: 404 page not found"},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, "not understood"},
		{"no certificate", func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"certificates": [{"certChain": [{"pem": "aGVsbG8="}]}]}`))
		}, "is no PEM"},
		{"it breaks off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("{"))
		}, "unexpected EOF"},
	} {
		nodes, err := Nodes(t.Context(), Addresses{Ztunnel: []string{clitest.Serve(t, tc.handler)}})
		if err != nil {
			t.Fatal(err)
		}
		if n := nodes[0]; !strings.Contains(n.Problem, tc.problem) || n.Dump.Certificates != nil {
			t.Errorf("%s: %q, want %q", tc.name, n.Problem, tc.problem)
		}
	}
}

// A000-10: of clocks that differ by more than can be told from here, the offset is told.
func TestClocksAreComparedByTheDateOfTheAnswer(t *testing.T) {
	for _, skew := range []time.Duration{0, 14 * time.Minute, -14 * time.Minute, 3 * time.Second} {
		nodes, err := Nodes(t.Context(), Addresses{Ztunnel: []string{clitest.Serve(t, clitest.Ztunnel{Node: "n", Skew: skew})}})
		if err != nil {
			t.Fatal(err)
		}
		c := nodes[0].Clock
		if off := (c.Offset - skew).Abs(); off > c.Within || c.Within > time.Minute {
			t.Errorf("a clock that is %v off: %v", skew, c)
		}
		if skewed := c.Skewed(); skew == 0 && skewed != 0 || skew.Abs() > time.Minute && (skewed.Abs() > skew.Abs() || (skewed > 0) != (skew > 0)) {
			t.Errorf("a clock that is %v off is skewed by %v", skew, skewed)
		}
	}
	sent := time.Date(2026, 1, 1, 0, 0, 0, 700e6, time.UTC)
	c, err := clock("Thu, 01 Jan 2026 00:00:10 GMT", sent, sent.Add(200*time.Millisecond))
	if err != nil || c.Offset != 9700*time.Millisecond || c.Within != 600*time.Millisecond {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := clock("yesterday", sent, sent); err == nil {
		t.Error("a Date that is none was taken")
	}
}

func TestAnIdentityEndsWithTheFirstOfItsChain(t *testing.T) {
	root := clitest.Authority("root", nil, clitest.Now.Add(-clitest.Day), clitest.Now.Add(30*time.Minute))
	issuer := clitest.Authority("issuer", root, clitest.Now.Add(-clitest.Day), clitest.Now.Add(50*time.Minute))
	l := issuer.Leaf(web, clitest.Now, clitest.Now.Add(time.Hour))
	h := Held{Chain: chain{l.Cert, issuer.Cert}}
	if until := h.Until(); !until.Equal(issuer.Cert.NotAfter) {
		t.Errorf("with its issuer: %v", until)
	}
	h.Roots = chain{clitest.Authority("another", nil, clitest.Now, clitest.Now.Add(time.Minute)).Cert, root.Cert}
	if until := h.Until(); !until.Equal(root.Cert.NotAfter) {
		t.Errorf("with its root: %v", until)
	}
	h.Roots = append(h.Roots, leaf().By.By.Cert) // of the same key, and younger
	if until := h.Until(); !until.Equal(issuer.Cert.NotAfter) {
		t.Errorf("with its root, which was renewed: %v", until)
	}
	h.Renewal = &Renewal{} // of an older ztunnel
	if until := h.UsedUntil(); !until.Equal(issuer.Cert.NotAfter) {
		t.Errorf("used until %v", until)
	}
	h.Renewal.Until = issuer.Cert.NotAfter.Add(15 * time.Minute) // by the skew of the clocks
	if until := h.UsedUntil(); !until.Equal(h.Renewal.Until) {
		t.Errorf("where clocks are off, used until %v", until)
	}
	if until := (Held{}).Until(); !until.IsZero() {
		t.Errorf("without a certificate: %v", until)
	}
}

// The dump lists policies as Istio's does since its tools read it; before, the objects
// stood there.
func TestPoliciesAreReadOfAnOlderZtunnelToo(t *testing.T) {
	objects := map[string]any{"RootNamespace": "istio-system", "PeerAuthentications": []any{map[string]any{"Namespace": "shop", "Name": "default", "Mode": "STRICT"}}}
	younger := clitest.Ztunnel{Policies: objects}.Dump()
	older := clitest.Ztunnel{}.Dump()
	older["policies"] = objects
	delete(older, "policyObjects")
	for name, dump := range map[string]map[string]any{"younger": younger, "older": older} {
		nodes, err := Nodes(t.Context(), Addresses{Ztunnel: []string{clitest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(dump)
		}))}})
		if err != nil {
			t.Fatal(err)
		}
		if p := nodes[0].Dump.Policies.PeerAuthentications; nodes[0].Problem != "" || len(p) != 1 || p[0].String() != "PeerAuthentication shop/default" {
			t.Errorf("%s: %v, %s", name, p, nodes[0].Problem)
		}
	}
}
