// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"math/bits"
	"runtime"
	"slices"
	"time"
)

// One tunnel is one TCP connection, and its records one core's work. A key whose
// tunnels are busy gets another, for the streams that are yet to be opened; none
// is moved. Few streams, or many that say nothing, never do.
const (
	shardLimit   = 8                // tunnels of one key that take streams
	shardIdle    = 20 * time.Second // after which a tunnel beside another is closed
	shardPause   = 10 * time.Second // between two of them
	samplePause  = time.Millisecond // between two looks at a tunnel
	busySamples  = 12               // looks, of the last 16, that found somebody writing
	sharesWriter = 2                // streams, without which there is nothing to share
)

// shards is how many tunnels of one key are worth while.
func shards() int { return min(runtime.GOMAXPROCS(0), shardLimit) }

// load is what a tunnel has to do; conn.mu guards it.
type load struct {
	samples   uint16 // whether somebody was writing, at each look
	sampledAt time.Time
}

// burden is how many streams a tunnel has open and whether it is busy with them;
// false if it takes no more, or would not send what they say. One that is tried
// again wants a tunnel that is alive, not another that looks so.
func (c *conn) burden(again bool) (streams int, busy, takes bool) {
	c.mu.Lock()
	defer c.unlock()
	now := time.Now()
	if !c.takesStreams() || c.stuckFor(now) >= stuckPause || again && c.settled && !c.fresh() {
		return 0, false, false
	}
	if now.Sub(c.sampledAt) >= samplePause {
		c.sampledAt = now
		c.samples <<= 1
		if c.writer.busy() {
			c.samples |= 1
		}
	}
	return c.active, c.active >= sharesWriter && bits.OnesCount16(c.samples) >= busySamples, true
}

// choose is the tunnel with the fewest streams of those that take one, nil if
// there is none; and whether another should be made. Those that were tried, and
// all that are older, do not count; nor do starved ones, unless there are too many to
// make another for each. Pool.mu is held.
func (t *tunnels) choose(tried []*conn) (best *conn, more bool) {
	fewest, taking, busy, starved := 0, 0, 0, 0
	for _, c := range slices.Backward(t.list) {
		if slices.Contains(tried, c) {
			break
		}
		n, isBusy, takes := c.burden(len(tried) > 0)
		if !takes {
			continue
		}
		if starved < shardLimit && c.writer.starved() {
			starved++
			continue
		}
		taking++
		if isBusy {
			busy++
		}
		if best == nil || n < fewest {
			best, fewest = c, n
		}
	}
	return best, taking > 0 && busy == taking && taking < shards()
}

// hasLasting reports that one of the tunnels stays for all of the Pool's idle time. Those
// beside it, because it is busy or full, do not: after a load that needed a hundred, they
// would hold the memory of the hundred for minutes, and what lies between it. Pool.mu is
// held.
func (t *tunnels) hasLasting() bool {
	return slices.ContainsFunc(t.list, func(c *conn) bool {
		c.mu.Lock()
		defer c.unlock()
		return c.err == nil && !c.retired && c.idleTimeout > shardIdle
	})
}

// addTunnel dials another tunnel beside those that are busy, and waits for
// nothing; Pool.mu is held.
func (p *Pool) addTunnel(key Key, t *tunnels) {
	if now := time.Now(); t.dial == nil && now.Sub(t.added) >= shardPause {
		t.added = now
		p.dialLocked(key, t)
	}
}
