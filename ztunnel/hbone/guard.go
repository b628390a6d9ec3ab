// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Guard is a share in a tunnel of which this process has both ends. It carries
// nothing: bytes that go straight from one pod of a node to another take a Guard
// in the tunnel that would carry them, and end when it is lost.
//
// It holds its tunnel as an open stream does: neither end closes it for being
// idle, both renew it before its certificates run out, and a Listener that
// drains waits. Unlike a stream it moves to the younger tunnel.
type Guard struct {
	far  *Listener
	lost func(error)
	told atomic.Bool // lost was called, or will be: either end may be the first to know

	mu       sync.Mutex // before conn.mu; guards what follows
	near     *conn      // nil before it holds one
	end      *conn      // of the same tunnel, at far
	released bool
}

// ErrElsewhere says that the tunnel's other end is not the Listener that was
// named: only a stream leads there.
var ErrElsewhere = errors.New("the tunnel ends elsewhere")

// Guard returns a share in a tunnel to key whose other end is far. There is one
// only if the peer has proved itself and lately answered a PING, by the network
// between the pods. A tunnel that stays silent is left for a fresh one, as by a
// stream. lost is called, from a goroutine of its own, when the tunnel ends before
// Release.
func (p *Pool) Guard(ctx context.Context, key Key, far *Listener, lost func(error)) (*Guard, error) {
	var silent []*conn
	last := error(ErrElsewhere)
	for range maxRetries {
		c, err := p.standing(ctx, key, silent)
		if err != nil {
			return nil, err
		}
		err = c.answers(ctx, p.cfg.DialTimeout)
		var again *notTaken
		switch {
		case err == nil:
		case errors.As(err, &again):
			silent, last = append(silent, c), err
			continue
		case c.wentIdle(err):
			continue
		default:
			return nil, err
		}
		end := c.endAt(far)
		if end == nil {
			return nil, ErrElsewhere
		}
		g := &Guard{far: far, lost: lost}
		if g.take(c, end) {
			return g, nil
		}
		c.retire() // or the other end is, and we shall hear of it
	}
	return nil, last
}

// Release gives the share back.
func (g *Guard) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.released {
		g.released = true
		g.let()
	}
}

// Client is the identity that the destination has verified.
func (g *Guard) Client() spiffeid.ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.end.peer
}

// Addr is the source address that the destination sees.
func (g *Guard) Addr() netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.end.remote.Addr()
}

// take holds both ends of a tunnel, and lets go of those held before. It
// reports whether they could be held.
func (g *Guard) take(c, end *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.released, end == nil, g.end != nil && g.end.peer != end.peer:
		return false
	case !end.hold(g):
		return false
	case !c.hold(g):
		end.let(g)
		return false
	}
	g.let()
	g.near, g.end = c, end
	return true
}

// let gives back what is held; mu is held.
func (g *Guard) let() {
	if g.near != nil {
		g.near.let(g)
		g.end.let(g)
	}
}

// endAt is the other end of the tunnel, if it is l's; else nil.
func (c *conn) endAt(l *Listener) *conn {
	c.mu.Lock()
	end, known := c.far, c.farAt == l
	c.unlock()
	if known {
		return end
	}
	if end = l.endOf(c); end != nil {
		c.mu.Lock()
		c.far, c.farAt = end, l
		c.unlock()
	}
	return end
}

// guarding is what Guards need of a tunnel; conn.mu guards it.
type guarding struct {
	guards   map[*Guard]struct{}
	far      *conn         // client: the other end, once it was asked for
	farAt    *Listener     // whose that is
	answered time.Time     // when a PING for a Guard was
	asking   chan struct{} // closed with the answer that is awaited, or when none is any more
}

// unused reports that nobody needs the tunnel now; mu is held.
func (c *conn) unused() bool { return len(c.streams) == 0 && len(c.guards) == 0 }

// hold keeps this end of the tunnel for g. It takes no new ones when it would take no
// stream.
func (c *conn) hold(g *Guard) bool {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case c.err != nil || c.retired || c.broken || c.stale || c.outdated():
		return false
	case c.guards == nil:
		c.guards = make(map[*Guard]struct{})
	}
	c.guards[g] = struct{}{}
	return true
}

// let is the end of hold.
func (c *conn) let(g *Guard) {
	c.mu.Lock()
	defer c.unlock()
	delete(c.guards, g)
	c.used()
}

// loseGuards tells all Guards that the tunnel ends. A server does so only if an identity
// is denied: the network may not tell the client at once. Else the client knows better
// what the end means; mu is held.
func (c *conn) loseGuards(err error) {
	c.stopAsking()
	lost := c.guards
	c.guards = nil
	if !c.client && !errors.Is(err, ErrDenied) {
		return
	}
	maps.DeleteFunc(lost, func(g *Guard, _ struct{}) bool { return !g.told.CompareAndSwap(false, true) })
	if len(lost) > 0 {
		go func() {
			for g := range lost {
				g.lost(err)
			}
		}()
	}
}

// moveGuards has the Guards of an older tunnel hold a younger one, in which
// both ends have proved themselves again.
func (c *conn) moveGuards(younger *conn) {
	c.mu.Lock()
	guards := make([]*Guard, 0, len(c.guards))
	for g := range c.guards {
		guards = append(guards, g)
	}
	c.unlock()
	for _, g := range guards {
		g.take(younger, younger.endAt(g.far)) // else it stays, as a stream does
	}
}

// standing returns the youngest tunnel that would take a stream, or waits for
// a new one. Those that were silent, and all that are older, do not count.
func (p *Pool) standing(ctx context.Context, key Key, silent []*conn) (*conn, error) {
	d := new(dial)
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, fmt.Errorf("%w: pool is closed", ErrDrained)
		}
		t := p.of(key)
		for _, c := range slices.Backward(t.list) {
			if slices.Contains(silent, c) {
				break
			}
			if c.stands() {
				p.mu.Unlock()
				return c, nil
			}
		}
		if err := d.stillborn(); err != nil {
			p.mu.Unlock()
			return nil, err
		}
		d = p.dialLocked(key, t)
		p.mu.Unlock()
		if err := d.wait(ctx, key); err != nil {
			return nil, err
		}
	}
}

// stands reports whether the tunnel may have new Guards.
func (c *conn) stands() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.err == nil && !c.retired && !c.broken && !c.outdated()
}
