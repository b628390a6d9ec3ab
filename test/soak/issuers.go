// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

const (
	issuerEvery = 8 * time.Second // from one issuer to the next
	takenWithin = 5 * time.Second // of which the CA needs one to look
	leastLength = 30 * time.Second
)

// replaced is what was seen of the issuers that took another's place.
type replaced struct {
	issuers int
	slowest time.Duration // until the CA took one
}

// T-ISSUER: replaceIssuers does what an operator does who replaces the CA's issuer under the same
// root, again and again until end. One file comes after the other: between them they do
// not belong together, and the CA must refuse that and sign on by the former issuer.
func (w *world) replaceIssuers(ctx, end context.Context) error {
	dir := filepath.Dir(w.lab.Identity.Root)
	for wait(end, issuerEvery) {
		next, err := nextIssuer(ctx, dir)
		if err != nil {
			return err
		}
		if _, err := w.put(ctx, dir, ca.IssuerKeyFile, next, ca.IssuerValidationFailed); err != nil {
			return err
		}
		took, err := w.put(ctx, dir, ca.IssuerFile, next, ca.IssuerUpdated)
		if err != nil {
			return err
		}
		w.replaced.issuers++
		w.replaced.slowest = max(w.replaced.slowest, took)
	}
	return ctx.Err()
}

// wait returns whether d passed before ctx was done.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// nextIssuer makes another issuer under the root in dir.
func nextIssuer(ctx context.Context, dir string) (ca.Files, error) {
	files, err := ca.Directory{Path: dir}.Read(ctx)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(files[ca.RootKeyFile])
	if block == nil {
		return nil, fmt.Errorf("%s/%s is no PEM", dir, ca.RootKeyFile)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", dir, ca.RootKeyFile, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s/%s: a %T does not sign", dir, ca.RootKeyFile, key)
	}
	return ca.NextIssuer(files, signer, ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
}

// put replaces one of the CA's files, and returns how long it took until the CA said so by
// an event.
func (w *world) put(ctx context.Context, dir, name string, files ca.Files, event ca.Reason) (time.Duration, error) {
	before, err := w.events(ctx, event)
	if err != nil {
		return 0, err
	}
	path := filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(path+".soak", files[name], 0o600), os.Rename(path+".soak", path)); err != nil {
		return 0, err
	}
	for begin := time.Now(); ; {
		now, err := w.events(ctx, event)
		switch took := time.Since(begin); {
		case err != nil:
			return 0, err
		case now > before:
			return took, nil
		case took > takenWithin:
			return 0, fmt.Errorf("the CA did not say %v within %v of another %s", event, takenWithin, name)
		}
		if !wait(ctx, 50*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
}

// events is how often the CA says that something happened.
func (w *world) events(ctx context.Context, event ca.Reason) (n int, err error) {
	status, text, err := w.lab.Identity.Get(ctx, "/metrics")
	if err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("the CA's metrics: status %d, %w", status, err)
	}
	_, rest, found := strings.Cut(text, fmt.Sprintf("culvert_identity_ca_events_total{event=%q} ", event))
	if !found {
		return 0, nil
	}
	_, err = fmt.Sscan(rest, &n)
	return n, err
}
