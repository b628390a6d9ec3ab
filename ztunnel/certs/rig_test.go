// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

var (
	td    = spiffeid.RequireTrustDomainFromString("cluster.local")
	web   = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	db    = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db")
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
)

var errDown = errors.New("the CA is down")

func newCA(t testing.TB, domain spiffeid.TrustDomain) *ca.CA {
	t.Helper()
	c, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: domain})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issuer is the CA in process, which a test can take down, slow down, replace
// or have answer wrongly.
type issuer struct {
	mu     sync.Mutex
	ca     *ca.CA
	err    error
	gate   chan struct{}       // if not nil: each request takes one
	change func(*Issued)       // if not nil
	roots  []*x509.Certificate // if not nil: in place of the CA's
	ttl    time.Duration       // if not 0: whatever is asked for

	asked  []request
	active int
	most   int
}

type request struct {
	id spiffeid.ID
	at time.Time
}

func (i *issuer) Issue(ctx context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (Issued, error) {
	i.mu.Lock()
	i.asked = append(i.asked, request{id, time.Now()})
	i.active++
	i.most = max(i.most, i.active)
	gate := i.gate
	i.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.active--
	if ctx.Err() != nil {
		return Issued{}, ctx.Err()
	}
	if i.err != nil {
		return Issued{}, i.err
	}
	if i.ttl != 0 {
		ttl = i.ttl
	}
	chain, err := i.ca.Sign(csr, id, ttl)
	if err != nil {
		return Issued{}, err
	}
	issued := Issued{Chain: chain, Roots: i.ca.Roots()}
	if i.roots != nil {
		issued.Roots = i.roots
	}
	if i.change != nil {
		i.change(&issued)
	}
	return issued, nil
}

// set changes the issuer.
func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

// requests returns those since the last call, of all identities.
func (i *issuer) requests() []request {
	i.mu.Lock()
	defer i.mu.Unlock()
	asked := i.asked
	i.asked = nil
	return asked
}

// rig is a running Store, and what it told.
type rig struct {
	*Store
	issuer *issuer

	bundles atomic.Int32 // how often another was announced

	mu      sync.Mutex
	rotated []spiffeid.ID
}

func newRig(t *testing.T, authority *ca.CA, ttl time.Duration) *rig {
	t.Helper()
	i := &issuer{ca: authority}
	return run(t, Config{TTL: ttl}, i, i)
}

// run runs a Store whose issuer is by, which asks i in the end.
func run(t *testing.T, cfg Config, i *issuer, by Issuer) *rig {
	t.Helper()
	r := &rig{issuer: i}
	cfg.TrustDomain, cfg.Issuer, cfg.Log = td, by, quiet
	cfg.OnBundle = func() { r.bundles.Add(1) }
	cfg.OnRotate = func(id spiffeid.ID) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rotated = append(r.rotated, id)
	}
	r.Store = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// tellsOfTheFirstBundle waits for what comes with the first certificate: somebody is told of
// its roots a moment after the certificate can be had.
func (r *rig) tellsOfTheFirstBundle(t *testing.T) {
	t.Helper()
	waitFor(t, "somebody is told of the first bundle", func() bool { return r.bundles.Load() > 0 })
}

// say has the CA's stream say what the bundle is.
func (r *rig) say(t *testing.T, generation uint64, roots []*x509.Certificate) {
	t.Helper()
	if err := r.take(Bundle{Generation: generation, Hash: identity.BundleHash(roots), Roots: roots}); err != nil {
		t.Fatal(err)
	}
}

// rotations returns those since the last call.
func (r *rig) rotations() []spiffeid.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	rotated := r.rotated
	r.rotated = nil
	return rotated
}

// leaf is the certificate in force, or nil.
func (r *rig) leaf(id spiffeid.ID) *x509.Certificate {
	r.Store.mu.Lock()
	defer r.Store.mu.Unlock()
	if e := r.entries[id]; e != nil && e.current != nil {
		if chain, err := e.current.chain(); err == nil {
			return chain[0]
		}
	}
	return nil
}

// story runs in bubble time with a Store whose TTL is one hour.
func story(t *testing.T, tell func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		tell(t, newRig(t, newCA(t, td), time.Hour))
	})
}

// pass lets bubble time go by, and everything that is due happen.
func pass(d time.Duration) {
	time.Sleep(d) // bubble time
	synctest.Wait()
}

func hold(t *testing.T, r *rig, ids ...spiffeid.ID) {
	t.Helper()
	for _, id := range ids {
		t.Cleanup(r.Hold(id))
	}
}
