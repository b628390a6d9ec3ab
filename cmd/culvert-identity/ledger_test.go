// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	k, err := c.openLedger(authority, nil)
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
	if _, err := c.openLedger(authority, nil); err == nil || !strings.Contains(err.Error(), "-ledger: ") {
		t.Errorf("a file: %v", err)
	}
}

// Where the ledger's checkpoint is kept by another hand's disk, an alarm of it is an event of
// the CA, and a directory on the ledger's own disk is refused.
func TestALedgerThatIsLostByItsCheckpointIsTold(t *testing.T) {
	t.Parallel()
	authority, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	c := &config{ledger: filepath.Join(t.TempDir(), "ledger"), ledgerAge: time.Hour, ledgerSize: ledger.MinBytes, ledgerCheckpoints: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	write(t, filepath.Join(c.ledgerCheckpoints, host+".c0ffee"), `{"replica": "`+host+`", "chain": "c0ffee", "seq": 7, "hash": "`+strings.Repeat("00", 32)+`", "time": "2026-11-30T07:00:00Z"}`)
	told := make(chan ca.Event, 1)
	k, err := c.openLedger(authority, func(e ca.Event) { told <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer k.keep(nil)()
	select {
	case e := <-told:
		if want := "the chain c0ffee of " + host + " had come to seq 7 at 2026-11-30T07:00:00Z"; e.Reason != ca.LedgerLost || !e.Warning || !strings.Contains(e.Message, want) {
			t.Errorf("%+v", e)
		}
	case <-time.After(time.Minute):
		t.Error("nobody is told")
	}
	for _, dir := range []string{"/l", "/l/checkpoints", "/l/../l/x"} {
		if _, err := parseOnly("-ledger", "/l", "-ledger-checkpoints", dir, "-dir", "/c", "-workloads", "/w", "-jwks", "/j"); err == nil || !strings.Contains(err.Error(), "whoever has that disk has both") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := parseOnly("-ledger", "/l", "-ledger-checkpoints", "/lx", "-ledger-configmap", "a/b", "-dir", "/c", "-kubeconfig", "in-cluster"); err == nil || !strings.Contains(err.Error(), "not in both") {
		t.Error(err)
	}
}

// A disk that hangs keeps no CA from its start, nor from its end, and is asked once.
func TestADiskThatDoesNotAnswerKeepsNoCAWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs, asked := make(chan struct{}), atomic.Int32{}
		k := &keptLedger{log: slog.New(slog.DiscardHandler), open: func() (*ledger.Ledger, error) {
			asked.Add(1)
			<-hangs
			return nil, ledger.ErrUnusable
		}}
		if err := k.try(t.Context()); !errors.Is(err, ledger.ErrUnusable) || !k.failed() {
			t.Errorf("%v", err)
		}
		end := k.keep(nil)
		time.Sleep(time.Minute) // bubble time
		begin := time.Now()
		end()
		if waited := time.Since(begin); waited > 0 || asked.Load() != 1 {
			t.Errorf("the end waited %v; asked %d times", waited, asked.Load())
		}
		close(hangs)
	})
}
