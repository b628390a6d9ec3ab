// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"io"
	"testing"
	"time"
)

// On a long way a stream is held back by its window; on a short one a larger
// window would only be a longer queue.
func TestWindowGrowsOnlyWhereTheWayIsLong(t *testing.T) {
	for name, test := range map[string]struct {
		roundTrip time.Duration
		want      int
	}{
		"long":  {time.Hour, largestWindow},
		"short": {0, streamWindow},
	} {
		t.Run(name, func(t *testing.T) {
			before := widened.Load()
			l, far := newPipe(t)
			a, b := l.open(), <-far
			b.s.c.mu.Lock()
			b.s.c.rtt = roundTrip{last: test.roundTrip}
			b.s.c.mu.Unlock()

			const n = 8 * largestWindow
			go func() {
				a.Write(make([]byte, n))
				a.CloseWrite()
			}()
			b.take(n)

			b.s.c.mu.Lock()
			limit := b.s.limit
			b.s.c.mu.Unlock()
			if limit != test.want {
				t.Errorf("window of %d bytes, want %d", limit, test.want)
			}
			if got := widened.Load() - before; got != int64(test.want-streamWindow) {
				t.Errorf("%d bytes are counted as widened", got)
			}
			b.Close()
			<-b.s.Done()
			if got := widened.Load(); got != before {
				t.Errorf("%d bytes are counted as widened of a stream that is over", got-before)
			}
		})
	}
}

func TestWindowsGrowNoFurtherThanTheProcessMayHold(t *testing.T) {
	widened.Add(widenedLimit)
	defer widened.Add(-widenedLimit)
	l, far := newPipe(t)
	a, b := l.open(), <-far
	b.s.c.mu.Lock()
	b.s.c.rtt = roundTrip{last: time.Hour}
	b.s.c.mu.Unlock()
	go a.Write(make([]byte, 4*largestWindow))
	b.take(4 * largestWindow)
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	if b.s.limit != streamWindow {
		t.Errorf("window of %d bytes", b.s.limit)
	}
}

func (a *app) take(n int64) {
	a.t.Helper()
	if _, err := io.CopyN(io.Discard, a, n); err != nil {
		a.t.Fatal(err)
	}
}
