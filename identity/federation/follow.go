// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// follower keeps the bundle of one domain. Federation.mu guards its fields, but for domain.
type follower struct {
	of     *Federation
	domain Domain
	stop   context.CancelFunc

	known    kept
	roots    []*x509.Certificate // of known
	since    time.Time           // when it began; a bundle's age counts from here if none came
	failures uint64
	problem  string // of the last attempt; empty: none
	dropped  int    // roots of the bundle file that the bundle in force has no more
}

// run fetches until ctx ends.
func (f *follower) run(ctx context.Context) {
	window := firstRetry
	pause := f.first()
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		hint, err := f.attempt(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			window = firstRetry
			pause = hint*9/10 + rand.N(hint/10)
			continue
		}
		pause = window/2 + rand.N(window/2)
		window = min(2*window, DefaultRefresh)
	}
}

// first is how long to wait at the start: many CAs may start at once, and a bundle that was
// kept is good for a while.
func (f *follower) first() time.Duration {
	if len(f.roots) == 0 {
		return 0
	}
	return rand.N(time.Second)
}

// attempt fetches the bundle once, and says when the next is due.
func (f *follower) attempt(ctx context.Context) (time.Duration, error) {
	vouching, first, began, err := f.vouching()
	var b *spiffebundle.Bundle
	if err == nil {
		b, err = f.domain.fetch(ctx, vouching)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err == nil {
		f.of.mu.Lock()
		known := f.known
		f.of.mu.Unlock()
		err = check(b, known, f.of.opts.CA.Roots())
	}
	if err != nil {
		f.fail(err)
		return 0, err
	}
	return refresh(b), f.take(b, first, began)
}

// vouching are the roots that vouch for the endpoint, with those of the bundle file and its hash.
func (f *follower) vouching() (roots, first []*x509.Certificate, began []byte, err error) {
	if f.domain.Profile != HTTPSSPIFFE {
		return nil, nil, nil, nil
	}
	f.of.mu.Lock()
	roots, known := f.roots, f.known
	f.of.mu.Unlock()
	text, first, err := f.domain.begin()
	if err != nil {
		if len(roots) > 0 {
			return roots, nil, known.Began, nil // a file that is gone does no harm any more
		}
		return nil, nil, nil, err
	}
	sum := sha256.Sum256(text)
	if len(roots) == 0 || !bytes.Equal(sum[:], known.Began) {
		roots = append(roots[:len(roots):len(roots)], first...)
	}
	return roots, first, sum[:], nil
}

// take puts a bundle in force and keeps it. first are the roots of the bundle file.
func (f *follower) take(b *spiffebundle.Bundle, first []*x509.Certificate, began []byte) error {
	next := kept{TrustDomain: f.domain.TrustDomain.Name(), Fetched: time.Now().UTC(), Refresh: refresh(b), Began: began}
	next.Sequence, next.Numbered = b.SequenceNumber()
	roots := b.X509Authorities()
	for _, root := range roots {
		next.Roots = append(next.Roots, root.Raw)
	}
	f.of.mu.Lock()
	if f.of.followers[f.domain.TrustDomain] != f {
		f.of.mu.Unlock()
		return context.Canceled // another is in its place
	}
	news := next.Sequence != f.known.Sequence || !sameRoots(f.roots, roots)
	dropped := lacking(first, roots)
	stale := dropped > 0 && f.dropped == 0
	f.known, f.roots, f.problem, f.dropped = next, roots, "", dropped
	f.of.publishLocked(false)
	f.of.mu.Unlock()
	if err := f.keep(next); err != nil {
		f.of.opts.Log.Error("the bundle of another trust domain is not kept over a restart", logTrustDomain, f.domain.TrustDomain.Name(), logPath, f.of.opts.State, logError, err)
	}
	if news {
		f.of.opts.Log.Info("the bundle of another trust domain is in force", logTrustDomain, f.domain.TrustDomain.Name(), logSequence, next.Sequence, logRoots, len(roots))
	}
	if stale {
		f.of.opts.Log.Warn("the bundle file of another trust domain has roots that its bundle has dropped, and a CA that has kept nothing believes them: write the file anew", logTrustDomain, f.domain.TrustDomain.Name(), logPath, f.domain.BundleFile, logRoots, dropped)
	}
	return nil
}

// lacking is how many of some are not among others.
func lacking(some, others []*x509.Certificate) (n int) {
	for _, root := range some {
		if !slices.ContainsFunc(others, root.Equal) {
			n++
		}
	}
	return n
}

// keep writes what is known, unless the domain has gone meanwhile. A disk that hangs holds up
// nobody but the follower.
func (f *follower) keep(k kept) error {
	err := k.save(f.of.opts.State, f.domain.TrustDomain)
	f.of.mu.Lock()
	gone := f.of.followers[f.domain.TrustDomain] == nil
	f.of.mu.Unlock()
	if gone {
		forget(f.of.opts.State, f.domain.TrustDomain)
	}
	return err
}

func sameRoots(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

// fail notes why there is no younger bundle. It is logged when it changes.
func (f *follower) fail(err error) {
	f.of.mu.Lock()
	f.failures++
	said := f.problem == err.Error()
	f.problem = err.Error()
	has := len(f.roots) > 0
	f.of.mu.Unlock()
	if said {
		return
	}
	goesOn := "its workloads cannot be verified"
	if has {
		goesOn = "the last good one stays in force"
	}
	f.of.opts.Log.Warn(fmt.Sprintf("the bundle of another trust domain cannot be fetched; %s", goesOn), logTrustDomain, f.domain.TrustDomain.Name(), logError, err)
}

// foreign is what nodes are told of the domain.
func (f *follower) foreign() ca.Foreign {
	return ca.Foreign{TrustDomain: f.domain.TrustDomain, Sequence: f.known.Sequence, Roots: f.roots}
}
