// SPDX-License-Identifier: Apache-2.0

// Package rate bounds how often a peer or a node may do something that costs us
// more than it costs them.
package rate

import "time"

// Limit is how many events are allowed: Burst at once, PerSecond in the long run.
type Limit struct{ PerSecond, Burst float64 }

// Left is what one peer has left of a Limit, the same in each call. The zero
// Left is a whole burst. It is not safe for concurrent use.
type Left struct {
	events float64
	at     time.Duration // since epoch; 0: never
}

var epoch = time.Now()

// Spend takes one event and reports whether there was one left.
func (l *Left) Spend(limit Limit) bool {
	l.refill(limit)
	if l.events < 1 {
		return false
	}
	l.events--
	return true
}

// Spent reports that there is none left.
func (l *Left) Spent(limit Limit) bool {
	if l.at == 0 || l.events >= 1 {
		return false
	}
	l.refill(limit)
	return l.events < 1
}

// Wait returns how long it takes until one is left, 0 if one is: a day at most, which
// is also what it takes if none ever is.
func (l *Left) Wait(limit Limit) time.Duration {
	const longest = 24 * time.Hour
	l.refill(limit)
	lack := 1 - l.events
	if lack <= 0 {
		return 0
	}
	if lack > limit.PerSecond*longest.Seconds() {
		return longest
	}
	return time.Duration(lack / limit.PerSecond * float64(time.Second))
}

// Whole reports that the whole burst is left, as if nothing had ever happened.
func (l *Left) Whole(limit Limit) bool {
	l.refill(limit)
	return l.events >= limit.Burst
}

func (l *Left) refill(limit Limit) {
	now := time.Since(epoch)
	if l.at == 0 {
		l.events = limit.Burst
	} else {
		l.events = min(limit.Burst, l.events+limit.PerSecond*(now-l.at).Seconds())
	}
	l.at = now
}
