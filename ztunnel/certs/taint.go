// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

// renewTainted has SVIDs be renewed soon that hang on an authority which the CA has tainted:
// an issuer or intermediate above them, or a root. It returns how many; s.mu is held. All
// nodes hear of it at the same moment, so they take some time, as after a change of roots.
func (s *Store) renewTainted(keys []sum, now time.Time) (n int) {
	if len(keys) == 0 || s.bundle == nil {
		return 0
	}
	for _, e := range s.entries {
		if e.current == nil || !s.bundle.hangsOn(e.current, keys) {
			continue
		}
		n++
		if due := e.afterChange(now); due.Before(e.due) {
			e.due = due
		}
	}
	return n
}

// hangsOn reports whether one of the keys is of an authority above an SVID.
func (b *bundle) hangsOn(own *svid, keys []sum) bool {
	for _, cert := range own.above {
		if slices.Contains(keys, identity.KeyHash(cert)) {
			return true
		}
	}
	if len(own.above) == 0 {
		return false
	}
	top := own.above[len(own.above)-1]
	for _, root := range b.roots {
		if slices.Contains(keys, identity.KeyHash(root)) && bytes.Equal(root.RawSubject, top.RawIssuer) {
			return true
		}
	}
	return false
}
