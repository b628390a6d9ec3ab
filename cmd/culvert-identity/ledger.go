// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"os"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ledger"
)

// openLedger is the ledger of -ledger, or nil. The replica is called as its host: a pod.
func (c *config) openLedger(authority *ca.CA) (*ledger.Ledger, error) {
	if c.ledger == "" {
		return nil, nil
	}
	replica, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	opened, err := ledger.Open(ledger.Options{
		Dir: c.ledger, Replica: replica, MaxAge: c.ledgerAge, MaxBytes: c.ledgerSize, Issuer: authority.Issuer, Log: c.log,
		Certify: func(key crypto.PublicKey) ([]*x509.Certificate, error) {
			return authority.CertifyLedger(key, ledger.Subject(replica))
		},
	})
	return opened, refused("ledger", err)
}

// keepLedger runs a ledger until end is called, which returns when its last line is on
// disk.
func keepLedger(l *ledger.Ledger, log *slog.Logger) (end func()) {
	if l == nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	return func() {
		stop()
		if err := <-ended; err != nil {
			log.Error("the ledger has not ended in good order", logError, err)
		}
	}
}
