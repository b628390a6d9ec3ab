// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"time"
)

// Records of connections that are open, at once: of a pod, and of all, of whom each has a
// part.
const (
	aliveMost    = 1000
	aliveMostAll = 10_000
)

// RunAlive has open connections recorded every AliveEvery, until ctx ends.
func (p *Pods) RunAlive(ctx context.Context) error {
	if p.AliveEvery <= 0 {
		return nil
	}
	tick := time.NewTicker(p.AliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		members := p.served()
		room, left := aliveMostAll, len(members)
		for m := range members {
			room -= m.carrier.pod.Alive(p.AliveEvery, min(aliveMost, room/left))
			left--
		}
	}
}
