// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"slices"
	"time"
)

// longestLife is that of the SVIDs that this node has: peers' last as long, unless their
// ServiceAccounts have lifetimes of their own. It is 0 while none came. s.mu is held.
func (s *Store) longestLife() (life time.Duration) {
	for _, e := range s.entries {
		if e.current != nil {
			life = max(life, e.current.granted)
		}
	}
	return life
}

// share has the SVID keep the same authorities in memory as another, if they are the
// same: each answer of the CA brings its issuer anew, which takes more than the leaf.
// Nobody else has the SVID yet; s.mu is held.
func (s *Store) share(fresh *svid) {
	if !slices.EqualFunc(fresh.above, s.above, (*x509.Certificate).Equal) {
		s.above = slices.Clone(fresh.above) // the leaf shares an array with them
	}
	fresh.above = s.above
}
