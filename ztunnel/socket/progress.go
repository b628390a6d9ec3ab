// SPDX-License-Identifier: Apache-2.0

package socket

import "time"

// Standstill is how long what was sent is waited for while nothing more of it is
// acknowledged: longer than a path is usually interrupted, and not as long as the
// kernel would try.
const Standstill = 15 * time.Second

// Progress knows since when as much is left of something as now. The zero Progress
// knows nothing yet.
type Progress struct {
	left  int
	since time.Time
}

// Stood returns for how long so much has been left.
func (p *Progress) Stood(left int) time.Duration {
	if p.since.IsZero() || left != p.left {
		p.left, p.since = left, time.Now()
	}
	return time.Since(p.since)
}

// Unheard is Unacked, and whether nobody will acknowledge that any more: the
// connection broke. One that the last acknowledgement ends has not: so whoever finds
// it ended asks again.
func Unheard(fd uintptr) (left int, gone bool) {
	if left, _ = Unacked(fd); left == 0 || !Broke(fd) {
		return left, false
	}
	left, _ = Unacked(fd)
	return left, left > 0
}
