// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"
	"time"
)

// room is for how many streams a tunnel's peer has room; conn.mu guards it. Until
// its SETTINGS come, the peer is taken to allow what it allowed in the tunnel
// before, or any number: to wait would cost the first streams a round trip. Those
// for which there was none are refused, and go elsewhere.
type room struct {
	peerStreams int           // that the peer allows
	changed     chan struct{} // closed when that changes or no longer matters, if somebody waits for it
}

// expect takes the peer to allow what it did in another tunnel, 0 if that is not
// known.
func (c *conn) expect(streams int) {
	c.mu.Lock()
	defer c.unlock()
	if streams > 0 && !c.settled {
		c.peerStreams = streams
	}
}

// allows is for how many streams the peer has room.
func (c *conn) allows() int {
	c.mu.Lock()
	defer c.unlock()
	return c.peerStreams
}

// overfilled reports that the peer never had, or has no more, the room that the
// stream was to have; mu is held.
func (c *conn) overfilled(s *Stream) bool { return s.allowed > c.peerStreams }

// takesNoMore closes the tunnel to new streams; mu is held.
func (c *conn) takesNoMore() {
	c.retired = true
	c.roomChanged()
}

// roomChanged wakes the callers that wait for room; mu is held.
func (c *conn) roomChanged() {
	if c.room.changed != nil {
		close(c.room.changed)
		c.room.changed = nil
	}
}

// shut is a tunnel whose peer allows no streams at the moment. Another would fare no
// better. Nil: there is none. Pool.mu is held.
func (t *tunnels) shut() *conn {
	for _, c := range t.list {
		if c.isShut() {
			return c
		}
	}
	return nil
}

func (c *conn) isShut() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.peerStreams == 0 && !c.retired && !c.broken
}

// opens returns when the peer of a tunnel that is shut may think differently, or the
// tunnel seems dead.
func (c *conn) opens(ctx context.Context, patience time.Duration) error {
	c.mu.Lock()
	if c.peerStreams > 0 || c.retired || c.broken {
		c.unlock()
		return nil
	}
	if c.room.changed == nil {
		c.room.changed = make(chan struct{})
	}
	changed := c.room.changed
	c.unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("for %v now", patience))
	defer cancel()
	if err := c.attend(ctx, changed); err != nil {
		return fmt.Errorf("%w: %v allows no streams: %w", ErrLimit, c.remote, err)
	}
	return nil
}
