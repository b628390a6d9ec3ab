// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// agent is an issuer that makes keys itself, as SPIRE's.
type agent struct {
	ca       *ca.CA
	replaced chan func(spiffeid.ID) // holds what Stream was given
	gate     chan struct{}          // if not nil: each Issue takes one before it returns

	mu        sync.Mutex // guards what follows
	chain     []*x509.Certificate
	key       []byte // PKCS #8
	asked     int
	forgotten []spiffeid.ID
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{ca: newCA(t, td), replaced: make(chan func(spiffeid.ID), 1)}
	a.rotate(t)
	return a
}

func (a *agent) rotate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.ca.Certify(key.Public(), web, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.chain, a.key = chain, der
}

func (a *agent) Issue(_ context.Context, _ spiffeid.ID, csr []byte, _ time.Duration) (Issued, error) {
	a.mu.Lock()
	a.asked++
	chain, key := a.chain, a.key
	a.mu.Unlock()
	if a.gate != nil {
		<-a.gate
	}
	if csr != nil {
		panic("it is sent a CSR")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return Issued{}, err
	}
	return Issued{Chain: chain, Roots: a.ca.Roots(), Key: parsed.(crypto.Signer)}, nil
}

func (a *agent) Stream(ctx context.Context, replaced func(spiffeid.ID)) {
	a.replaced <- replaced
	<-ctx.Done()
}

func (a *agent) Forget(id spiffeid.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgotten = append(a.forgotten, id)
}

// streamed runs in bubble time with a Store whose issuer is an agent; push has the agent
// say that it has another SVID of web.
func streamed(t *testing.T, tell func(t *testing.T, r *rig, a *agent, push func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		r := run(t, Config{}, nil, a)
		replaced := <-a.replaced
		tell(t, r, a, func() { replaced(web) })
	})
}

func TestAnIssuerThatMakesKeysReplacesThemWhenItLikes(t *testing.T) {
	streamed(t, func(t *testing.T, r *rig, a *agent, push func()) {
		hold(t, r, web)
		pass(time.Second)
		first := r.leaf(web)
		pass(40 * time.Minute) // it was asked by now: the same SVID is no news
		if s := r.Stats(); !r.leaf(web).Equal(first) || len(r.rotations()) != 0 || s.Issued != 1 || len(s.Failed) != 0 || s.Held[Valid] != 1 {
			t.Errorf("after two thirds: %+v", s)
		}
		pass(6 * time.Minute) // three quarters have passed
		if c := r.Certificate(web); c.State != Overdue || !strings.Contains(c.Error, "not replaced the SVID yet") {
			t.Errorf("after three quarters: %+v", c)
		}
		a.rotate(t)
		push()
		pass(0)
		if c := r.Certificate(web); c.State != Valid || c.Error != "" || r.leaf(web).Equal(first) || !slices.Equal(r.rotations(), []spiffeid.ID{web}) {
			t.Errorf("replaced: %+v", c)
		}
	})
}

func TestAReplacementDuringAnAttemptIsNotMissed(t *testing.T) {
	streamed(t, func(t *testing.T, r *rig, a *agent, push func()) {
		a.gate = make(chan struct{})
		hold(t, r, web)
		pass(0)
		first := a.chain[0]
		a.rotate(t)
		push()
		a.gate <- struct{}{} // the answer is the former SVID
		pass(0)
		if !r.leaf(web).Equal(first) {
			t.Error("the first answer is not in force")
		}
		asked := time.Now()
		a.gate <- struct{}{} // waits for the next attempt
		pass(0)
		if r.leaf(web).Equal(first) || time.Since(asked) > time.Second {
			t.Errorf("the replacement was missed: the next attempt came after %v", time.Since(asked))
		}
	})
}

func TestAnIssuerThatMakesKeysIsNotAskedForYoungerOnes(t *testing.T) {
	streamed(t, func(t *testing.T, r *rig, a *agent, _ func()) {
		release := r.Hold(web)
		pass(time.Second)
		if got := r.Renew(t.Context(), web); !got[0].Held || !strings.Contains(got[0].Error, "replaces SVIDs when it likes") {
			t.Errorf("%+v", got)
		}
		release()
		if pass(0); !slices.Equal(a.forgotten, []spiffeid.ID{web}) {
			t.Errorf("forgotten: %v", a.forgotten)
		}
	})
}

// The attempt opens the stream again that its last release has closed.
func TestAnAttemptThatOutlivesItsPodLeavesNoStream(t *testing.T) {
	streamed(t, func(t *testing.T, r *rig, a *agent, _ func()) {
		a.gate = make(chan struct{})
		release := r.Hold(web)
		pass(0)
		release()
		a.gate <- struct{}{}
		if pass(0); !slices.Equal(a.forgotten, []spiffeid.ID{web, web}) {
			t.Errorf("forgotten: %v, want it after the attempt, too", a.forgotten)
		}
	})
}

func TestKeysOfAllKindsAreOverwritten(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	prime := rs.Primes[0]
	for _, key := range []crypto.Signer{ec, ed, rs} {
		own, err := givenKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if !own.public.Equal(key.Public()) {
			t.Errorf("%T: its public key is another's", key)
		}
		own.forget()
		if _, err := own.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != errForgotten {
			t.Errorf("%T: signs: %v", key, err)
		}
	}
	//lint:ignore SA1019 the memory is what is looked at
	words := slices.Concat(ec.D.Bits(), rs.D.Bits(), prime.Bits())
	if slices.ContainsFunc(words, func(w big.Word) bool { return w != 0 }) || slices.ContainsFunc(ed, func(b byte) bool { return b != 0 }) {
		t.Error("a key is still there")
	}
	if _, err := givenKey(nil); err == nil {
		t.Error("no key is one")
	}
}
