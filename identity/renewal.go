// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"math/rand/v2"
	"time"
)

// RenewFrom and RenewTo bound the part of its life, counted from when it came, after
// which a certificate is renewed. In between, so that what was fetched together, say by a
// node that starts, is not renewed together. Before half of it, so that a CA that is away
// for half of a life is back in time: a pause between two attempts is a tenth of what is
// left by then, and what is left is a hundredth of the life.
const (
	RenewFrom = 0.37
	RenewTo   = 0.49
)

// RenewAfter draws how long after it came a certificate that lives that long is renewed.
func RenewAfter(life time.Duration) time.Duration {
	part := RenewFrom + rand.Float64()*(RenewTo-RenewFrom)
	return time.Duration(float64(life) * part)
}
