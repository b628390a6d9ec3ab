// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
)

// Prove returns nil if a tunnel to key is there, or can be made, whose peer has proved
// itself and answers a PING now. It carries nothing; one that it made is closed as any
// that is not used.
func (p *Pool) Prove(ctx context.Context, key Key) error {
	var silent []*conn
	var last error
	for range maxRetries {
		c, err := p.standing(ctx, key, silent)
		if err != nil {
			return err
		}
		last = c.answersNow(ctx, p.cfg.DialTimeout)
		var again *notTaken
		if last == nil || !errors.As(last, &again) && !c.wentIdle(last) {
			return last
		}
		silent = append(silent, c)
	}
	return last
}
