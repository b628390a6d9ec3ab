// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// change is what became another when files were put in force.
type change struct {
	issuer         bool
	added, dropped []*x509.Certificate // roots
}

func (ch change) any() bool { return ch.issuer || ch.added != nil || ch.dropped != nil }

// Take puts files in force, if they are a CA that verifiers of the one in force
// accept: another issuer under one of the roots in force; more roots; or fewer, as long
// as the issuer in force does not need them. It reports whether anything changed. What
// it refuses changes nothing. The bundle's generation is kept in memory alone.
func (c *CA) Take(files Files) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, err := c.put(context.Background(), nil, files)
	return ch.any(), err
}

// adoptions are how often adopt starts anew because another process was faster.
const adoptions = 10

// adopt puts in force what a store holds, with a generation that the store keeps. It
// returns what is in force by now: files, or what another process wrote meanwhile.
//
// Read has read the Record before the CA's files. So if the Record is still the same
// when it is replaced, no other process has numbered a younger set since: a process
// that is behind cannot have an old set look like a new one.
func (c *CA) adopt(ctx context.Context, store Store, files Files) (change, Files, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all change
	for range adoptions {
		ch, err := c.put(ctx, store, files)
		all.issuer = all.issuer || ch.issuer
		all.added, all.dropped = append(all.added, ch.added...), append(all.dropped, ch.dropped...)
		if !errors.Is(err, ErrChanged) {
			return all, files, err
		}
		next, err := store.Read(ctx)
		if err == nil && next == nil {
			err = ErrGone
		}
		if err != nil {
			return all, files, err
		}
		files = next
	}
	return all, files, fmt.Errorf("%w: %w, %d times", errUnkept, ErrChanged, adoptions)
}

// put puts files in force, but for a bundle whose number another process has taken:
// ErrChanged. With errUnkept, all is in force. The caller holds mu.
func (c *CA) put(ctx context.Context, store Store, files Files) (change, error) {
	next, err := c.parse(files)
	if err != nil {
		return change{}, err
	}
	now, old := c.inForce.Load(), c.bundle.Load()
	if now != nil && !follows(files, next.roots, old) {
		if err := now.accepts(next, files, old.roots); err != nil {
			return change{}, err
		}
	}
	ch := change{issuer: now == nil || !slices.EqualFunc(now.chain, next.chain, (*x509.Certificate).Equal)}
	another := ch.issuer || !now.anchor.Equal(next.anchor) || !slices.Equal(Fingerprints(now.roots), Fingerprints(next.roots))
	if another && now != nil { // now, not after the store answered
		c.inForce.Store(next)
	}
	record, err := c.number(ctx, store, files, next.roots)
	if !errors.Is(err, ErrChanged) {
		if old != nil {
			ch.added, ch.dropped = without(next.roots, old.roots), without(old.roots, next.roots)
		}
		c.bundle.Store(&bundle{record, next.roots})
		if now == nil {
			c.inForce.Store(next)
		}
	}
	if now := c.bundle.Load(); ch.any() || now != nil && (old == nil || now.record.Generation != old.record.Generation) {
		c.news.tell()
	}
	return ch, err
}

// follows reports whether another replica has these roots in force already, as a younger
// bundle. Then they have been judged, step by step, while this one did not look.
func follows(files Files, roots []*x509.Certificate, old *bundle) bool {
	kept, _ := ParseRecord(files[BundleFile])
	return kept.Is(roots) && kept.Generation > old.record.Generation
}

// accepts says why next cannot follow while verifiers trust the roots in bundle, and
// leaves of a are in use.
func (a *authority) accepts(next *authority, files Files, bundle []*x509.Certificate) error {
	names := of(next.layout)
	if !next.leadsTo(bundle) {
		return fmt.Errorf("%s is under a root that nodes do not trust yet: add the root to %s first, and change the issuer when they do",
			names.issuer, names.bundle(files))
	}
	if !a.leadsTo(next.roots) {
		return fmt.Errorf("%s lacks the root that the issuer in force needs, %s: change the issuer first, and drop the root when no certificate under it is in use",
			names.bundle(files), a.anchor.Subject)
	}
	return nil
}

// leadsTo reports whether a verifier that trusts roots accepts the chain.
func (a *authority) leadsTo(roots []*x509.Certificate) bool {
	return slices.ContainsFunc(a.chain, func(cert *x509.Certificate) bool {
		return slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return cert.CheckSignatureFrom(root) == nil })
	})
}

// without returns the certificates of a that are not in b.
func without(a, b []*x509.Certificate) (rest []*x509.Certificate) {
	for _, cert := range a {
		if !slices.ContainsFunc(b, cert.Equal) {
			rest = append(rest, cert)
		}
	}
	return rest
}
