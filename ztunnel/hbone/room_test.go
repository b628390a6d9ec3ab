// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// Nobody knows how many streams a peer allows when the first are opened.
func TestABurstIsCarriedWhateverItsPeerAllows(t *testing.T) {
	for allowed, burst := range map[int]int{1: 20, 20: 150} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			l := newLink(t, nil)
			l.ln.cfg.MaxStreams = allowed
			l.burst(burst)
			if n := l.dials.Load(); int(n) > burst/allowed+2 {
				t.Errorf("%d dials", n)
			}
		})
	}
}

// burst opens streams at once, whose apps say something, and has them open together.
func (l *link) burst(n int) {
	l.t.Helper()
	var heard, all sync.WaitGroup
	heard.Add(n)
	for range n {
		all.Go(func() {
			near, far := socketPair(l.t)
			defer far.Close()
			io.WriteString(far, "hello")
			o := l.openFor(l.t.(*testing.T), near, far)
			_, err := io.ReadFull(far, make([]byte, 5))
			heard.Done()
			if err != nil {
				l.t.Errorf("%v: %+v", err, <-o.done)
				return
			}
			heard.Wait()
			far.Close()
			<-o.done
		})
	}
	all.Wait()
}

// strict echoes, and refuses what its peer must not open since the SETTINGS.
func (p *rawPeer) strict(allowed int, opened func(n int) (allowed int)) {
	open := make(map[uint32]bool)
	for n := 0; ; {
		f, err := p.ReadFrame()
		if err != nil {
			return
		}
		id := f.Header().StreamID
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if n++; opened(n) != allowed {
				allowed = opened(n)
				p.must(p.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(allowed)}))
			}
			if len(open) >= allowed {
				p.must(p.WriteRSTStream(id, http2.ErrCodeRefusedStream))
				continue
			}
			open[id] = true
			p.must(p.writeHeaders(id, false, ":status", "200"))
		case *http2.DataFrame:
			if open[id] {
				p.must(p.WriteData(id, f.StreamEnded(), f.Data()))
			}
			if f.StreamEnded() {
				delete(open, id)
			}
		case *http2.RSTStreamFrame:
			delete(open, id)
		}
	}
}

// The peer changes its mind while streams are on their way to it, and what their
// apps say.
func TestABurstIsCarriedThoughItsPeerAllowsLessMeanwhile(t *testing.T) {
	l := greetedServer(t, func(p *rawPeer) {
		p.strict(30, func(n int) int {
			if n > 3 {
				return 2
			}
			return 30
		})
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 30})
	l.open().Close()
	l.burst(30)
}

func TestWhatAPeerAllowedIsNotExceededInItsNextTunnels(t *testing.T) {
	l := greetedServer(t, func(p *rawPeer) {
		p.strict(2, func(int) int { return 2 })
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	l.open() // by its answer, that is known
	l.burst(20)
	if n := l.pool.Stats().Retries; n != 0 {
		t.Errorf("%d streams were refused", n)
	}
}

// shutServer is a raw server of the bubble's pool that allows no streams, and after a
// while as many as it likes.
func (b *bubble) shutServer(later time.Duration) {
	p := b.raw(true)
	go func() {
		io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
		none := http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0}
		p.alone(func() error { return p.WriteSettings(none) })
		open := time.Now().Add(later)
		time.AfterFunc(later, func() {
			p.alone(func() error { return p.WriteSettings(http2.Setting{ID: none.ID, Val: 1}) })
		})
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				id := f.StreamID
				if !time.Now().Before(open) {
					p.alone(func() error { return p.writeHeaders(id, false, ":status", "200") })
				} else {
					p.alone(func() error { return p.WriteRSTStream(id, http2.ErrCodeRefusedStream) })
				}
			case *http2.PingFrame:
				if !f.IsAck() {
					p.alone(func() error { return p.WritePing(true, f.Data) })
				}
			}
		}
	}()
	dial, dialled := b.pool.connect, false
	b.pool.connect = func(ctx context.Context, key Key) (net.Conn, error) {
		if dialled {
			b.t.Error("another tunnel was dialled")
		}
		dialled = true
		return dial(ctx, key)
	}
}

func TestAPeerThatAllowsNoStreamsIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		later, took time.Duration
		want        error
	}{
		{5 * time.Second, 5 * time.Second, nil},
		{time.Minute, 20 * time.Second, ErrLimit},
	} {
		inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
			b.shutServer(c.later)
			begin := time.Now()
			_, err := b.pool.Open(t.Context(), b.key, Target{Authority: netip.AddrPortFrom(b.key.Addr.Addr(), 8080)})
			if took := time.Since(begin); took != c.took || !errors.Is(err, c.want) {
				t.Errorf("%v after %v, want %v after %v", err, took, c.want, c.took)
			}
		})
	}
}

// A peer that allowed no streams is dead by now. Whoever waits for it to allow some
// asks whether it is there.
func TestAPeerThatAllowedNoStreamsIsNotWaitedForInADeadTunnel(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(true)
		go func() {
			io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
			p.alone(func() error { return p.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0}) })
			for { // a CONNECT comes only if it was sent before the SETTINGS arrived
				f, err := p.ReadFrame()
				if err != nil {
					return
				}
				if is[*http2.MetaHeadersFrame](f) {
					p.alone(func() error { return p.WriteRSTStream(f.Header().StreamID, http2.ErrCodeRefusedStream) })
				}
			}
		}()
		if _, err := b.openWithin(freshly / 2); !errors.Is(err, ErrLimit) {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		b.pool.connect = func(context.Context, Key) (net.Conn, error) { return b.dial() }
		begin := time.Now()
		b.open()
		if took := time.Since(begin); took != freshly {
			t.Errorf("it took %v", took)
		}
	})
}
