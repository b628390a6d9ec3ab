// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ledger"
)

// A volume that cannot be written keeps no CA from starting, and the ledger begins once it can
// be. What is no directory is a wrong flag.
func TestALedgerThatCannotBeOpenedStopsNothing(t *testing.T) {
	t.Parallel()
	authority, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	c := &config{ledger: filepath.Join(t.TempDir(), "ledger"), ledgerAge: time.Hour, ledgerSize: ledger.MinBytes, log: slog.New(slog.DiscardHandler)}
	obstacle := filepath.Join(c.ledger, host+".head") // which no process can open to write
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	k, err := c.openLedger(authority)
	if err != nil || !k.failed() {
		t.Fatalf("%+v, %v", k, err)
	}
	used := make(chan *ledger.Ledger, 1)
	end := k.keep(func(l *ledger.Ledger) { used <- l })
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	select {
	case l := <-used:
		l.Issued(ledger.Decision{Identity: "spiffe://cluster.local/ns/shop/sa/web"})
	case <-time.After(time.Minute):
		t.Error("it is not opened once it can be")
	}
	end()
	issued := 0
	report, err := ledger.Verify(ledger.Question{Dir: c.ledger, Roots: authority.Roots()}, func(r ledger.Record) {
		if r.Kind == ledger.KindIssued {
			issued++
		}
	})
	if err != nil || len(report.Faults) > 0 || issued != 1 {
		t.Errorf("%d lines, %+v, %v", issued, report, err)
	}

	c.ledger = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(c.ledger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.openLedger(authority); err == nil || !strings.Contains(err.Error(), "-ledger: ") {
		t.Errorf("a file: %v", err)
	}
}
