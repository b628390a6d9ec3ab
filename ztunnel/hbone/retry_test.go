// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// The first tunnel of each case does something to the first stream; the others work.
func TestStreamIsTriedAgainOnlyIfNothingWasDoneForIt(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(p *rawPeer, id uint32)
		want  error // nil: served by the second tunnel
	}{
		{"refused", func(p *rawPeer, id uint32) { p.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, nil},
		{"GOAWAY below", func(p *rawPeer, id uint32) { p.WriteGoAway(id-1, http2.ErrCodeNo, nil) }, nil},
		{"lost before the answer", func(p *rawPeer, id uint32) { p.conn.NetConn().Close() }, nil},
		{"reset", func(p *rawPeer, id uint32) { p.WriteRSTStream(id, http2.ErrCodeCancel) }, ErrReset},
		{"denied", func(p *rawPeer, id uint32) { p.writeHeaders(id, true, ":status", "401") }, ErrDenied},
		{"unavailable", func(p *rawPeer, id uint32) { p.writeHeaders(id, false, ":status", "503") }, ErrDial},
		{"nonsense", func(p *rawPeer, id uint32) { p.writeHeaders(id, false, ":status", "abc") }, ErrReset},
		{"answer without status", func(p *rawPeer, id uint32) { p.writeHeaders(id, false, "baggage", "x") }, ErrReset},
		{"DATA before the answer", func(p *rawPeer, id uint32) { p.WriteData(id, false, []byte("x")) }, ErrReset},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			tunnels := 0
			l := greetedServer(t, func(p *rawPeer) {
				mu.Lock()
				tunnels++
				first := tunnels == 1
				mu.Unlock()
				if first {
					f := p.until(is[*http2.MetaHeadersFrame])
					c.first(p, f.Header().StreamID)
				}
				answerAll(p)
			})
			s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			wantDials := int64(1)
			if c.want == nil {
				wantDials = 2
				s.Reset()
			}
			if n := l.dials.Load(); n != wantDials {
				t.Errorf("%d dials, want %d", n, wantDials)
			}
		})
	}
}

func TestStreamThatIsRefusedEverywhereEnds(t *testing.T) {
	l := greetedServer(t, func(p *rawPeer) {
		for {
			f, err := p.find(is[*http2.MetaHeadersFrame])
			if err != nil {
				return
			}
			p.must(p.WriteRSTStream(f.Header().StreamID, http2.ErrCodeRefusedStream))
		}
	})
	_, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if !errors.Is(err, ErrLimit) || l.dials.Load() != 1+maxRetries {
		t.Errorf("error %v after %d dials", err, l.dials.Load())
	}
}

func TestPoolClosesTheTunnelOfAPeerWhoseStreamsAreFaulty(t *testing.T) {
	done := make(chan struct{})
	var tunnels atomic.Int32
	l := greetedServer(t, func(p *rawPeer) {
		if tunnels.Add(1) > 1 {
			return // dialled when the first was closed
		}
		defer close(done)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				t.Errorf("no GOAWAY but %v", err)
				return
			}
			if g, ok := f.(*http2.GoAwayFrame); ok {
				if g.ErrCode != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("GOAWAY %v", g.ErrCode)
				}
				return
			}
			if is[*http2.MetaHeadersFrame](f) {
				p.must(p.WriteData(f.Header().StreamID, false, []byte("before the answer")))
			}
		}
	})
	opened := 0
	for tunnels.Load() < 2 { // a slow machine may take its time, and is allowed more
		if _, err := l.pool.Open(context.Background(), l.key, l.target(l.key)); err == nil {
			t.Fatal("stream was opened")
		}
		if opened++; opened == 20*int(faultRate.Burst) {
			t.Fatalf("the tunnel is still open after %d faults", opened)
		}
	}
	if opened <= int(faultRate.Burst) {
		t.Errorf("closed after %d faults", opened)
	}
	<-done
}

// A peer that restarted leaves tunnels that look alive until they are used.
func TestStaleTunnelDoesNotFailAnOpen(t *testing.T) {
	peers := make(chan *rawPeer, 5)
	l := greetedServer(t, func(p *rawPeer) {
		peers <- p
		answerAll(p)
	})
	for range 5 {
		a := l.open()
		a.Close()
		(<-peers).conn.NetConn().Close()
	}
	if n := l.dials.Load(); n != 5 {
		t.Errorf("%d dials", n)
	}
}

func TestTunnelThatNeverWorkedIsNotTriedAgain(t *testing.T) {
	l := rawServer(t, func(p *rawPeer) { p.conn.NetConn().Close() })
	_, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if !errors.Is(err, ErrTLS) || l.dials.Load() != 1 {
		t.Errorf("error %v after %d dials", err, l.dials.Load())
	}
}

// Certificates may rotate while a tunnel is new and nobody uses it yet: who waited
// for it gets another.
func TestTunnelRetiredBeforeItsFirstStreamFailsNobody(t *testing.T) {
	over := make(chan struct{})
	l := rawServer(t, func(*rawPeer) { <-over })
	defer close(over)
	l.pool.mu.Lock()
	d := l.pool.dialLocked(l.key, l.pool.of(l.key))
	l.pool.mu.Unlock()
	<-d.done
	l.pool.Retire(Rotated)
	if err := d.stillborn(); err != nil {
		t.Errorf("who waited is told %v", err)
	}
}

func TestTunnelThatEndsBeforeItIsReadIsNotWaitedFor(t *testing.T) {
	over := make(chan struct{})
	l := rawServer(t, func(*rawPeer) { <-over })
	defer close(over)
	c, err := l.pool.tunnel(l.key)
	if err != nil {
		t.Fatal(err)
	}
	c.greet()
	c.retire()
	start := time.Now()
	c.run()
	if d := time.Since(start); d > settingsTimeout/2 {
		t.Errorf("it took %v", d)
	}
}
