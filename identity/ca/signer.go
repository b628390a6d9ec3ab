// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/identity/signing"
)

// signerKey reads what stands for a key of a signer, or returns nil and says why.
func (e *examination) signerKey(name string, block *pem.Block) *signing.Key {
	key, err := signing.Parse(block)
	if err != nil {
		e.report(badReference, name, "%s: %v", name, err)
		return nil
	}
	return key
}

// checkSigner has the signer of the issuer's key sign, before certificates are asked for
// what only a signature shows.
func (e *examination) checkSigner() {
	key, held := e.key.(*signing.Key)
	if !held {
		return
	}
	switch err := key.Check(); {
	case err == nil:
	case errors.Is(err, signing.ErrAway):
		e.reportAway(err)
	default:
		e.report(signerOther, e.names.key, "%s: %v", e.names.key, err)
	}
}

func (e *examination) reportAway(err error) {
	e.report(signerAway, e.names.key, "%s: %v", e.names.key, err)
	e.defects[len(e.defects)-1].cause = signing.ErrAway
}

// Signer is the key that the issuer in force has of a signer, or nil.
func (c *CA) Signer() *signing.Key {
	a := c.inForce.Load()
	if a == nil {
		return nil
	}
	key, _ := a.key.(*signing.Key)
	return key
}

// signerLook is how often a Keeper looks whether the signer signs.
const signerLook = time.Second

// watchSigner says when the signer of the issuer's key is lost, and when it is back.
func (k *Keeper) watchSigner(ctx context.Context) {
	lost := false
	for ; ctx.Err() == nil; sleep(ctx, signerLook) {
		key := k.ca.Signer()
		if key == nil {
			lost = false
			continue
		}
		switch err := key.Watch(); {
		case err != nil && !lost:
			lost = true
			k.happened(Event{Reason: SignerLost, Warning: true, Message: fmt.Sprintf("no certificate is issued: %v", err)})
		case err == nil && lost:
			lost = false
			k.happened(Event{Reason: SignerBack, Message: fmt.Sprintf("%s signs again", key)})
		}
	}
}
