// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"time"

	"k8s.io/utils/clock"
)

// endingClock has a reflector not sleep past the end of ctx: between two attempts to
// list it sleeps up to 20 s, and looks at nothing else.
type endingClock struct {
	clock.RealClock
	ctx context.Context
}

// After returns a channel that gets the time after d, or when ctx ends.
func (c endingClock) After(d time.Duration) <-chan time.Time {
	fired := make(chan time.Time, 2)
	stop := context.AfterFunc(c.ctx, func() { fired <- time.Now() })
	time.AfterFunc(d, func() {
		stop()
		fired <- time.Now()
	})
	return fired
}
