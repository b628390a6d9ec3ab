// SPDX-License-Identifier: Apache-2.0

package install

import "time"

const (
	fightFrom = 5                // losses in a row make a fight
	slowest   = time.Minute      // between repairs in a fight
	peace     = 10 * time.Minute // without a loss end it
)

// fight counts how often another program took out what the installer had put in
// place. The first time it goes back at once; then the installer waits, longer
// each time, so that two programs do not rewrite a file all day.
type fight struct {
	losses int
	last   time.Time
}

// lost counts a loss, and returns how long to wait before the repair.
func (f *fight) lost(now time.Time) time.Duration {
	f.losses++
	f.last = now
	if f.losses == 1 {
		return 0
	}
	return backoff(f.losses - 2)
}

// over reports whether a fight ended: nothing was lost for a while.
func (f *fight) over(now time.Time) bool {
	if f.losses == 0 || now.Sub(f.last) < peace {
		return false
	}
	was := f.on()
	*f = fight{}
	return was
}

func (f *fight) on() bool { return f.losses >= fightFrom }

// backoff is how long to wait before try n, from 0: 1 s, 2 s, up to a minute.
func backoff(n int) time.Duration {
	return min(time.Second<<min(n, 10), slowest)
}
