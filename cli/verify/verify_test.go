// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/why"
)

// run tries a connection of web-1 to db-1 between two nodes.
func run(t *testing.T, one, two clitest.Trial) Answer {
	t.Helper()
	dir := t.TempDir()
	var sockets []string
	for _, n := range []clitest.Trial{one, two} {
		path := filepath.Join(dir, n.Node)
		if err := clitest.ServeSocket(t, path, n); err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, path)
	}
	nodes, err := fleet.Nodes(t.Context(), fleet.SocketsOf(sockets))
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&why.World{Nodes: nodes, Now: clitest.Now}).Between("shop/web-1", "shop/db")
	if err != nil {
		t.Fatal(err)
	}
	return Run(t.Context(), b, clitest.Now)
}

func stepOf(t *testing.T, a Answer, wanted string) why.Step {
	t.Helper()
	for _, s := range a.Steps {
		if s.Step == wanted {
			return s
		}
	}
	t.Fatalf("no step %s", wanted)
	return why.Step{}
}

func TestAllIsProvedOrNothingIsVerified(t *testing.T) {
	one, two := clitest.TrialPair()
	a := run(t, one, two)
	if a.Verdict != Verified || a.Faults() || a.Path != "tunnel" || a.Near == nil || a.Far == nil {
		t.Errorf("%+v", a)
	}
	for _, s := range a.Steps {
		if s.State != why.OK || s.Says == "" || s.By == "" {
			t.Errorf("%+v", s)
		}
	}
}

// Whatever is wrong or missing, one step says it, and the verdict is not "verified".
func TestWhatIsNotProvedIsNotVerified(t *testing.T) {
	seen := func(n clitest.Trial, netns string) map[string]any { return n.Findings[netns].(map[string]any) }
	tunnel := func(n clitest.Trial, uid, way string) map[string]any {
		c := n.Pods[uid].(map[string]any)["connections"].(map[string]any)[way].([]any)[0].(map[string]any)
		return c["tunnel"].(map[string]any)
	}
	issuer := clitest.Authority("issuer of others", clitest.Authority("root of others", nil, clitest.Now.Add(-clitest.Day), clitest.Now.Add(clitest.Day)), clitest.Now.Add(-clitest.Day), clitest.Now.Add(clitest.Day))
	stranger := issuer.Leaf(clitest.PairID("web"), clitest.Now.Add(-time.Minute), clitest.Now.Add(time.Hour))
	other := issuer.Leaf(clitest.PairID("other"), clitest.Now.Add(-time.Minute), clitest.Now.Add(time.Hour))
	for name, tc := range map[string]struct {
		step  string
		state why.State
		says  string
		plant func(one, two *clitest.Trial)
	}{
		"plaintext on a node's wire": {StepSourceWire, why.Fault, "in plaintext on eth0 of node1: a packet of 101 bytes from 10.0.0.7:4711 to 10.0.1.8:5432", func(one, _ *clitest.Trial) {
			one.Findings["node"] = clitest.Devices(clitest.Marked("eth0", false))
		}},
		"plaintext on the pod's own wire": {StepDestWire, why.Fault, "in plaintext on eth0 of the pod", func(_, two *clitest.Trial) {
			two.Findings["pod"] = clitest.Devices(clitest.Marked("eth0", false), clitest.Marked("lo", true))
		}},
		"plaintext on the node's loopback": {StepSourceWire, why.Fault, "in plaintext on lo of node1", func(one, _ *clitest.Trial) {
			one.Findings["node"] = clitest.Devices(clitest.Marked("lo", true))
		}},
		"no packet": {StepDestWire, why.Unknown, "nothing seen proves nothing", func(_, two *clitest.Trial) { two.Findings["node"] = clitest.Devices() }},
		"the mark was nowhere": {StepSourceWire, why.Unknown, "was not seen where it is plaintext", func(one, _ *clitest.Trial) {
			one.Findings["pod"] = clitest.Devices()
		}},
		"no control":       {StepSourceWire, why.Unknown, "did not see the plaintext that it sent itself", func(one, _ *clitest.Trial) { seen(*one, "node")["control"] = false }},
		"dropped":          {StepDestWire, why.Unknown, "missed 3 packets", func(_, two *clitest.Trial) { seen(*two, "pod")["dropped"] = 3 }},
		"a problem":        {StepDestWire, why.Unknown, "did not see all: ", func(_, two *clitest.Trial) { seen(*two, "pod")["problem"] = "read packets: no" }},
		"no pod":           {StepDestWire, why.Unknown, "no pod was watched", func(_, two *clitest.Trial) { delete(two.Findings, "pod") }},
		"nobody watched":   {StepDestWire, why.Unknown, "nobody watched on node2: 400 Bad Request: begin: no", func(_, two *clitest.Trial) { two.Refuses = "begin" }},
		"nothing was said": {StepSourceWire, why.Unknown, "nobody watched on node1: 400 Bad Request: end: no", func(one, _ *clitest.Trial) { one.Refuses = "end" }},
		"not sent":         {StepConnection, why.Unknown, "did not send the mark: 400 Bad Request: send: no", func(one, _ *clitest.Trial) { one.Refuses = "send" }},
		"refused": {StepConnection, why.Fault, "was refused at 10.0.1.8:5432: connection refused", func(one, _ *clitest.Trial) {
			one.Sent = map[string]any{"to": "10.0.1.8:5432", "error": "connection refused"}
		}},
		"not arrived": {StepConnection, why.Fault, "did not reach shop/db-1 in 5s: connection reset by peer", func(one, two *clitest.Trial) {
			two.Arrived, one.Findings["ended"] = false, "connection reset by peer"
		}},
		"no tunnel": {StepTunnel, why.Fault, "in plaintext: destination", func(one, _ *clitest.Trial) {
			c := one.Pods["uid-web-1"].(map[string]any)["connections"].(map[string]any)["outbound"].([]any)[0].(map[string]any)
			c["protocol"], c["plaintext"] = "TCP", "destination"
		}},
		"two ciphers": {StepTunnel, why.Unknown, "do not say the same", func(_, two *clitest.Trial) {
			tunnel(*two, "uid-db-1", "inbound")["cipher"] = "TLS_CHACHA20_POLY1305_SHA256"
		}},
		"another serial": {StepSourceCert, why.Unknown, "proved itself by serial number abcd", func(_, two *clitest.Trial) {
			tunnel(*two, "uid-db-1", "inbound")["peerSerial"] = "abcd"
		}},
		"another identity": {StepDestCert, why.Unknown, "does not say by which certificate", func(one, _ *clitest.Trial) {
			one.Pods["uid-web-1"].(map[string]any)["connections"].(map[string]any)["outbound"].([]any)[0].(map[string]any)["dstIdentity"] = clitest.PairID("other")
		}},
		"another root": {StepSourceCert, why.Fault, "node2 has no root for it", func(one, two *clitest.Trial) {
			one.Held[0].Leaf = stranger
			tunnel(*two, "uid-db-1", "inbound")["peerSerial"] = stranger.Cert.SerialNumber.Text(16)
		}},
		"another name": {StepSourceCert, why.Fault, "it names spiffe://cluster.local/ns/shop/sa/other", func(one, two *clitest.Trial) {
			one.Held[0].Leaf = other
			tunnel(*two, "uid-db-1", "inbound")["peerSerial"] = other.Cert.SerialNumber.Text(16)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := clitest.TrialPair()
			tc.plant(&one, &two)
			a := run(t, one, two)
			s := stepOf(t, a, tc.step)
			if a.Verdict != NotVerified || s.State != tc.state || !strings.Contains(s.Says, tc.says) {
				t.Errorf("%s, %+v, want %s: %s", a.Verdict, s, tc.state, tc.says)
			}
			if a.Faults() != (tc.state == why.Fault) {
				t.Errorf("faults: %v: %+v", a.Faults(), a.Steps)
			}
		})
	}
}
