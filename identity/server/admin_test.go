// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// ask reads the dump as a process of this machine.
func (r *rig) ask(t *testing.T, method, host string) (int, string) {
	t.Helper()
	request := httptest.NewRequest(method, "/config_dump", nil)
	request.Host = host
	w := httptest.NewRecorder()
	r.AdminHandler().ServeHTTP(w, request)
	return w.Code, w.Body.String()
}

func TestTheDumpSaysWhatTheCAIs(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Store = "directory /d" })
	from := must(net.ResolveTCPAddr("tcp", "10.0.0.7:40000"))
	ctx := peer.NewContext(withToken(t.Context(), goodToken(t)), &peer.Peer{Addr: from})
	if _, err := r.CreateCertificate(ctx, goodRequest(t)); err != nil {
		t.Fatal(err)
	}
	r.Check(peer.NewContext(withToken(t.Context(), "forged"), &peer.Peer{Addr: from}), &identityv1.CheckRequest{})

	code, text := r.ask(t, http.MethodGet, "127.0.0.1:15013")
	var got dump
	if err := json.Unmarshal([]byte(text), &got); code != http.StatusOK || err != nil {
		t.Fatalf("%d %v\n%s", code, err, text)
	}
	if got.TrustDomain != "cluster.local" || got.Store.Where != "directory /d" || got.Issuance.TTLSeconds != 3600 {
		t.Errorf("%+v", got)
	}
	if len(got.Chain) != 1 || len(got.Bundle.Roots) != 1 || got.Serving == nil || got.Bundle.SHA256 == "" || got.Bundle.Generation == 0 {
		t.Fatalf("chain %v, roots %v, serving %v", got.Chain, got.Bundle.Roots, got.Serving)
	}
	block, _ := pem.Decode([]byte(got.Chain[0].PEM))
	issuer := must(x509.ParseCertificate(block.Bytes))
	if !issuer.Equal(r.cfg.CA.Issuer()) || got.Chain[0].SHA256 != fingerprint(issuer) || got.Chain[0].AuthorityKeyID != got.Bundle.Roots[0].SubjectKeyID ||
		!got.Chain[0].NotAfter.Equal(issuer.NotAfter) || got.Chain[0].Serial != issuer.SerialNumber.Text(16) {
		t.Errorf("issuer %+v", got.Chain[0])
	}
	if len(got.Nodes) != 1 || got.Nodes[0].Name != "node-1" || got.Nodes[0].Address != from.String() || got.Nodes[0].LastResult != "ok" || time.Since(got.Nodes[0].LastRequest) > time.Minute {
		t.Errorf("nodes %+v: a stranger's request names no node", got.Nodes)
	}
	if len(got.Readiness) != 4+1 || !got.Readiness[0].Ready {
		t.Errorf("readiness %+v", got.Readiness)
	}
	if strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, goodToken(t)[:20]) {
		t.Error("the dump holds a secret")
	}
}

// An offline root, and a store that holds what is refused, are told of wherever one looks.
func TestHowTheCALivesOnIsInTheDumpAndTheMetrics(t *testing.T) {
	due := time.Unix(1800000000, 0)
	r := newRig(t, func(c *Config) {
		c.Renewal = func() ca.Renewal { return ca.Renewal{State: ca.RenewalOffline, Due: due, End: due.Add(time.Hour)} }
		c.Trouble = func() ca.Trouble { return ca.Trouble{Problem: "issuer.pem is empty", Since: due} }
	})
	_, text := r.ask(t, http.MethodGet, "127.0.0.1:15013")
	var got dump
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got.Store.Renewal, "root.key is not where the CA is") || got.Store.Problem != "issuer.pem is empty" || !got.Store.Since.Equal(due) {
		t.Errorf("%+v", got.Store)
	}
	if _, body := get(t, r.Handler(), "/metrics"); !strings.Contains(body, `culvert_identity_issuer_renewal_timestamp_seconds{state="offline_root"} 1.8e+09`) {
		t.Errorf("metrics:\n%s", body)
	}
}

func TestTheDumpIsForThisMachineAndForReading(t *testing.T) {
	r := newRig(t, nil)
	if code, _ := r.ask(t, http.MethodPost, "127.0.0.1:15013"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", code)
	}
	if code, body := r.ask(t, http.MethodGet, "evil.example"); code != http.StatusMisdirectedRequest || strings.Contains(body, "trustDomain") {
		t.Errorf("by another name: %d %s", code, body)
	}
	if code, _ := get(t, r.Handler(), "/config_dump"); code != http.StatusNotFound {
		t.Errorf("the port that anyone reaches shows the dump: %d", code)
	}
}

func TestNodesAreRememberedUpToABound(t *testing.T) {
	v := newVisits()
	for i := range maxVisits + 10 {
		v.note(&decision{attested: true, caller: Caller{Node: string(rune(i + 1))}}, nil)
	}
	if n := len(v.all()); n > maxVisits {
		t.Errorf("%d nodes", n)
	}
	v = newVisits()
	v.last["old"] = visit{at: time.Now().Add(-2 * visitFor)}
	v.note(&decision{attested: true, caller: Caller{Node: "new"}}, errNotSynced)
	if all := v.all(); len(all) != 1 || all["new"].result != "ca_not_ready" {
		t.Errorf("%v", all)
	}
}
