// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Guard is given only in a tunnel that answers a PING of its own: another sign of
// life may have been sent before a NetworkPolicy forbade what the Guard protects.
var guardPing = [8]byte{'g', 'u', 'a', 'r', 'd'}

// answers returns once the peer answers PING, or has lately. That proves, too,
// that it accepted our certificate: with TLS 1.3 a client learns that later. A
// notTaken says that the tunnel was abandoned.
func (c *conn) answers(ctx context.Context, patience time.Duration) error {
	c.mu.Lock()
	if err := c.unfit(); err != nil || time.Since(c.answered) < freshly {
		defer c.unlock()
		return err
	}
	c.unlock()
	return c.answersNow(ctx, patience)
}

// answersNow returns once the peer answers a PING that it is sent now.
func (c *conn) answersNow(ctx context.Context, patience time.Duration) error {
	c.mu.Lock()
	if err := c.unfit(); err != nil {
		defer c.unlock()
		return err
	}
	if c.asking == nil {
		c.asking = make(chan struct{})
		c.askWith(guardPing)
	}
	asking := c.asking
	c.unlock()
	c.writer.run()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.attend(ctx, asking); err != nil {
		return fmt.Errorf("%w: no answer to PING from %v: %w", ErrDial, c.remote, err)
	}
	c.mu.Lock()
	defer c.unlock()
	return c.unfit()
}

// unfit is why the tunnel guards nothing new, as far as its pulse tells; mu is held.
func (c *conn) unfit() error {
	if c.abandoned != nil {
		return &notTaken{err: c.abandoned}
	}
	return c.err
}

// pinged is an answer to the PING of answers; mu is held.
func (c *conn) pinged() {
	if c.asking != nil {
		c.answered = time.Now()
		c.stopAsking()
	}
}

// stopAsking has answers wait no longer; mu is held.
func (c *conn) stopAsking() {
	if c.asking != nil {
		close(c.asking)
		c.asking = nil
	}
}

// wentIdle reports that the tunnel ended before it was asked, and not by a
// refusal: another may do. One that had yet to say its first word may have been refused,
// unless it was we who retired it.
func (c *conn) wentIdle(err error) bool {
	c.mu.Lock()
	defer c.unlock()
	return c.err != nil && (errors.Is(err, ErrDrained) || c.settled && errors.Is(err, errLost))
}
