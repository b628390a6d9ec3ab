// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/sha256"
	"slices"
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

// Tainted are those of the last Taint.
func (c *CA) Tainted() []Key {
	if keys := c.tainted.Load(); keys != nil {
		return slices.Clone(*keys)
	}
	return nil
}
