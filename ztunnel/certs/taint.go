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
	another := slices.ContainsFunc(keys, func(key sum) bool { return !slices.Contains(s.tainted, key) })
	s.tainted = keys
	for _, e := range s.entries {
		if !s.hangsOnTainted(e.current) {
			continue
		}
		n++
		due := e.afterChange(now)
		if another { // however young they are: none of them was made for the sake of it
			due = now.Add(e.changeWait())
		}
		if due.Before(e.due) {
			e.due = due
		}
	}
	return n
}

// hangsOnTainted reports whether an SVID, which may be nil, is to be renewed soon; s.mu is held.
func (s *Store) hangsOnTainted(own *svid) bool {
	return own != nil && s.bundle != nil && len(s.tainted) > 0 && s.bundle.hangsOn(own, s.tainted)
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
