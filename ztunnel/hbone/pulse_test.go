// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// A peer has restarted, or something on the way forgot the connection.
func TestStreamsInADeadTunnelMoveToOneFreshTunnel(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, _ := b.open()
		near.Reset()
		pass(5 * time.Second)
		b.forget()
		begin := time.Now()
		var all sync.WaitGroup
		tunnels := make(chan *conn, 8)
		for i := range cap(tunnels) {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				near, _ := b.open()
				tunnels <- near.c
			})
		}
		all.Wait()
		if took := time.Since(begin); took != freshly {
			t.Errorf("it took %v", took)
		}
		fresh := <-tunnels
		for range cap(tunnels) - 1 {
			if c := <-tunnels; c != fresh {
				t.Error("streams are in two tunnels")
			}
		}
		if fresh == near.c || b.countDials() != 2 {
			t.Errorf("%d dials", b.countDials())
		}
	})
}

// Several tunnels of one key die together.
func TestAStreamIsNotTriedInOneDeadTunnelAfterTheOther(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.pool.cfg.MaxStreams = 1
		oldest, _ := b.open()
		for range 4 {
			b.open()
		}
		for _, c := range b.pool.all() {
			c.streamLimit = 2
		}
		oldest.Reset() // so that its tunnel has room for two, and is tried first
		pass(5 * time.Second)
		b.forget()
		begin := time.Now()
		b.open()
		if took := time.Since(begin); took != freshly {
			t.Errorf("it took %v", took)
		}
	})
}

// sayTo has an app say something early in a tunnel that was heard a moment ago.
func (b *bubble) sayTo(text string) (*Stream, error) {
	near, far := socketPair(b.t)
	io.WriteString(far, text)
	return b.pool.OpenFor(b.t.Context(), b.key, Target{Authority: netip.AddrPortFrom(b.key.Addr.Addr(), 8080)}, near)
}

// Nobody has noticed yet that the tunnel is dead. What an app said in it cannot be said
// again elsewhere; an app that said nothing loses nothing.
func TestWhoeverSpokeIntoADeadTunnelIsNotKeptWaiting(t *testing.T) {
	for text, want := range map[string]struct {
		took time.Duration
		err  error
	}{
		"hello": {freshly + deadAfter*freshly, ErrDial},
		"":      {2 * freshly, nil},
	} {
		inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
			near, _ := b.open()
			near.Reset()
			synctest.Wait()
			b.forget()
			begin := time.Now()
			var err error
			if text == "" {
				b.open()
			} else {
				_, err = b.sayTo(text)
			}
			if took := time.Since(begin); took != want.took || !errors.Is(err, want.err) {
				t.Errorf("after %q: %v after %v, want %v after %v", text, err, took, want.err, want.took)
			}
			var silence *NoAnswerError
			if err != nil && !errors.As(err, &silence) {
				t.Errorf("%v would be tried again", err)
			}
		})
	}
}

// serveOne greets and answers a stream, and returns when one is reset.
func (p *rawPeer) serveOne() {
	io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
	p.alone(func() error { return p.WriteSettings() })
	id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
	p.alone(func() error { return p.writeHeaders(id, false, ":status", "200") })
	p.until(is[*http2.RSTStreamFrame])
}

// A tunnel that seemed dead may come back, as long as nobody gave up what it carries.
func TestWhatAnAppSaidWaitsForATunnelThatComesBackInTime(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(true)
		go func() {
			p.serveOne()
			id, _ := p.request()
			p.until(is[*http2.PingFrame])
			time.Sleep((deadAfter - 1) * freshly)
			p.alone(func() error { return p.WritePing(true, [8]byte{}) })
			time.AfterFunc(10*time.Second, func() {
				p.alone(func() error { return p.writeHeaders(id, false, ":status", "200") })
			})
			p.answerPings()
		}()
		first, err := b.openWithin(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		first.Reset()
		synctest.Wait()
		begin := time.Now()
		s, err := b.sayTo("hello")
		if took := time.Since(begin); took != 15*time.Second || err != nil {
			t.Fatalf("%v after %v", err, took)
		}
		if s.c != first.c || s.c.takesStreams() {
			t.Error("the tunnel did not seem dead, or another was used")
		}
	})
}

// The last sign of life may come at any moment of a stream's wait.
func TestATunnelIsLeftTwoSecondsAfterItsLastSignOfLife(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		const alive = freshly / 10
		b.raisesHope(alive)
		begin := time.Now()
		b.open()
		if took := time.Since(begin); took != alive+2*freshly {
			t.Errorf("it took %v", took)
		}
	})
}

// raisesHope is a raw server in a bubble that answers one stream, is heard once more
// so long after the request of the next, and then never. Later tunnels work.
func (b *bubble) raisesHope(after time.Duration) {
	p := b.raw(true)
	go func() {
		io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
		p.alone(func() error { return p.WriteSettings() })
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.alone(func() error { return p.writeHeaders(id, false, ":status", "200") })
		p.until(is[*http2.RSTStreamFrame])
		p.until(is[*http2.MetaHeadersFrame])
		time.Sleep(after)
		p.alone(func() error { return p.WriteWindowUpdate(0, 1) })
		io.Copy(io.Discard, p.conn)
	}()
	first, err := b.openWithin(time.Second)
	if err != nil {
		b.t.Fatal(err)
	}
	first.Reset()
	synctest.Wait()
	b.pool.connect = func(context.Context, Key) (net.Conn, error) { return b.dial() }
}

// What was open in a tunnel that seems dead lives on if it is not.
func TestATunnelThatWasSilentForAWhileKeepsItsStreams(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(true)
		go func() {
			p.serveOne() // up to the reset of the next, which has moved
			p.answerPings()
		}()
		first, err := b.openWithin(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		b.pool.connect = func(context.Context, Key) (net.Conn, error) { return b.dial() }
		if next, _ := b.open(); next.c == first.c {
			t.Error("a stream stayed in the silent tunnel")
		}
		pass(time.Minute)
		wantOpen(t, first)
	})
}

// lately is a raw server in a bubble whose tunnel was heard so long ago.
func (b *bubble) lately(ago time.Duration, then func(p *rawPeer)) *Stream {
	b.t.Helper()
	p := b.raw(true)
	go func() {
		io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
		p.alone(func() error { return p.WriteSettings() })
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.alone(func() error { return p.writeHeaders(id, false, ":status", "200") })
		p.until(is[*http2.RSTStreamFrame])
		then(p)
	}()
	open := func() *Stream {
		s, err := b.pool.Open(b.t.Context(), b.key, Target{Authority: netip.AddrPortFrom(b.key.Addr.Addr(), 8080)})
		if err != nil {
			b.t.Fatal(err)
		}
		return s
	}
	open().Reset()
	pass(ago)
	return open()
}

func TestOnlyATunnelThatWasNotHeardLatelyIsAsked(t *testing.T) {
	for ago, want := range map[time.Duration]bool{freshly / 2: false, freshly: true} {
		inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
			asked := false
			b.lately(ago, func(p *rawPeer) {
				id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
				p.conn.SetReadDeadline(time.Now().Add(freshly / 4))
				f, err := p.ReadFrame()
				asked = err == nil && is[*http2.PingFrame](f)
				p.alone(func() error { return p.writeHeaders(id, false, ":status", "200") })
			})
			if asked != want {
				t.Errorf("heard %v ago: asked %v", ago, asked)
			}
		})
	}
}

// An app may be slow to accept. Its tunnel answers meanwhile.
func TestAStreamWaitsForItsAnswerInATunnelThatIsAlive(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		begin := time.Now()
		b.lately(0, func(p *rawPeer) {
			id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
			go func() {
				time.Sleep(15 * time.Second)
				p.alone(func() error { return p.writeHeaders(id, false, ":status", "200") })
			}()
			p.answerPings()
		})
		if took := time.Since(begin); took != 15*time.Second || b.pool.Stats().Retries != 0 {
			t.Errorf("it took %v, %+v", took, b.pool.Stats())
		}
	})
}

// rested is a provenServers whose tunnel was not heard for a while.
func restedServers(t *testing.T, serve, next func(*rawPeer)) *link {
	l := provenServers(t, serve, next)
	for _, c := range l.pool.all() {
		c.mu.Lock()
		c.heardAt = c.heardAt.Add(-2 * freshly)
		c.mu.Unlock()
	}
	return l
}

// A process that has too much to do is late itself.
func TestATunnelThatNobodyReadYetIsNotTakenForASilentOne(t *testing.T) {
	over := make(chan struct{})
	l := greetedServer(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.writeHeaders(id, false, ":status", "200"))
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
				p.WriteWindowUpdate(0, 1)
			}
		}
	})
	c := l.open().s.c
	c.mu.Lock()
	c.heard.Store(false)
	waitUntil(t, func() bool { return c.heard.Load() && c.rtt.unread() }) // the reader waits for mu, with more to read
	long := time.Now().Add(-time.Minute)
	c.heardAt, c.askedAt = long, long
	c.examine(time.Now())
	if c.retired {
		t.Error("it is given up")
	}
	c.mu.Unlock()
	close(over)
}

func TestWhatAnAppSaysWaitsUntilItsTunnelHasShownThatItLives(t *testing.T) {
	heard := make(chan string, 1)
	l := restedServers(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		ping := p.until(is[*http2.PingFrame]).(*http2.PingFrame)
		p.must(p.WritePing(true, ping.Data))
		heard <- data(p.until(is[*http2.DataFrame])) // and does not wait for the answer
		p.must(p.writeHeaders(id, true, ":status", "503"))
	}, func(*rawPeer) {})
	near, far := socketPair(t)
	io.WriteString(far, "hello")
	o := l.openFor(t, near, far)
	if got := <-heard; got != "hello" {
		t.Errorf("peer heard %q", got)
	}
	if r := <-o.done; !errors.Is(r.err, ErrDial) {
		t.Error(r.err)
	}
}

// A peer that has restarted answers with a reset.
func TestWhatAnAppSaysIsNotLostWithATunnelThatWasDead(t *testing.T) {
	heard := make(chan string, 1)
	l := restedServers(t, func(p *rawPeer) {
		p.until(is[*http2.PingFrame])
		reset(p.conn.NetConn().(*net.TCPConn))
	}, hears(heard))
	near, far := socketPair(t)
	io.WriteString(far, "hello")
	far.CloseWrite()
	o := l.openFor(t, near, far)
	if got := <-heard; got != "hello" {
		t.Errorf("another tunnel heard %q", got)
	}
	if r := <-o.done; r.err != nil || l.dials.Load() != 2 {
		t.Errorf("%+v after %d dials", r, l.dials.Load())
	}
}

// The other tunnel's window may be smaller than what the app said.
func TestWhatAnAppSaidFitsAnyWindow(t *testing.T) {
	heard := make(chan string, 1)
	l := provenServers(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.until(is[*http2.DataFrame])
		p.must(p.WriteRSTStream(id, http2.ErrCodeRefusedStream))
	}, hears(heard), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
	near, far := socketPair(t)
	said := strings.Repeat("0123456789", earlyLimit/10)
	io.WriteString(far, said)
	o := l.openFor(t, near, far)
	waitUntil(t, func() bool { return l.dials.Load() == 2 })
	o.say("bye")
	far.CloseWrite()
	if got := <-heard; got != said+"bye" {
		t.Errorf("another tunnel heard %d bytes, or other ones", len(got))
	}
	if r := <-o.done; r.err != nil || r.totals.Sent != uint64(len(said)+3) {
		t.Errorf("%+v", r)
	}
}
