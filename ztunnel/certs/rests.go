// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

// Rest is what of this node nothing but the root of one key vouches for: it ends with the
// root.
type Rest struct {
	Key          sum // identity.KeyHash
	Certificates int
	Tunnels      int // as Config.Tunnels counts them
}

// restEvery is how often a node asks itself what rests on which root, while there are
// several. The CA takes one answer a second, in the long run.
const restEvery = 2 * time.Second

// rests returns what rests on each key that the bundle has roots of, in the order of the
// keys; nothing if that is one key, or if no stream has said a bundle: then no root is about
// to go.
func (s *Store) rests() []Rest {
	s.mu.Lock()
	trusted := s.bundle
	if s.trust.said.Generation == 0 || trusted == nil {
		s.mu.Unlock()
		return nil
	}
	var held []*svid
	for _, e := range s.entries {
		if e.current != nil {
			held = append(held, e.current)
		}
	}
	s.mu.Unlock()

	keys := trusted.keys()
	if len(keys) < 2 {
		return nil
	}
	now, all := time.Now(), make([]Rest, 0, len(keys))
	for _, key := range keys {
		r, less := Rest{Key: key}, trusted.without(key)
		for _, own := range held {
			if own.valid(now) && !now.Before(less.provesUntil(own, now)) {
				r.Certificates++
			}
		}
		if s.cfg.Tunnels != nil {
			r.Tunnels = s.cfg.Tunnels(key)
		}
		all = append(all, r)
	}
	return all
}

// keys are those of the roots, each once, in order.
func (b *bundle) keys() (all []sum) {
	for _, root := range b.roots {
		if key := identity.KeyHash(root); !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	slices.SortFunc(all, func(a, b sum) int { return slices.Compare(a[:], b[:]) })
	return all
}

// without is the bundle less the roots of a key; nil if there are no others. It is made
// once, and has proofs of its own.
func (b *bundle) without(key sum) *bundle {
	b.lessMu.Lock()
	defer b.lessMu.Unlock()
	if less, made := b.less[key]; made {
		return less
	}
	var roots []*x509.Certificate
	for _, root := range b.roots {
		if identity.KeyHash(root) != key {
			roots = append(roots, root)
		}
	}
	less, _ := newBundle(roots, b.skew) // nil for no roots
	if b.less == nil {
		b.less = make(map[sum]*bundle)
	}
	b.less[key] = less
	return less
}

// provesUntil is until when the bundle, which may be nil, vouches for an SVID of ours.
func (b *bundle) provesUntil(own *svid, now time.Time) time.Time {
	if b == nil {
		return longAgo
	}
	chain, err := own.chain()
	if err != nil {
		return longAgo
	}
	p, err := b.prove(chain, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return longAgo
	}
	return p.until
}

// without is until, under a bundle that lacks the roots of a key.
func (p *pair) without(state tls.ConnectionState, key sum) time.Time {
	less, now := p.store.roots().without(key), time.Now()
	if less == nil || len(state.PeerCertificates) == 0 {
		return longAgo
	}
	peer, err := p.store.proveBy(less, state.PeerCertificates, p.usage, now)
	if err != nil || p.match(peer.id) != nil {
		return longAgo
	}
	if own := less.provesUntil(p.own, now); own.Before(peer.until) {
		return own
	}
	return peer.until
}
