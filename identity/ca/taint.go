// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/sha256"
	"slices"

	"github.com/culvert-mesh/culvert/identity"
)

// Key names the key of an authority, as identity.KeyHash does.
type Key = [sha256.Size]byte

// MaxTainted is how many authorities are tainted at most: the latest.
const MaxTainted = 16

// Taint says which authorities' certificates nodes are to renew at once, instead of those that
// it said before. What signs is not changed by it.
func (c *CA) Taint(keys []Key) {
	keys = slices.Clone(keys[max(0, len(keys)-MaxTainted):])
	if before := c.tainted.Swap(&keys); before == nil && len(keys) > 0 || before != nil && !slices.Equal(*before, keys) {
		c.news.tell()
	}
}

// Tainted are those of the last Taint, but for what still signs here: a node that heard of it
// now would get another certificate of the same authority. Changed tells when it does no more.
func (c *CA) Tainted() []Key {
	keys := c.tainted.Load()
	if keys == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(*keys), c.inForce.Load().hangsOn)
}

// hangsOn reports whether the key is of the issuer, or of an authority above it.
func (a *authority) hangsOn(key Key) bool {
	if a == nil {
		return false
	}
	for _, cert := range a.chain {
		if identity.KeyHash(cert) == key {
			return true
		}
	}
	return identity.KeyHash(a.anchor) == key
}
