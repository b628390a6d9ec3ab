// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/ledger"
	"github.com/culvert-mesh/culvert/rate"
)

// withLedger gives a rig's server a ledger in a directory, which runs until the test ends.
func withLedger(t testing.TB, dir string) func(*Config) {
	return func(c *Config) {
		authority := c.CA
		c.Ledger = must(ledger.Open(ledger.Options{Dir: dir, Replica: "ca-1", Issuer: authority.Issuer,
			Certify: func(key crypto.PublicKey) ([]*x509.Certificate, error) {
				return authority.CertifyLedger(key, ledger.Subject("ca-1"))
			}}))
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- c.Ledger.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// A002-9, F-25: each certificate is a line with what was asked and what came of it, and so is
// each refusal of a caller that proved who it is. What strangers ask is no line, and no token
// or key is in any.
func TestEachDecisionStandsInTheLedger(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, withLedger(t, dir))
	r.cfg.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: web, UID: "uid-web-1"}}, nil)
	token := goodToken(t)
	ctx := withToken(t.Context(), token)
	request := goodRequest(t)
	request.ValidityDuration = 600
	leaf := leafOf(t, must(r.CreateCertificate(ctx, request)))
	request.Metadata = must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: "spiffe://cluster.local/ns/shop/sa/db"}))
	_, err := r.CreateCertificate(ctx, request)
	wantStatus(t, err, codes.PermissionDenied, "no pod of ServiceAccount shop/db")
	_, err = r.CreateCertificate(metadata.NewIncomingContext(t.Context(), nil), request)
	wantStatus(t, err, codes.Unauthenticated, "bearer token")

	var lines []ledger.Record
	report := must(ledger.Verify(ledger.Question{Dir: dir}, func(line ledger.Record) {
		if line.Kind == ledger.KindIssued || line.Kind == ledger.KindDenied {
			lines = append(lines, line)
		}
	}))
	if len(lines) != 2 || len(report.Faults) > 0 {
		t.Fatalf("lines %+v, faults %v", lines, report.Faults)
	}
	issued, refused := lines[0], lines[1]
	if issued.Kind != ledger.KindIssued || issued.Identity != webID || issued.Node != "node-1" || issued.NodeUID != "node-uid" || issued.PodUID != "pod-uid" ||
		len(issued.Pods) != 1 || issued.Pods[0] != "uid-web-1" || issued.Serial != leaf.SerialNumber.Text(16) || !issued.NotAfter.Equal(leaf.NotAfter) ||
		!issued.NotBefore.Equal(leaf.NotBefore) || len(issued.KeySHA256) != 64 || issued.Issuer == "" || issued.Wanted != 600 || issued.LifetimeBy != "request" ||
		issued.Token == "" || issued.Took <= 0 {
		t.Errorf("issued: %+v", issued)
	}
	if refused.Kind != ledger.KindDenied || refused.Refusal != "not_placed" || refused.Code != "PermissionDenied" || refused.Serial != "" || refused.Node != "node-1" {
		t.Errorf("refused: %+v", refused)
	}
	text := must(os.ReadFile(filepath.Join(dir, "ca-1-00000001.jsonl")))
	for _, secret := range []string{token, strings.Split(token, ".")[2], "PRIVATE KEY", "eyJ"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the ledger holds %.12q", secret)
		}
	}
}

// A node can ask for what it does not get without end, and the ledger keeps so many bytes.
func TestANodeThatIsRefusedWithoutEndDoesNotFillTheLedger(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(c *Config) {
		withLedger(t, dir)(c)
		c.NodeBurst = 10_000
	})
	ctx := withToken(t.Context(), goodToken(t))
	request := goodRequest(t)
	request.Metadata = must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: "spiffe://cluster.local/ns/shop/sa/db"}))
	ask := func() {
		if _, err := r.CreateCertificate(ctx, request); err == nil {
			t.Fatal("it got one")
		}
	}
	r.cfg.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: web}}, nil)
	request.Csr = "none" // it is refused soon, without a question to anybody
	for range 3 * int(deniedLines.Burst) {
		ask()
	}
	if s := r.cfg.Ledger.Stats(); float64(s.Denied) < deniedLines.Burst || float64(s.Denied) > 2*deniedLines.Burst {
		t.Errorf("%d lines", s.Denied)
	}
	var omitted, lines int
	count := func() {
		omitted, lines = 0, 0
		must(ledger.Verify(ledger.Question{Dir: dir}, func(line ledger.Record) {
			if line.Kind == ledger.KindDenied {
				lines, omitted = lines+1, omitted+line.Omitted
			}
		}))
	}
	r.accountant.denied["node-1"].left = rate.Left{} // as after some time
	ask()
	if count(); lines+omitted != 3*int(deniedLines.Burst)+1 {
		t.Errorf("%d lines, %d omitted", lines, omitted)
	}
}

// A ledger that cannot be opened is an alarm until it is.
func TestALedgerThatCannotBeOpenedIsSaid(t *testing.T) {
	r := newRig(t, func(c *Config) { c.LedgerFailed = true })
	r.cfg.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: web}}, nil)
	ask := func() { must(r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))) }
	ask()
	if _, body := get(t, r.Handler(), "/metrics"); !strings.Contains(body, "culvert_identity_ledger_failing 1") {
		t.Error("no alarm")
	}
	late := r.cfg
	withLedger(t, t.TempDir())(&late)
	r.UseLedger(late.Ledger)
	ask()
	_, body := get(t, r.Handler(), "/metrics")
	if !strings.Contains(body, "culvert_identity_ledger_failing 0") || late.Ledger.Stats().Issued != 1 {
		t.Errorf("it is open: %+v", late.Ledger.Stats())
	}
}

// The key of a checkpoint is certified for nothing else.
func TestALedgersCertificateProvesNobody(t *testing.T) {
	authority := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td}))
	certs := must(authority.CertifyLedger(esKey.Public(), ledger.Subject("ca-1")))
	roots := x509.NewCertPool()
	for _, root := range authority.Roots() {
		roots.AddCert(root)
	}
	between := x509.NewCertPool()
	between.AddCert(certs[1])
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err == nil {
			t.Errorf("it is good for usage %v", usage)
		}
	}
	if len(certs[0].URIs)+len(certs[0].DNSNames) > 0 || certs[0].IsCA {
		t.Errorf("it has names: %v", must(json.Marshal(certs[0].URIs)))
	}
}
