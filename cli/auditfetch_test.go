// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/identity/ledger"
	"github.com/culvert-mesh/culvert/identity/server"
)

// serveLedger is a replica of the CA that keeps a ledger, or none.
func (p *paperLedger) serveLedger(kept *ledger.Ledger) string {
	p.t.Helper()
	s, err := server.New(server.Config{CA: p.ca, Attestor: &server.JWKS{}, Placement: server.NewPlacement(), DNSNames: []string{"ca"}, Ledger: kept})
	if err != nil {
		p.t.Fatal(err)
	}
	return clitest.Serve(p.t, s.AdminHandler())
}

// What was fetched is what audit reads: it is whole, and signed.
func TestAuditFetchesTheLedgersOfReplicas(t *testing.T) {
	p := newPaperLedger(t)
	at := p.serveLedger(p.one)
	dir := filepath.Join(t.TempDir(), "copy")
	p.says(p.run(0, "fetch", dir, "--ca-admin", at), at, "FILES")
	p.says(p.run(0, "who-had", "shop/web", dir), "node-1", "node-2")
	p.says(p.run(0, "verify", "--hashes-only", dir), "ca-1", "ca-2")
	p.says(p.run(2, "fetch", dir, "--ca-admin", at), "is not empty")
	p.says(p.run(2, "fetch", filepath.Join(t.TempDir(), "none"), "--ca-admin", p.serveLedger(nil)), "this replica keeps no ledger")
	p.says(p.run(2, "fetch", filepath.Join(t.TempDir(), "gone"), "--ca-admin", "127.0.0.1:1"), "connection refused")
}

// A CA is not believed where its answer would become a path here.
func TestAuditFetchesNoFileOfAnotherName(t *testing.T) {
	p := newPaperLedger(t)
	evil := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
		if r.URL.Path == "/ledger" {
			_ = json.NewEncoder(w).Encode(map[string]any{"files": []string{"../x.head", "/etc/x.head", "authorized_keys"}, "piece": 10})
		}
	})
	dir := filepath.Join(t.TempDir(), "copy")
	p.says(p.run(2, "fetch", dir, "--ca-admin", clitest.Serve(t, evil)), "which is none of a ledger")
	for _, place := range []string{dir, filepath.Dir(dir)} {
		entries, err := os.ReadDir(place)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if strings.Contains(entry.Name(), "x") || entry.Name() == "authorized_keys" {
				t.Errorf("it made %s", filepath.Join(place, entry.Name()))
			}
		}
	}
}
