// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// bundle is a set of roots that vouch for the workloads of our trust domain.
type bundle struct {
	roots []*x509.Certificate
	pool  *x509.CertPool
	set   map[[sha256.Size]byte]bool
	skew  time.Duration // Config.ClockSkew
	proofs

	lessMu sync.Mutex                    // guards less
	less   map[[sha256.Size]byte]*bundle // see without
}

func newBundle(roots []*x509.Certificate, skew time.Duration) (*bundle, error) {
	b := &bundle{pool: x509.NewCertPool(), set: make(map[[sha256.Size]byte]bool), skew: skew}
	for _, root := range roots {
		if sum := sha256.Sum256(root.Raw); !b.set[sum] {
			b.set[sum] = true
			b.roots = append(b.roots, root)
			b.pool.AddCert(root)
		}
	}
	if len(b.roots) == 0 {
		return nil, errors.New("the trust bundle is empty")
	}
	return b, nil
}

// equal ignores the order: a CA may list the same roots differently.
func (b *bundle) equal(other *bundle) bool {
	return other != nil && maps.Equal(b.set, other.set)
}

// with is the bundle that peers would be verified by with some roots more: the one in
// force, if it has them all. What the roots of an answer vouch for may be no more than
// what they may vouch for once they are heard.
func (s *Store) with(roots []*x509.Certificate) *bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.trust.clone()
	_ = next.hear(roots, time.Now(), s.longestLife()) // settle says it
	if s.bundle != nil && next.hash() == s.trust.hash() {
		return s.bundle
	}
	b, err := newBundle(next.roots(), s.cfg.ClockSkew)
	if err != nil {
		return nil
	}
	return b
}

// rebuild has the bundle be what is trusted now, and reports whether that changed it. An
// SVID that it does not vouch for is renewed soon, and not used until then. s.mu is held.
func (s *Store) rebuild(now time.Time) (changed bool) {
	next, err := newBundle(s.trust.roots(), s.cfg.ClockSkew)
	if err != nil || next.equal(s.bundle) {
		return false // the old one has proofs
	}
	s.bundle = next
	s.tellBundle()
	for _, e := range s.entries {
		if e.current == nil {
			continue
		}
		moved := *e.current
		moved.until, err = e.current.untilUnder(next, now)
		if err != nil {
			moved.until = longAgo
			if !e.disowned {
				e.due = e.afterChange(now)
			}
		}
		e.disowned = err != nil
		e.current = &moved
	}
	return true
}

// VouchForCA returns the roots by which the CA's own certificate is verified, given those
// that a file names: what the CA's stream said last counts, too, and what a bundle has
// dropped does not, though the file may name it for years. So the CA is still known when
// its root was changed while nobody wrote the file, and nobody else is taken for it by a
// root that is no more. generation is that of the bundle in force.
//
// A file that names no root which this mesh has, or had, is the file of another mesh: then
// it counts alone, so that whoever gave it hears that it is wrong.
func (s *Store) VouchForCA(file []*x509.Certificate) (vouching []*x509.Certificate, generation uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vouching, generation = slices.Clone(s.trust.said.Roots), s.trust.said.Generation
	ours := false
	for _, root := range file {
		named := sha256.Sum256(root.Raw)
		if slices.Contains(s.trust.dropped, named) {
			ours = true
			continue
		}
		ours = ours || has(s.trust.said.Roots, named)
		vouching = append(vouching, root)
	}
	if !ours {
		return file, generation
	}
	return vouching, generation
}

// newBundle tells of another bundle, and keeps it. What a dropped root vouched for does
// not wait for the disk.
func (s *Store) newBundle() {
	s.cfg.OnBundle()
	s.poke()
	s.save()
}
