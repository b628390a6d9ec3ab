// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// bundle is a set of roots with its number.
type bundle struct {
	record Record
	roots  []*x509.Certificate
}

// Bundle returns the roots that verifiers must trust, and the generation of this set:
// a greater one is younger, and one generation is always one set. It is 0, and there
// are no roots, while the CA is not open.
func (c *CA) Bundle() (generation uint64, roots []*x509.Certificate) {
	if b := c.bundle.Load(); b != nil {
		return b.record.Generation, slices.Clone(b.roots)
	}
	return 0, nil
}

// Published is Bundle with all that is to be kept of it; zero while the CA is not open.
func (c *CA) Published() (Record, []*x509.Certificate) {
	if b := c.bundle.Load(); b != nil {
		return b.record, slices.Clone(b.roots)
	}
	return Record{}, nil
}

// Changed returns a channel that is closed when the CA next gets another issuer or
// another bundle. Ask for the channel first, and then for what it is about, so that no
// change falls between the two.
func (c *CA) Changed() <-chan struct{} { return c.news.next() }

// news tells all that wait that something is new.
type news struct {
	mu   sync.Mutex
	wait chan struct{} // nil: nobody asked since the last
}

func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wait == nil {
		n.wait = make(chan struct{})
	}
	return n.wait
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wait != nil {
		close(n.wait)
		n.wait = nil
	}
}

// errUnkept is wrapped if a CA is in force, and the generation of its bundle in the
// memory of this process alone.
var errUnkept = errors.New("the bundle's generation is not kept")

// number returns the record of a bundle with these roots: the kept one, if that is of
// the same set and not older than the bundle in force, or else a new one, which it has
// the store keep. If the store does not, it returns the record all the same, with the
// error. The caller holds mu.
//
// The kept record was read before the CA's files were: see adopt.
func (c *CA) number(ctx context.Context, store Store, files Files, roots []*x509.Certificate) (Record, error) {
	kept, err := ParseRecord(files[BundleFile])
	now, _ := c.Published()
	same := now.Is(roots)
	if kept.Is(roots) && (kept.Generation > now.Generation || same && kept.Generation == now.Generation) {
		return kept, nil
	}
	generation := now.Generation
	if !same {
		generation = max(now.Generation+1, kept.Generation+1, uint64(time.Now().Unix()))
	} else if !kept.Is(roots) {
		generation = max(generation, kept.Generation+1)
	}
	if kept.Generation < now.Generation {
		kept = now // so that its dropped roots are remembered
	}
	next := kept.next(generation, roots)
	if store == nil {
		return next, nil
	}
	switch replaced := store.Replace(ctx, files, Files{BundleFile: next.Encode()}); {
	case errors.Is(replaced, ErrChanged):
		return next, replaced
	case replaced != nil && !errors.Is(replaced, ErrReadOnly):
		return next, fmt.Errorf("%w: %w", errUnkept, replaced)
	case err != nil:
		return next, fmt.Errorf("%w: %v: it is written anew", errUnkept, err)
	}
	return next, nil
}
