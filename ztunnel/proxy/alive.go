// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"
)

// Alive writes a record of each connection that has been open for at least a while, the
// oldest first and at most that many, and returns how many it wrote. The access record at
// the end of such a connection is never left out.
func (p *Pod) Alive(atLeast time.Duration, most int) (written int) {
	if !p.Log.Enabled(context.Background(), slog.LevelInfo) {
		return 0
	}
	now := time.Now()
	var old []*connection
	for c := range p.live.all(inbound, outbound) {
		if now.Sub(c.start) >= atLeast {
			old = append(old, c)
		}
	}
	slices.SortFunc(old, func(a, b *connection) int {
		return cmp.Or(a.start.Compare(b.start), a.src.addr.Compare(b.src.addr))
	})
	for _, c := range old[:min(len(old), most)] {
		if p.live.tellAlive(c, now) {
			written++
		}
	}
	if more := len(old) - most; more > 0 {
		p.Log.Warn("connections are alive without a record", fieldScope, scopeAccess, fieldOmitted, more)
	}
	return written
}

// tellAlive writes what is known of a connection so far, unless it has ended. The lock is
// held while it does, so that the access record of the end comes later.
func (l *live) tellAlive(c *connection, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.conns[c.direction][c]; !open {
		return false
	}
	c.toldAlive = true
	sent, received := c.carried()
	s := sheets.Get().(*line)
	s.attrs = append(c.names(s.attrs[:0], c.pod.cluster()), progress(sent, received, now.Sub(c.start))...)
	s.log(c.pod.Log, slog.LevelInfo, "connection alive")
	return true
}

// recorded reports whether an end that had no failure gets an access record: each n-th
// of a pod does, and all that say more than that it was well.
func (c *connection) recorded(e *outcome) bool {
	n := c.pod.GoodOneOf
	if n <= 1 || e.word != OK || c.toldAlive || len(c.warnings) > 0 {
		return true
	}
	e.sampled = n
	return c.pod.goods.Add(1)%n == 1
}
