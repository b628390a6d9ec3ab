// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ledger"
)

// ledgerAgain is how often a ledger is tried that cannot be opened.
const ledgerAgain = 5 * time.Second

// keptLedger is the ledger of -ledger. It may not be open: nothing of the mesh stops for it.
type keptLedger struct {
	open   func() (*ledger.Ledger, error) // nil: none is kept
	ledger *ledger.Ledger                 // nil: it is not open
	log    *slog.Logger
}

// openLedger opens the ledger of -ledger. One that is unusable now is no error. The replica is
// called as its host: a pod.
func (c *config) openLedger(authority *ca.CA) (*keptLedger, error) {
	k := &keptLedger{log: c.log}
	if c.ledger == "" {
		return k, nil
	}
	if stat, err := os.Stat(c.ledger); err == nil && !stat.IsDir() {
		return nil, refused("ledger", fmt.Errorf("%s is not a directory", c.ledger))
	}
	replica, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	k.open = func() (*ledger.Ledger, error) {
		return ledger.Open(ledger.Options{
			Dir: c.ledger, Replica: replica, MaxAge: c.ledgerAge, MaxBytes: c.ledgerSize, Issuer: authority.Issuer, Log: c.log,
			Certify: func(key crypto.PublicKey) ([]*x509.Certificate, error) {
				return authority.CertifyLedger(key, ledger.Subject(replica))
			},
		})
	}
	k.ledger, err = k.open()
	if errors.Is(err, ledger.ErrUnusable) {
		k.log.Error("the ledger cannot be opened; certificates are issued nevertheless, and no line is kept until it can be", logError, err)
		return k, nil
	}
	return k, refused("ledger", err)
}

// failed reports whether there should be a ledger, and it is not open.
func (k *keptLedger) failed() bool { return k.open != nil && k.ledger == nil }

// keep runs the ledger until end is called, which returns when its last line is on disk. One
// that is not open is opened once it can be, and given to use.
func (k *keptLedger) keep(use func(*ledger.Ledger)) (end func()) {
	if k.open == nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		l := k.ledger
		if l == nil {
			if l = k.openLater(ctx); l == nil {
				ended <- nil
				return
			}
			use(l)
		}
		ended <- l.Run(ctx)
	}()
	return func() {
		stop()
		if err := <-ended; err != nil {
			k.log.Error("the ledger has not ended in good order", logError, err)
		}
	}
}

// openLater opens the ledger once it can be, or returns nil when ctx ends.
func (k *keptLedger) openLater(ctx context.Context) *ledger.Ledger {
	tick := time.NewTicker(ledgerAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if l, err := k.open(); err == nil {
			k.log.Info("the ledger is open; lines are kept from now on")
			return l
		}
	}
}
