// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// dial is one attempt at a new tunnel; all who need one wait for the same.
type dial struct {
	epoch uint64 // of the credentials
	begun time.Time
	done  chan struct{}
	// After done: the new tunnel, or why there is none; neither if whoever
	// waited has to dial again.
	conn *conn
	err  error
}

// wait returns when the dial is done, and why it failed.
func (d *dial) wait(ctx context.Context, key Key) error {
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for a tunnel to %v: %w", ErrDial, key.Addr, context.Cause(ctx))
	}
}

// dialLocked joins the dial that is under way for a key, or starts one. It
// lives longer than whoever asked first, for others wait for it too; mu is held.
func (p *Pool) dialLocked(key Key, t *tunnels) *dial {
	if t.dial != nil {
		return t.dial
	}
	d := &dial{epoch: p.epoch, begun: time.Now(), done: make(chan struct{})}
	t.dial = d
	provings := p.provings
	p.dials.Add(1)
	p.work.Go(func() {
		d.conn, d.err = p.establish(key, t, d)
		if d.conn != nil && p.since(provings) { // Reprove came too early for it
			d.conn.reprove()
		}
		close(d.done)
		if d.conn != nil {
			d.conn.run()
		}
	})
	return d
}

// establish makes a tunnel, which the caller runs, and puts it into the pool, unless the
// credentials have changed meanwhile, and so even if it failed: then there is neither tunnel
// nor error.
func (p *Pool) establish(key Key, t *tunnels, d *dial) (*conn, error) {
	c, err := p.withinShare(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	t.dial = nil
	if err != nil {
		p.dialErrors.Add(1)
	}
	switch {
	case p.epoch != d.epoch && !p.closed:
		if err == nil {
			p.discard(c)
		}
		if slices.ContainsFunc(t.list, (*conn).needed) { // nobody may wait, and open streams need it
			p.dialLocked(key, t)
		}
		p.forget(key, t)
		return nil, nil
	case err != nil:
		p.forget(key, t)
		return nil, err
	case p.closed:
		p.discard(c)
		return nil, ErrDrained
	}
	c.begun = d.begun
	if t.hasLasting() {
		c.idleTimeout = min(c.idleTimeout, shardIdle)
	}
	c.expect(t.room)
	c.greet() // before anybody can find it: the preface comes first (RFC 9113 §3.4)
	t.list = append(t.list, c)
	p.cfg.Door.settled(key.Addr.Addr())
	return c, nil
}

// withinShare makes a tunnel whose socket is the pod's until gone, or discard.
func (p *Pool) withinShare(key Key) (*conn, error) {
	if err := p.places.take(p.ctx); err != nil {
		return nil, err
	}
	c, err := p.tunnel(key)
	if err != nil {
		p.places.give()
	}
	return c, err
}

// discard closes a tunnel that nobody used.
func (p *Pool) discard(c *conn) {
	c.wire.Close() // nothing of an app was sent, not even our preface
	p.places.give()
}

// stillborn is why the tunnel ended, if that was before the peer's first frame.
func (d *dial) stillborn() error {
	if d.conn == nil {
		return nil
	}
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	if d.conn.settled || errors.Is(d.conn.err, ErrDrained) { // the latter by Retire, before anyone used it
		return nil
	}
	return d.conn.err
}

// forget drops a key without tunnels; mu is held.
func (p *Pool) forget(key Key, t *tunnels) {
	if len(t.list) == 0 && t.dial == nil && p.keys[key] == t {
		delete(p.keys, key)
	}
}

// tunnel connects and authenticates, in both directions, exactly key.Dst.
func (p *Pool) tunnel(key Key) (*conn, error) {
	cred, err := p.cfg.Credential(p.ctx, key)
	if err != nil {
		return nil, fmt.Errorf("%w: credential for %v: %w", credentialCause(err), key.Dst, err)
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.DialTimeout)
	socket, err := p.connect(ctx, key)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("%w: tunnel to %v: %w", ErrDial, key.Addr, err)
	}
	ctx, cancel = context.WithTimeout(p.ctx, p.cfg.HandshakeTimeout)
	defer cancel()
	w, proof, err := p.shake(ctx, socket, key, cred)
	if err != nil {
		socket.Close() // nothing of an app was sent
		return nil, err
	}
	if proof.peer != key.Dst { // the credential has checked it; never rely on one check here
		w.Close() // nothing of an app was sent
		return nil, &shownError{fmt.Errorf("%w: %v is %v, want %v", ErrTLS, key.Addr, proof.peer, key.Dst)}
	}
	c := newConn(true, w, proof, nil)
	c.payer = payerOf(c.peer, p.cfg.TrustDomain)
	c.hooks = &hooks{
		work:      &p.work,
		workers:   p.cfg.Workers,
		proven:    func(*conn) { p.proven(key, c) },
		move:      func(*conn) { p.move(key, c) },
		moveAgain: func(*conn) { p.moveAgain(key, c) },
		renew:     func(*conn) { p.renew(key, c) },
		gone:      func(*conn) { p.gone(key, c) },
	}
	c.streamLimit = p.cfg.MaxStreams
	c.memory = p.cfg.Memory
	c.idleTimeout = p.cfg.IdleTimeout
	return c, nil
}

// credentialCause is the Cause that a Credential gave its error, if it did.
func credentialCause(err error) Cause {
	if cause, ok := errors.AsType[Cause](err); ok {
		return cause
	}
	return causeOf(err, ErrIdentity)
}

// shake waits for a turn among all handshakes of the process, and shakes hands.
func (p *Pool) shake(ctx context.Context, socket net.Conn, key Key, cred Credential) (wire, proof, error) {
	ctx, evict := context.WithCancelCause(ctx)
	defer evict(nil)
	v := p.cfg.Door.enter(key.Addr.Addr(), func() { evict(errEvicted) })
	defer v.leave()
	w, proof, err := v.secure(ctx, socket, true, p.cfg.Records, cred)
	if err != nil && context.Cause(ctx) == errEvicted {
		err = errEvicted
	}
	return w, proof, err
}

func (p *Pool) dialTCP(ctx context.Context, key Key) (net.Conn, error) {
	var from netip.Addr
	for _, a := range p.cfg.From {
		if a.Is4() == key.Addr.Addr().Unmap().Is4() {
			from = a
			break
		}
	}
	conn, err := p.cfg.Dial(ctx, from, key.Addr)
	if err != nil { // a nil *net.TCPConn must not become a net.Conn
		return nil, err
	}
	return conn, nil
}

// proven notes how many streams the peer allows, lets those of older tunnels of the
// key live on, and moves their Guards.
func (p *Pool) proven(key Key, younger *conn) {
	room := younger.allows()
	p.mu.Lock()
	var older []*conn
	if t := p.keys[key]; t != nil {
		t.room = room
		if i := slices.Index(t.list, younger); i > 0 {
			older = slices.Clone(t.list[:i])
		}
	}
	p.mu.Unlock()
	for _, c := range older {
		c.extend(younger)
		c.moveGuards(younger)
	}
}

// renew dials a younger tunnel for the sake of open streams in old, unless there is
// one already that proves more.
func (p *Pool) renew(key Key, old *conn) {
	old.retire()
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.keys[key]; t != nil {
		p.renewLocked(key, t, old)
	}
}

// renewLocked is renew of a tunnel that takes no new streams; mu is held.
func (p *Pool) renewLocked(key Key, t *tunnels, old *conn) {
	if p.closed {
		return
	}
	i := slices.Index(t.list, old)
	for _, c := range t.list[i+1:] {
		if c.outlives(old) {
			return
		}
	}
	p.dialLocked(key, t)
}

// outlives reports that c is in use and was proven longer than old may live.
func (c *conn) outlives(old *conn) bool {
	old.mu.Lock()
	deadline := old.deadline
	old.mu.Unlock()
	c.mu.Lock()
	defer c.unlock()
	return c.err == nil && !c.retired && (c.until.IsZero() || c.until.After(deadline))
}

func (p *Pool) gone(key Key, c *conn) {
	p.cfg.Door.parted(key.Addr.Addr())
	p.mu.Lock()
	if t := p.keys[key]; t != nil {
		t.list = slices.DeleteFunc(t.list, func(other *conn) bool { return other == c })
		p.forget(key, t)
	}
	p.mu.Unlock()
	p.places.give()
}
