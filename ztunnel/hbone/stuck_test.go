// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// deafServer is a raw peer that answers the first stream and reads no more, until
// the test is over.
func deafServer(t *testing.T) *link {
	over := make(chan struct{})
	l := greetedServer(t, func(p *rawPeer) {
		p.must(p.WriteWindowUpdate(0, 1<<30))
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.WriteWindowUpdate(id, 1<<30))
		p.must(p.writeHeaders(id, false, ":status", "200"))
		<-over
	})
	t.Cleanup(func() { close(over) })
	return l
}

// flood has an app say more than its tunnel takes.
func (a *app) flood() {
	a.t.Helper()
	go func() {
		for chunk := make([]byte, 64<<10); ; {
			if _, err := a.Write(chunk); err != nil {
				return
			}
		}
	}()
	waitUntil(a.t, a.s.isStuckLeading())
}

// What policy forbids is recorded as that, and now, not when the peer reads again.
func TestStreamThatIsClosedInAStuckTunnelEndsAtOnce(t *testing.T) {
	l := deafServer(t)
	a := l.open()
	a.flood()
	begin := time.Now()
	a.s.Close(ErrDenied)
	if r := a.wait(t); !errors.Is(r.err, ErrDenied) || r.totals.Sent == 0 {
		t.Errorf("%+v", r)
	}
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("it took %v", took)
	}
	waitUntil(t, a.isGone)
}

// deaf makes a raw peer of the bubble's pool that answers one stream and then
// reads nothing. Writing to its pipe waits at once.
func (b *bubble) deaf() *rawPeer {
	p := b.raw(true)
	go func() {
		io.ReadFull(p.conn, make([]byte, len(preface)))
		p.alone(func() error { return p.WriteSettings() })
		p.until(is[*http2.MetaHeadersFrame])
		p.until(is[*http2.SettingsFrame]) // the acknowledgement
		p.alone(func() error { return p.writeHeaders(1, false, ":status", "200") })
	}()
	return p
}

func (b *bubble) openWithin(d time.Duration) (*Stream, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), d)
	defer cancel()
	return b.pool.Open(ctx, b.key, Target{Authority: b.key.Addr})
}

func TestOpenInAStuckTunnelKeepsItsDeadline(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.deaf()
		if _, err := b.openWithin(time.Second); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err := b.openWithin(100 * time.Millisecond)
		if took := time.Since(begin); took != 100*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
	})
}
