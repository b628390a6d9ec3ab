// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

// authority is the CA of both nodes, in this process. It replaces its root again and
// again, as an operator does: a root is added, certificates are signed below it, and the
// former one is dropped once no certificate rests on it. That is calm: no talk may notice.
type authority struct {
	dir string // a folder for each root

	mu     sync.Mutex
	signer *ca.CA
	bundle certs.Bundle
	news   chan struct{}       // closed when the bundle changes
	heard  map[string]uint64   // generation that a node took
	signed map[string]*ca.CA   // for a node, at last
	turned map[turnOfRoots]int // how often that was done
}

// turnOfRoots is a step on the way from one root to the next.
type turnOfRoots int

const (
	rootAdded turnOfRoots = iota
	rootSwitched
	rootDropped
)

// newAuthority makes a CA with its first root.
func newAuthority() (*authority, error) {
	dir, err := os.MkdirTemp("", "stress")
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, news: make(chan struct{}), heard: map[string]uint64{}, signed: map[string]*ca.CA{}, turned: map[turnOfRoots]int{}}
	if a.signer, err = a.another(); err != nil {
		return nil, err
	}
	a.say(a.signer)
	return a, nil
}

// close removes its files.
func (a *authority) close() error { return os.RemoveAll(a.dir) }

// another makes a root that nobody knows yet, and an issuer below it.
func (a *authority) another() (*ca.CA, error) {
	dir, err := os.MkdirTemp(a.dir, "root")
	if err != nil {
		return nil, err
	}
	return ca.Open(dir, ca.Options{TrustDomain: trustDomain})
}

// say has the bundle be the roots of these; mu is held, or nobody else knows a.
func (a *authority) say(trusted ...*ca.CA) {
	next := certs.Bundle{Generation: a.bundle.Generation + 1}
	for _, c := range trusted {
		next.Roots = append(next.Roots, c.Roots()...)
	}
	next.Hash = identity.BundleHash(next.Roots)
	a.bundle = next
	close(a.news)
	a.news = make(chan struct{})
}

// turn takes one step, which says by which CA to sign, and whom to trust.
func (a *authority) turn(step turnOfRoots, signer *ca.CA, trusted ...*ca.CA) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.signer = signer
	a.turned[step]++
	if step != rootSwitched { // the same roots
		a.say(trusted...)
	}
}

// all reports whether something holds for each of the nodes.
func (a *authority) all(nodes []*node, holds func(name string) bool) func() bool {
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, n := range nodes {
			if !holds(n.name) {
				return false
			}
		}
		return true
	}
}

var _ certs.Follower = issuer{} // a Store finds out at run time

// issuer is how one node reaches the CA.
type issuer struct {
	*authority
	node string
}

// Issue signs.
func (i issuer) Issue(_ context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (certs.Issued, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	chain, err := i.signer.Sign(csr, id, ttl)
	if err == nil {
		i.signed[i.node] = i.signer
	}
	return certs.Issued{Chain: chain, Roots: i.bundle.Roots}, err
}

// Follow hands each bundle to the node, until ctx is done.
func (i issuer) Follow(ctx context.Context, _ certs.Bundle, take func(certs.Bundle) error, _ func() []certs.Rest) error {
	for {
		i.mu.Lock()
		b, news := i.bundle, i.news
		i.mu.Unlock()
		if err := take(b); err != nil {
			return err
		}
		i.mu.Lock()
		i.heard[i.node] = b.Generation
		i.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// replaceRoots replaces one root after the other until ctx is done.
func (w *weather) replaceRoots(ctx context.Context, a *authority, rng *rand.Rand) {
	for former := a.signer; w.wait(ctx, time.Duration(rng.IntN(3000))*time.Millisecond); {
		next, err := a.another()
		if err != nil {
			w.talks.fault("no other root", "%v", err)
			return
		}
		w.note("a root is added")
		a.turn(rootAdded, former, former, next)
		if !w.until(ctx, a.all(w.nodes, func(name string) bool { return a.heard[name] == a.bundle.Generation })) ||
			!w.wait(ctx, time.Duration(rng.IntN(2000))*time.Millisecond) {
			return
		}
		w.note("certificates are signed below it")
		a.turn(rootSwitched, next)
		// Certificates of the former root are in use for as long as they live.
		if !w.until(ctx, a.all(w.nodes, func(name string) bool { return a.signed[name] == next })) || !w.wait(ctx, leafLife) {
			return
		}
		w.note("the former root is dropped")
		a.turn(rootDropped, next, next)
		former = next
	}
}

// until waits for a condition; false if ctx was done first.
func (w *weather) until(ctx context.Context, is func() bool) bool {
	for !is() {
		if !w.wait(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return true
}

// rootsVerdict says how often roots were replaced, and is an error if a run that is long
// enough for it showed nothing.
func (a *authority) rootsVerdict(length time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Printf("stress: %d roots were added, %d signed, %d were dropped\n", a.turned[rootAdded], a.turned[rootSwitched], a.turned[rootDropped])
	if length >= 2*leafLife && a.turned[rootSwitched] == 0 {
		return fmt.Errorf("no root was replaced in %v", length)
	}
	return nil
}
