// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// provenServer is a raw peer that has accepted our certificate: the first
// stream was answered and is over. serve goes on from there, to its end. In
// other tunnels the first stream is answered, and no more.
func provenServer(t *testing.T, serve func(*rawPeer)) *link {
	return provenServers(t, serve, func(p *rawPeer) {
		if f, err := p.find(is[*http2.MetaHeadersFrame]); err == nil {
			p.must(p.writeHeaders(f.Header().StreamID, false, ":status", "200"))
			p.find(is[*http2.RSTStreamFrame])
		}
	})
}

// provenServers is provenServer whose other tunnels are given to next.
func provenServers(t *testing.T, serve, next func(*rawPeer), settings ...http2.Setting) *link {
	served := make(chan struct{})
	var tunnels atomic.Int64
	l := greetedServer(t, func(p *rawPeer) {
		if tunnels.Add(1) > 1 {
			next(p)
			return
		}
		defer close(served)
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.writeHeaders(id, false, ":status", "200"))
		p.until(is[*http2.RSTStreamFrame])
		serve(p)
	}, settings...)
	s, err := l.pool.Open(t.Context(), l.key, l.target(l.key))
	if err != nil {
		t.Fatal(err)
	}
	s.Reset()
	t.Cleanup(func() { <-served })
	return l
}

// hears answers a stream and notes what is said in it, until it has no more to say.
func hears(heard chan<- string) func(*rawPeer) {
	return func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.writeHeaders(id, false, ":status", "200"))
		said := ""
		for {
			f := p.until(is[*http2.DataFrame]).(*http2.DataFrame)
			said += data(f)
			if f.StreamEnded() {
				heard <- said
				p.must(p.WriteData(id, true, nil))
				return
			}
			p.must(p.WriteWindowUpdate(id, uint32(f.Length)+1))
		}
	}
}

// opening is an OpenFor under way.
type opening struct {
	t         *testing.T
	near, far *net.TCPConn
	done      chan result
}

func (l *link) openFor(t *testing.T, near, far *net.TCPConn) *opening {
	o := &opening{t, near, far, make(chan result, 1)}
	go func() {
		s, err := l.pool.OpenFor(t.Context(), l.key, l.target(l.key), near)
		if err != nil {
			reset(near)
			o.done <- result{err: err}
			return
		}
		totals, err := carryAll(s, near)
		o.done <- result{totals, err}
	}()
	t.Cleanup(func() { far.Close() })
	return o
}

func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

func (o *opening) say(text string) {
	o.t.Helper()
	if _, err := io.WriteString(o.far, text); err != nil {
		o.t.Error(err)
	}
}

// request reads the next CONNECT and the frame behind it.
func (p *rawPeer) request() (id uint32, next http2.Frame) {
	p.t.Helper()
	id = p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
	return id, p.until(func(f http2.Frame) bool { return f.Header().StreamID == id })
}

func data(f http2.Frame) string {
	if d, ok := f.(*http2.DataFrame); ok {
		return string(d.Data())
	}
	return f.Header().String()
}

func TestFirstBytesOfAnAppDoNotWaitForTheAnswer(t *testing.T) {
	for name, before := range map[string]bool{"there already": true, "on their way": false} {
		t.Run(name, func(t *testing.T) {
			asked, heard := make(chan struct{}), make(chan string, 1)
			l := provenServer(t, func(p *rawPeer) {
				id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
				close(asked)
				heard <- data(p.until(is[*http2.DataFrame]))
				p.must(p.writeHeaders(id, false, ":status", "200"))
				p.must(p.WriteData(id, false, []byte("you too")))
				p.until(func(f http2.Frame) bool { return f.Header().Flags.Has(http2.FlagDataEndStream) })
				p.must(p.WriteData(id, true, nil))
			})
			near, far := socketPair(t)
			if before {
				io.WriteString(far, "hello")
			}
			o := l.openFor(t, near, far)
			if !before {
				<-asked
				o.say("hello")
			}
			if got := <-heard; got != "hello" {
				t.Errorf("peer heard %q before its answer", got)
			}
			answer := make([]byte, 7)
			if _, err := io.ReadFull(far, answer); err != nil || string(answer) != "you too" {
				t.Errorf("app heard %q, %v", answer, err)
			}
			far.CloseWrite()
			if r := <-o.done; r.err != nil || r.totals != (Totals{Sent: 5, Received: 7}) {
				t.Errorf("%+v", r)
			}
		})
	}
}

// An app that only listens is not waited for.
func TestAnAppThatHearsFirstIsCarriedAtOnce(t *testing.T) {
	l := provenServer(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.writeHeaders(id, false, ":status", "200"))
		p.must(p.WriteData(id, true, []byte("220 ready")))
		p.until(func(f http2.Frame) bool { return f.Header().Flags.Has(http2.FlagDataEndStream) })
	})
	near, far := socketPair(t)
	o := l.openFor(t, near, far)
	if got, err := io.ReadAll(far); err != nil || string(got) != "220 ready" {
		t.Errorf("app heard %q, %v", got, err)
	}
	far.CloseWrite()
	if r := <-o.done; r.err != nil {
		t.Error(r.err)
	}
}

// The answer goes before what the app behind it says, though somebody else may be
// writing to the tunnel at the moment when both come.
func TestNothingOvertakesAnAnswer(t *testing.T) {
	l := newLink(t, nil)
	l.open().Close()
	var apps sync.WaitGroup
	for range 16 {
		apps.Go(func() {
			for range 100 {
				near, far := socketPair(t)
				io.WriteString(far, "hello")
				o := l.openFor(t, near, far)
				if _, err := io.ReadFull(far, make([]byte, 5)); err != nil {
					t.Errorf("echo: %v", err)
				}
				far.Close()
				if r := <-o.done; r.err != nil {
					t.Error(r.err)
					return
				}
			}
		})
	}
	apps.Wait()
}

// What an app says and that it then has no more to say arrive in this order,
// whenever the answer comes.
func TestAnAppThatSaysAllAtOnceIsHeardToTheEnd(t *testing.T) {
	l, far := newPipe(t)
	l.open().Close()
	(<-far).Close()
	for _, size := range []int{1, earlyLimit, earlyLimit + 1, 1 << 20} {
		near, app := socketPair(t)
		said := bytes.Repeat([]byte("x"), size)
		go func() {
			app.Write(said)
			app.CloseWrite()
		}()
		o := l.openFor(t, near, app)
		server := <-far
		if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, said) {
			t.Errorf("%d of %d bytes, %v", len(got), size, err)
		}
		server.CloseWrite()
		if r := <-o.done; r.err != nil || r.totals.Sent != uint64(size) {
			t.Errorf("%+v", r)
		}
	}
}

func TestNoMoreThanTheLimitIsSentBeforeTheAnswer(t *testing.T) {
	l := provenServer(t, func(p *rawPeer) {
		id, first := p.request()
		if n := len(data(first)); n != earlyLimit {
			t.Errorf("%d bytes", n)
		}
		p.wantAlive() // and nothing came meanwhile that would be an answer to it
		p.must(p.writeHeaders(id, true, ":status", "503"))
		p.wantReset(id, http2.ErrCodeCancel)
	})
	near, far := socketPair(t)
	far.Write(make([]byte, 3*earlyLimit))
	if r := <-l.openFor(t, near, far).done; !errors.Is(r.err, ErrDial) {
		t.Error(r.err)
	}
}

// Without the peer's first frame nobody knows whether it accepts us.
func TestNothingIsSentEarlyToAPeerThatHasNotAcceptedUs(t *testing.T) {
	l := rawServer(t, func(p *rawPeer) {
		io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.WriteSettings())
		p.must(p.WritePing(false, [8]byte{1}))
		for { // all that was sent before our SETTINGS came
			f, err := p.ReadFrame()
			if err != nil || is[*http2.PingFrame](f) {
				break
			}
			if is[*http2.DataFrame](f) {
				t.Error("DATA before the answer")
			}
		}
		p.must(p.writeHeaders(id, false, ":status", "200"))
		if got := data(p.until(is[*http2.DataFrame])); got != "hello" {
			t.Errorf("then %q", got)
		}
		p.must(p.WriteRSTStream(id, http2.ErrCodeCancel))
	})
	near, far := socketPair(t)
	io.WriteString(far, "hello")
	<-l.openFor(t, near, far).done
}

// A peer that refuses a stream has done nothing for it, and says so. What it may
// have passed on is given to nobody else.
func TestWhatAnAppSaidGoesToAnotherTunnelOnlyIfThePeerTookNothing(t *testing.T) {
	for _, c := range []struct {
		name         string
		end          func(p *rawPeer, id uint32)
		want, silent error // how a stream ends that said something, or nothing; nil: another tunnel has it
	}{
		{"refused", func(p *rawPeer, id uint32) { p.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, nil, nil},
		{"GOAWAY below", func(p *rawPeer, id uint32) { p.WriteGoAway(id-1, http2.ErrCodeNo, nil) }, nil, nil},
		{"lost", func(p *rawPeer, id uint32) { p.conn.NetConn().Close() }, ErrReset, nil},
		{"denied", func(p *rawPeer, id uint32) { p.writeHeaders(id, true, ":status", "401") }, ErrDenied, ErrDenied},
	} {
		for text, want := range map[string]error{"hello": c.want, "": c.silent} {
			heard := make(chan string, 1)
			l := provenServers(t, func(p *rawPeer) {
				id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
				if text != "" {
					p.until(is[*http2.DataFrame])
				}
				c.end(p, id)
			}, hears(heard))
			near, far := socketPair(t)
			io.WriteString(far, text)
			o := l.openFor(t, near, far)
			if want == nil {
				waitUntil(t, func() bool { return l.dials.Load() == 2 })
				o.say(" world")
				far.CloseWrite()
				if got := <-heard; got != text+" world" {
					t.Errorf("%s after %q: another tunnel heard %q", c.name, text, got)
				}
			}
			if r := <-o.done; !errors.Is(r.err, want) || want == nil && r.totals.Sent != uint64(len(text)+6) {
				t.Errorf("%s after %q: %+v, want %v", c.name, text, r, want)
			}
			if _, err := far.Read(make([]byte, 1)); want != nil && (err == nil || err == io.EOF) {
				t.Errorf("%s after %q: app read %v, want a reset", c.name, text, err)
			}
			if want != nil && l.dials.Load() != 1 {
				t.Errorf("%s after %q: %d dials", c.name, text, l.dials.Load())
			}
		}
	}
}

// A caller that opens again what could not be dialled must not do so for an app of
// which something was read.
func TestAPeerThatIsGoneAfterItHeardSomethingIsNoUnansweredDial(t *testing.T) {
	l := provenServer(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.until(is[*http2.DataFrame])
		p.WriteGoAway(id-1, http2.ErrCodeNo, nil)
	})
	l.pool.connect = func(context.Context, Key) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	near, far := socketPair(t)
	io.WriteString(far, "hello")
	var silence *NoAnswerError
	if r := <-l.openFor(t, near, far).done; !errors.As(r.err, &silence) || !errors.Is(r.err, syscall.ECONNREFUSED) {
		t.Errorf("%v, want that a CONNECT was not answered", r.err)
	}
}

func TestAnAppThatBreaksOffBeforeTheAnswerEndsItsStream(t *testing.T) {
	asked := make(chan struct{})
	l := provenServer(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		close(asked)
		p.wantReset(id, http2.ErrCodeCancel)
	})
	near, far := socketPair(t)
	o := l.openFor(t, near, far)
	<-asked
	reset(far)
	if r := <-o.done; !errors.Is(r.err, ErrReset) {
		t.Error(r.err)
	}
}

func TestAnAppThatWaitsForItsPeerIsLetGoWhenNobodyWantsTheStreamAnyMore(t *testing.T) {
	asked := make(chan struct{})
	l := provenServer(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		close(asked)
		p.wantReset(id, http2.ErrCodeCancel)
	})
	near, _ := socketPair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(ErrDenied)
	}()
	var silence *NoAnswerError
	if _, err := l.pool.OpenFor(ctx, l.key, l.target(l.key), near); !errors.As(err, &silence) || !errors.Is(err, ErrDenied) {
		t.Error(err)
	}
}
