// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ledger"
)

// paperLedger is the ledger of two replicas, with the roots in a file beside.
type paperLedger struct {
	t          *testing.T
	ca         *ca.CA
	dir, roots string
	end        func() // of the replica ca-1, which runs until then
	one        *ledger.Ledger
}

func newPaperLedger(t *testing.T) *paperLedger {
	t.Helper()
	authority, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	p := &paperLedger{t: t, ca: authority, dir: t.TempDir(), roots: filepath.Join(t.TempDir(), "roots.pem")}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Roots()[0].Raw})
	if err := os.WriteFile(p.roots, text, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(replica string) (*ledger.Ledger, func()) {
		l, err := ledger.Open(ledger.Options{Dir: p.dir, Replica: replica, Issuer: authority.Issuer, Certify: func(key crypto.PublicKey) ([]*x509.Certificate, error) {
			return authority.CertifyLedger(key, ledger.Subject(replica))
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		return l, sync.OnceFunc(func() { stop(); <-ended })
	}
	two, end := open("ca-2")
	two.Issued(p.decision("web", "node-2", "b2"))
	two.Denied(ledger.Decision{Identity: idOf("db"), Node: "node-2", Refusal: "not_placed", Reason: "no pod of \x1b[31mit"})
	end()
	p.one, p.end = open("ca-1")
	p.one.Issued(p.decision("web", "node-1", "a1"))
	p.one.Issued(p.decision("db", "node-1", "a2"))
	t.Cleanup(p.end)
	p.await("a2")
	return p
}

// await returns once the line of a serial number is in a file: nobody waits for a disk that
// takes its time.
func (p *paperLedger) await(serial string) {
	p.t.Helper()
	seen := false
	for deadline, from := time.Now().Add(time.Minute), ledger.Follow(p.dir); !seen; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("no line of the serial number %s", serial)
		}
		entries, err := next(from, func(e ledger.Entry) bool { return e.Serial == serial })
		if err != nil {
			p.t.Fatal(err)
		}
		seen = len(entries) > 0
	}
}

func idOf(name string) string { return "spiffe://cluster.local/ns/shop/sa/" + name }

func (p *paperLedger) decision(name, node, serial string) ledger.Decision {
	now := time.Now()
	return ledger.Decision{Identity: idOf(name), Node: node, Serial: serial, Pods: []string{"uid-" + name}, KeySHA256: "cafe", Pod: "ztunnel-" + node,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)}
}

// run runs a command, and returns what it printed.
func (p *paperLedger) run(want int, args ...string) string {
	p.t.Helper()
	var out, complaint bytes.Buffer
	code := Run(p.t.Context(), Process{Args: append([]string{"culvert", "audit"}, args...), Stdout: &out, Stderr: &complaint, Getenv: func(string) string { return "" }})
	if code != want {
		p.t.Errorf("%v: exit code %d, want %d\n%s%s", args, code, want, &out, &complaint)
	}
	return out.String() + complaint.String()
}

func (p *paperLedger) says(text string, all ...string) {
	p.t.Helper()
	for _, one := range all {
		if !strings.Contains(text, one) {
			p.t.Errorf("it does not say %q:\n%s", one, text)
		}
	}
}

// N-5: who had an identity at a time, by the ledger.
func TestAuditNamesWhoHadAnIdentity(t *testing.T) {
	p := newPaperLedger(t)
	both := p.run(0, "who-had", "shop/web", p.dir)
	p.says(both, "node-1", "node-2", "a1", "b2", "uid-web", "ztunnel-node-1")
	if strings.Contains(both, "a2") {
		t.Errorf("another identity is there:\n%s", both)
	}
	if one := p.run(0, "who-had", idOf("web"), "--node", "node-2", p.dir); strings.Contains(one, "a1") {
		t.Errorf("another node is there:\n%s", one)
	}
	p.says(p.run(0, "who-had", "shop/web", "--at", "1h", p.dir), "nobody had shop/web at ")
	p.says(p.run(0, "who-had", "shop/web", "--at", time.Now().Add(2*time.Hour).Format(time.RFC3339), p.dir), "nobody had")
	var answer struct {
		Had   []ledger.Record
		Whole bool
	}
	if err := json.Unmarshal([]byte(p.run(0, "who-had", "shop/web", "-o", "json", p.dir)), &answer); err != nil || len(answer.Had) != 2 || !answer.Whole || answer.Had[0].Serial != "b2" {
		t.Errorf("%+v, %v", answer, err)
	}
	p.says(p.run(2, "who-had", "web", p.dir), "want a SPIFFE ID, or namespace/name")
	p.says(p.run(2, "who-had", "shop/web", t.TempDir()), "there is no ledger", "hint: give the directory")
	path := filepath.Join(p.dir, "ca-2-00000001.jsonl")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte("node-2"), []byte("node-9"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	p.says(p.run(2, "who-had", "shop/web", p.dir), "somebody may be missing here: "+path)
}

func TestAuditVerifiesWhatIsSigned(t *testing.T) {
	p := newPaperLedger(t)
	p.says(p.run(2, "verify", p.dir), "which roots vouch", "culvert ca export --to roots.pem")
	p.says(p.run(0, "verify", "--hashes-only", p.dir), "Nobody's signature was asked for")
	p.end()
	p.says(p.run(0, "verify", "--roots", p.roots, p.dir), "ca-1", "ca-2", "\nverified: ")
	anchor := filepath.Join(t.TempDir(), "anchor.json")
	if err := os.WriteFile(anchor, []byte(p.run(0, "verify", "--roots", p.roots, "-o", "json", p.dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.says(p.run(0, "verify", "--roots", p.roots, "--anchors", anchor, p.dir), "verified: ")
	for _, name := range []string{"ca-2-00000001.jsonl", "ca-2.head"} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p.says(p.run(0, "verify", "--roots", p.roots, p.dir), "verified: ") // a whole chain that is gone: only an anchor tells
	p.says(p.run(2, "verify", "--roots", p.roots, "--anchors", anchor, p.dir), "there is no chain of ca-2", "The ledger is not whole.")
	p.wantsConfigMapsAnchors(anchor)
	stranger := newPaperLedger(t)
	p.says(p.run(2, "verify", "--roots", stranger.roots, p.dir), "fault: ", "no root that was given vouches for its signer")
	if err := os.WriteFile(anchor, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.says(p.run(2, "verify", "--roots", p.roots, "--anchors", anchor, p.dir), "holds no checkpoint")
}

// wantsConfigMapsAnchors is that checkpoints are read as kubectl prints the ConfigMap.
func (p *paperLedger) wantsConfigMapsAnchors(path string) {
	p.t.Helper()
	for data, want := range map[string]string{
		`"ca-1.c0ffee": "{\"replica\": \"ca-1\", \"chain\": \"c0ffee\", \"seq\": 99, \"hash\": \"` + strings.Repeat("00", 32) + `\", \"time\": \"2026-11-30T07:00:00Z\"}"`: "by an anchor of 2026-11-30T07:00:00Z the chain c0ffee of ca-1 had come to seq 99; the files have the chain ",
		`"ca-1.c0ffee": "{}"`: "ca-1.c0ffee: it holds no checkpoint",
	} {
		if err := os.WriteFile(path, []byte(`{"kind": "ConfigMap", "data": {`+data+`}}`), 0o600); err != nil {
			p.t.Fatal(err)
		}
		p.says(p.run(2, "verify", "--roots", p.roots, "--anchors", path, p.dir), want)
	}
}

func TestAuditTailsAndFollows(t *testing.T) {
	p := newPaperLedger(t)
	text := p.run(0, "tail", p.dir)
	p.says(text, "ca-1", "issued node-1 "+idOf("web")+" serial a1", "denied node-2 "+idOf("db")+" not_placed: no pod of")
	if strings.Contains(text, "\x1b") || strings.Contains(text, "checkpoint") {
		t.Errorf("it prints %q", text)
	}
	if lines := strings.Count(p.run(0, "tail", "--lines", "1", p.dir), "\n"); lines != 1 {
		t.Errorf("%d lines", lines)
	}
	if denied := p.run(0, "tail", "--denied", p.dir); strings.Count(denied, "\n") != 1 {
		t.Errorf("denied:\n%s", denied)
	}
	if of := p.run(0, "tail", "--id", "shop/web", "--node", "node-1", "-o", "json", p.dir); strings.Count(of, "\n") != 1 || !json.Valid([]byte(of)) {
		t.Errorf("of one:\n%s", of)
	}
	ctx, stop := context.WithCancel(t.Context())
	out := &growing{grew: make(chan struct{}, 100)}
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, Process{Args: []string{"culvert", "audit", "tail", "-f", "--id", "shop/web", "--node", "node-1", p.dir}, Stdout: out, Stderr: out, Getenv: os.Getenv})
	}()
	<-out.grew
	p.one.Issued(p.decision("web", "node-1", "f00"))
	<-out.grew
	stop()
	if code := <-ended; code != 0 || !strings.Contains(out.text.String(), "serial f00") {
		t.Errorf("code %d:\n%s", code, out.text.String())
	}
}

// growing tells that something was printed.
type growing struct {
	text bytes.Buffer
	grew chan struct{}
}

func (g *growing) Write(p []byte) (int, error) {
	defer func() { g.grew <- struct{}{} }()
	return g.text.Write(p)
}
