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
	"github.com/culvert-mesh/culvert/identity/ca/cluster"
	"github.com/culvert-mesh/culvert/identity/ledger"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// ledgerAgain is how often a ledger is tried that cannot be opened.
const ledgerAgain = 5 * time.Second

// ledgerWithin is how long the disk may take to open it, until nobody waits any more.
const ledgerWithin = 5 * time.Second

// keptLedger is the ledger of -ledger. It may not be open: nothing of the mesh stops for it.
type keptLedger struct {
	open   func() (*ledger.Ledger, error) // nil: none is kept
	ledger *ledger.Ledger                 // nil: it is not open
	trying <-chan attempt                 // to open it, which the disk has not answered; nil: none is under way
	log    *slog.Logger
}

// attempt is what came of opening the ledger.
type attempt struct {
	ledger *ledger.Ledger
	err    error
}

// openLedger opens the ledger of -ledger. One that is unusable now is no error. The replica is
// called as its host: a pod. tell hears of lines that are lost by the anchors.
func (c *config) openLedger(authority *ca.CA, tell func(ca.Event)) (*keptLedger, error) {
	k := &keptLedger{log: c.log}
	if c.ledger == "" {
		return k, nil
	}
	replica, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	anchors, err := c.anchors()
	if err != nil {
		return nil, err
	}
	k.open = func() (*ledger.Ledger, error) {
		if stat, err := os.Stat(c.ledger); err == nil && !stat.IsDir() {
			return nil, fmt.Errorf("%s is not a directory", c.ledger)
		}
		return ledger.Open(ledger.Options{
			Dir: c.ledger, Replica: replica, MaxAge: c.ledgerAge, MaxBytes: c.ledgerSize, Issuer: authority.Issuer, Roots: authority.Roots, Log: c.log,
			Anchors: anchors, Alarm: func(what string) { tell(ca.Event{Reason: ca.LedgerLost, Warning: true, Message: what}) },
			Certify: func(key crypto.PublicKey) ([]*x509.Certificate, error) {
				return authority.CertifyLedger(key, ledger.Subject(replica))
			},
		})
	}
	err = k.try(context.Background())
	if errors.Is(err, ledger.ErrUnusable) {
		k.log.Error("the ledger cannot be opened; certificates are issued nevertheless, and no line is kept until it can be", logError, err)
		return k, nil
	}
	return k, refused("ledger", err)
}

// anchors are those of -ledger-configmap or -ledger-checkpoints; nil if there are none.
func (c *config) anchors() (ledger.Anchorage, error) {
	switch {
	case c.ledgerCheckpoints != "":
		return ledger.NewAnchorDir(c.ledgerCheckpoints), nil
	case c.ledgerConfigMap == "":
		return nil, nil
	}
	api, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return nil, refused("kubeconfig", err)
	}
	return cluster.NewTexts(api, c.ledgerConfigMap)
}

// try opens the ledger. An attempt that the disk does not answer is gone on with by the next
// try: it may have the ledger's lock.
func (k *keptLedger) try(ctx context.Context) error {
	if k.trying == nil {
		answer := make(chan attempt, 1)
		go func() {
			l, err := k.open()
			answer <- attempt{l, err}
		}()
		k.trying = answer
	}
	patience := time.NewTimer(ledgerWithin)
	defer patience.Stop()
	select {
	case a := <-k.trying:
		k.trying, k.ledger = nil, a.ledger
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return fmt.Errorf("%w: the disk does not answer", ledger.ErrUnusable)
	}
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
		if k.ledger == nil {
			if k.openLater(ctx); k.ledger == nil {
				ended <- nil
				return
			}
			use(k.ledger)
		}
		ended <- k.ledger.Run(ctx)
	}()
	return func() {
		stop()
		if err := <-ended; err != nil {
			k.log.Error("the ledger has not ended in good order", logError, err)
		}
	}
}

// openLater opens the ledger once it can be, or returns without it when ctx ends.
func (k *keptLedger) openLater(ctx context.Context) {
	tick := time.NewTicker(ledgerAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if k.try(ctx) == nil {
			k.log.Info("the ledger is open; lines are kept from now on")
			return
		}
	}
}
