// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// counted is a Share of a few.
type counted struct {
	most, held atomic.Int64
}

var errNoMore = errors.New("no more")

func (c *counted) Take() error {
	if c.held.Add(1) > c.most.Load() {
		c.Give()
		return errNoMore
	}
	return nil
}

func (c *counted) Give() { c.held.Add(-1) }

func (c *counted) wantHeld(t *testing.T, want int64) {
	t.Helper()
	waitUntil(t, func() bool { return c.held.Load() == want })
}

func TestTunnelsHoldAPlaceInTheirPodsShare(t *testing.T) {
	l := newLink(t, nil)
	var ours, theirs counted
	ours.most.Store(2)
	theirs.most.Store(2)
	l.pool.places.share = &ours
	far := &link{t: t, pool: l.pool, ln: startListener(t, ListenerConfig{Credential: l.ln.cfg.Credential, Records: l.ln.cfg.Records, Share: &theirs})}
	far.acceptAll(far.echo)
	l.key.Addr = far.ln.Addr()
	open := func() (*Stream, error) { return l.pool.Open(t.Context(), l.key, l.target(l.key)) }

	l.open()
	ours.wantHeld(t, 1)
	theirs.wantHeld(t, 1)
	l.pool.Retire(Denied) // ends the tunnel
	ours.wantHeld(t, 0)
	theirs.wantHeld(t, 0)

	dial := l.pool.cfg.Dial
	l.pool.cfg.Dial = func(context.Context, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
		return nil, syscall.ECONNREFUSED
	}
	if _, err := open(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody there: %v", err)
	}
	ours.wantHeld(t, 0)
	l.pool.cfg.Dial = dial

	ours.most.Store(0)
	if _, err := open(); !errors.Is(err, ErrLimit) || !errors.Is(err, errNoMore) {
		t.Errorf("without a place of ours: %v, want %v", err, ErrLimit)
	}
	ours.most.Store(1)
	theirs.most.Store(0)
	shed := far.ln.Stats().Shed
	if _, err := open(); err == nil {
		t.Error("a tunnel without a place of the peer's")
	}
	waitUntil(t, func() bool { return far.ln.Stats().Shed > shed })
	ours.wantHeld(t, 0)

	theirs.most.Store(1)
	l.open()
	ours.wantHeld(t, 1)
	theirs.wantHeld(t, 1)
}

// Nobody waits for a tunnel that is gone already.
func TestATunnelThatIsGoneAtOnceIsNotAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var share counted
		share.most.Store(1)
		share.held.Store(1)
		idle := 1
		var p *places
		p = newPlaces(&share, func() bool {
			if idle == 0 {
				return false
			}
			idle--
			p.give() // it ends while it is asked to
			return true
		})
		if err := p.take(t.Context()); err != nil {
			t.Errorf("an idle tunnel made room: %v", err)
		}
		begin := time.Now()
		if err := p.take(t.Context()); !errors.Is(err, errNoMore) || time.Since(begin) != 0 {
			t.Errorf("none is idle: %v after %v", err, time.Since(begin))
		}
	})
}

// A peer that opens a stream in the tunnel that was asked to leave keeps its place. Those
// that come later do not wait for it, but ask another to leave.
func TestATunnelThatStaysAfterAllIsNotWaitedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var share counted
		share.most.Store(2)
		asked := 0
		var p *places
		p = newPlaces(&share, func() bool {
			if asked++; asked > 1 { // the first one stays
				time.AfterFunc(goAwayDelay, p.give)
			}
			return true
		})
		for range 2 {
			if err := p.take(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.take(t.Context()); !errors.Is(err, ErrLimit) {
			t.Errorf("no place is free, and none becomes free: %v", err)
		}
		if err := p.take(t.Context()); err != nil || asked != 2 {
			t.Errorf("%v, after %d were asked", err, asked)
		}
	})
}
