// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// A pod whose peers do not answer has what its apps said first in its share of Memory,
// once, until the answer or the end, whatever that is.
func TestWhatAnAppSaysEarlyIsHeldUntilTheAnswer(t *testing.T) {
	refused := func(p *rawPeer, id uint32) { p.WriteRSTStream(id, http2.ErrCodeRefusedStream) }
	for name, row := range map[string]struct {
		answer func(p *rawPeer, id uint32)
		want   error
	}{
		"accepted":          {func(p *rawPeer, id uint32) { p.writeHeaders(id, false, ":status", "200"); end(p, id) }, nil},
		"denied":            {func(p *rawPeer, id uint32) { p.writeHeaders(id, true, ":status", "401") }, ErrDenied},
		"lost":              {func(p *rawPeer, _ uint32) { p.conn.NetConn().Close() }, ErrReset},
		"taken by another":  {refused, nil},
		"taken by no other": {refused, ErrDial},
	} {
		t.Run(name, func(t *testing.T) {
			asked, answer, heard := make(chan struct{}), make(chan struct{}), make(chan string, 1)
			l := provenServers(t, func(p *rawPeer) {
				id, _ := p.request()
				close(asked)
				<-answer
				row.answer(p, id)
			}, hears(heard))
			memory := l.earlyMemory()
			near, far := socketPair(t)
			far.Write(make([]byte, earlyLimit))
			far.CloseWrite()
			if errors.Is(row.want, ErrDial) {
				l.pool.connect = func(context.Context, Key) (net.Conn, error) { return nil, ErrDial }
			}
			o := l.openFor(t, near, far)
			<-asked
			if held := memory.held.Held(); held != earlyLimit {
				t.Errorf("%d bytes are held", held)
			}
			close(answer)
			if r := <-o.done; !errors.Is(r.err, row.want) {
				t.Errorf("it ended with %v, want %v", r.err, row.want)
			}
			if held := memory.held.Held(); held != 0 {
				t.Errorf("and then %d", held)
			}
		})
	}
}

// end has a peer say that it has no more to say when it heard that of the other side.
func end(p *rawPeer, id uint32) {
	p.until(func(f http2.Frame) bool { return f.Header().Flags.Has(http2.FlagDataEndStream) })
	p.must(p.WriteData(id, true, nil))
}

// A peer that accepts and then lets nothing in keeps the pod's share, too.
func TestWhatWasReadEarlyIsHeldUntilItIsSent(t *testing.T) {
	for name, last := range map[string]func(*rawPeer, uint32) error{
		"sent":  func(p *rawPeer, id uint32) error { return p.WriteWindowUpdate(id, 2*earlyLimit) },
		"reset": func(p *rawPeer, id uint32) error { return p.WriteRSTStream(id, http2.ErrCodeCancel) },
	} {
		t.Run(name, func(t *testing.T) {
			accepted, goOn, looked := make(chan struct{}), make(chan struct{}), make(chan struct{})
			saw := sync.OnceFunc(func() { close(looked) })
			defer saw()
			l := provenServers(t, func(p *rawPeer) {
				id, _ := p.request()
				p.must(p.writeHeaders(id, false, ":status", "200"))
				p.wantAlive()
				close(accepted)
				<-goOn
				p.must(last(p, id))
				<-looked
				if name == "sent" {
					end(p, id)
				}
			}, nil, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
			memory := l.earlyMemory()
			near, far := socketPair(t)
			far.Write(make([]byte, earlyLimit))
			far.CloseWrite()
			s, err := l.pool.OpenFor(t.Context(), l.key, l.target(l.key), near)
			if err != nil {
				t.Fatal(err)
			}
			a := carryOn(t, s, near, far)
			<-accepted
			if held := memory.held.Held(); held != earlyLimit {
				t.Errorf("%d bytes are held", held)
			}
			close(goOn)
			waitUntil(t, func() bool { return memory.held.Held() == 0 })
			saw()
			a.wait(t)
			if held := memory.held.Held(); held != 0 {
				t.Errorf("in the end %d", held)
			}
		})
	}
}

func TestAPodOverItsShareSaysNothingEarly(t *testing.T) {
	l := provenServer(t, func(p *rawPeer) {
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.wantAlive() // and nothing came meanwhile that would be an answer to it
		p.must(p.writeHeaders(id, false, ":status", "200"))
		if got := data(p.until(is[*http2.DataFrame])); got != "hello" {
			t.Errorf("after the answer the peer heard %q", got)
		}
		end(p, id)
	})
	memory := l.earlyMemory()
	memory.hold(int(memory.of.held.Size()))
	near, far := socketPair(t)
	io.WriteString(far, "hello")
	far.CloseWrite()
	if r := <-l.openFor(t, near, far).done; r.err != nil || r.totals.Sent != 5 {
		t.Errorf("%+v", r)
	}
	if held := memory.held.Held(); held != memory.of.held.Size() {
		t.Errorf("%d bytes are held", held)
	}
}

// earlyMemory gives the Pool, whose tunnel has no stream, a budget of its own.
func (l *link) earlyMemory() *Memory {
	memory := newBudgetOfBytes(1 << 20).share()
	l.pool.cfg.Memory = memory
	for _, c := range l.pool.all() {
		c.setMemory(memory)
	}
	return memory
}
