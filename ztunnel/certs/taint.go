// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// renewTainted has SVIDs be renewed soon that hang on an authority which the CA has tainted:
// an issuer or intermediate above them, or a root. It returns how many, and whose tunnels are
// to be left now, since another authority signed for them before the word came; s.mu is held.
// All nodes hear of it at the same moment, so renewals take some time, as after a change of roots.
func (s *Store) renewTainted(keys []sum, now time.Time) (n int, left []spiffeid.ID) {
	another := slices.ContainsFunc(keys, func(key sum) bool { return !slices.Contains(s.tainted, key) })
	s.tainted = keys
	for _, e := range s.entries {
		if !s.hangsOnTainted(e.current) {
			if s.restsOnTainted(e, now) {
				e.former = nil
				left = append(left, e.id)
			}
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
	return n, left
}

// former is what was above an SVID that another authority has replaced.
type former struct {
	above []*x509.Certificate
	until time.Time // of the SVID
}

// maxFormer bounds those that are remembered of one identity.
const maxFormer = 4

// outgrow remembers what is above the SVID that there is, if that is not above fresh.
func (e *entry) outgrow(fresh *svid, now time.Time) {
	e.former = slices.DeleteFunc(e.former, func(f former) bool { return !now.Before(f.until) })
	if !slices.EqualFunc(e.current.above, fresh.above, (*x509.Certificate).Equal) {
		e.former = append(e.former[max(0, len(e.former)+1-maxFormer):], former{e.current.above, e.current.until})
	}
}

// restsOnTainted reports whether open tunnels of e may rest on a tainted authority, though its
// SVID does not; s.mu is held.
func (s *Store) restsOnTainted(e *entry, now time.Time) bool {
	return s.bundle != nil && slices.ContainsFunc(e.former, func(f former) bool {
		return now.Before(f.until) && s.bundle.hangsOn(f.above, s.tainted)
	})
}

// hangsOnTainted reports whether an SVID, which may be nil, is to be renewed soon; s.mu is held.
func (s *Store) hangsOnTainted(own *svid) bool {
	return own != nil && s.bundle != nil && len(s.tainted) > 0 && s.bundle.hangsOn(own.above, s.tainted)
}

// hangsOn reports whether one of the keys is of an authority above an SVID, or of its root.
func (b *bundle) hangsOn(above []*x509.Certificate, keys []sum) bool {
	for _, cert := range above {
		if slices.Contains(keys, identity.KeyHash(cert)) {
			return true
		}
	}
	if len(above) == 0 {
		return false
	}
	top := above[len(above)-1]
	return slices.ContainsFunc(b.roots, func(root *x509.Certificate) bool {
		return slices.Contains(keys, identity.KeyHash(root)) && mayBeBy(top, root)
	})
}

// mayBeBy reports whether cert names root as its issuer: by its name, and by its key if both
// tell that. A root may follow another of the same name.
func mayBeBy(cert, root *x509.Certificate) bool {
	return byName(cert, root) && (len(root.SubjectKeyId) == 0 || byKey(cert, root))
}
