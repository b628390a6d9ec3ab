// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// attack is what a peer does to a tunnel after the greeting, and how that
// must end: the whole tunnel closed with a code.
type attack struct {
	name string
	do   func(p *rawPeer)
	want http2.ErrCode
}

// repeat does something until the tunnel breaks or n times.
func repeat(n int, do func(i int) error) {
	for i := range n {
		if do(i) != nil {
			return
		}
	}
}

// flood writes a frame as often as the tunnel takes it, at most a million times.
func flood(p *rawPeer, frame []byte) {
	many := bytes.Repeat(frame, 1000)
	repeat(1000, func(int) error {
		_, err := p.conn.Write(many)
		return err
	})
}

// On stream 1 an app is being served when these begin; so both ends may try them.
var attacksOfAnyPeer = []attack{
	{"PING flood", func(p *rawPeer) {
		repeat(100000, func(int) error { return p.WritePing(false, [8]byte{}) })
	}, http2.ErrCodeEnhanceYourCalm},
	{"SETTINGS flood", func(p *rawPeer) {
		repeat(100000, func(int) error { return p.WriteSettings() })
	}, http2.ErrCodeEnhanceYourCalm},
	{"SETTINGS frame with too many entries", func(p *rawPeer) {
		p.WriteSettings(make([]http2.Setting, h2.SettingsLimit+1)...)
	}, http2.ErrCodeEnhanceYourCalm},
	{"empty DATA flood", func(p *rawPeer) {
		repeat(100000, func(int) error { return p.WriteData(1, false, nil) })
	}, http2.ErrCodeEnhanceYourCalm},
	{"empty DATA flood behind padding", func(p *rawPeer) {
		repeat(100000, func(int) error { return p.WriteDataPadded(1, false, nil, make([]byte, 7)) })
	}, http2.ErrCodeEnhanceYourCalm},
	{"PRIORITY flood", func(p *rawPeer) {
		flood(p, append(h2.AppendFrame(nil, 5, h2.KindPriority, 0, 1), 0, 0, 0, 0, 0))
	}, http2.ErrCodeEnhanceYourCalm},
	{"flood of unknown frames", func(p *rawPeer) {
		flood(p, append(h2.AppendFrame(nil, 5, 0xbe, 0, 1), "hello"...))
	}, http2.ErrCodeEnhanceYourCalm},
	{"oversized frame", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, h2.FrameLimit+1))
	}, http2.ErrCodeFrameSize},
	{"tunnel window overflow", func(p *rawPeer) {
		repeat(2, func(int) error { return p.WriteWindowUpdate(0, h2.WindowLimit) })
	}, http2.ErrCodeFlowControl},
	{"tunnel window update by zero", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4))
	}, http2.ErrCodeProtocol},
	{"window update of an idle stream", func(p *rawPeer) {
		p.WriteWindowUpdate(77, 1)
	}, http2.ErrCodeProtocol},
	{"bad initial window", func(p *rawPeer) {
		p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
	}, http2.ErrCodeFlowControl},
	{"initial window that overflows an open stream", func(p *rawPeer) {
		p.WriteWindowUpdate(1, h2.WindowLimit-h2.DefaultWindow)
		p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2.WindowLimit})
	}, http2.ErrCodeFlowControl},
	{"bad frame size", func(p *rawPeer) {
		p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 100})
	}, http2.ErrCodeProtocol},
	{"bad push", func(p *rawPeer) {
		p.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2})
	}, http2.ErrCodeProtocol},
	{"SETTINGS of a crooked length", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5))
	}, http2.ErrCodeFrameSize},
	{"SETTINGS acknowledged with a payload", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameSettings, http2.FlagSettingsAck, 0, make([]byte, 6))
	}, http2.ErrCodeFrameSize},
	{"SETTINGS on a stream", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameSettings, 0, 1, nil)
	}, http2.ErrCodeProtocol},
	{"PING of a crooked length", func(p *rawPeer) {
		p.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7))
	}, http2.ErrCodeFrameSize},
	{"PING on a stream", func(p *rawPeer) {
		p.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8))
	}, http2.ErrCodeProtocol},
	{"PUSH_PROMISE", func(p *rawPeer) {
		p.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
	}, http2.ErrCodeProtocol},
	{"DATA without a stream", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameData, 0, 0, []byte("x"))
	}, http2.ErrCodeProtocol},
	{"DATA on an idle stream", func(p *rawPeer) {
		p.WriteData(99, false, []byte("x"))
	}, http2.ErrCodeProtocol},
	{"DATA with more padding than payload", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{9, 1, 2})
	}, http2.ErrCodeProtocol},
	{"padded DATA without the length", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, nil)
	}, http2.ErrCodeFrameSize},
	{"RST_STREAM of an idle stream", func(p *rawPeer) {
		p.WriteRSTStream(99, http2.ErrCodeCancel)
	}, http2.ErrCodeProtocol},
	{"HEADERS on an even stream", func(p *rawPeer) {
		p.writeHeaders(2, false, ":status", "200")
	}, http2.ErrCodeProtocol},
	{"CONTINUATION out of the blue", func(p *rawPeer) {
		p.WriteContinuation(1, true, nil)
	}, http2.ErrCodeProtocol},
	{"another frame inside a header block", func(p *rawPeer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x88}})
		p.WritePing(false, [8]byte{})
	}, http2.ErrCodeProtocol},
	{"CONTINUATION of another stream", func(p *rawPeer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x88}})
		p.WriteContinuation(5, true, nil)
	}, http2.ErrCodeProtocol},
	{"CONTINUATION flood", func(p *rawPeer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x88}})
		repeat(100000, func(int) error { return p.WriteContinuation(3, false, nil) })
	}, http2.ErrCodeEnhanceYourCalm},
	{"header block without end", func(p *rawPeer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: make([]byte, 16<<10-1)})
		repeat(5, func(int) error { return p.WriteContinuation(3, false, make([]byte, 16<<10)) })
	}, http2.ErrCodeEnhanceYourCalm},
	{"HPACK bomb", func(p *rawPeer) {
		// One large field enters the table, then bytes refer to it.
		block := p.headers("bomb", strings.Repeat("x", 3000))
		for range 100 {
			block = append(block, 0x80|62)
		}
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndHeaders: true})
	}, http2.ErrCodeEnhanceYourCalm},
	{"too many header fields", func(p *rawPeer) {
		var pairs []string
		for range h2.HeaderFieldLimit + 1 {
			pairs = append(pairs, "a", "b")
		}
		p.writeHeaders(3, false, pairs...)
	}, http2.ErrCodeEnhanceYourCalm},
	{"long header string", func(p *rawPeer) {
		p.writeHeaders(3, false, "baggage", strings.Repeat("x", h2.HeaderStringLimit+1))
	}, http2.ErrCodeEnhanceYourCalm},
	{"broken HPACK", func(p *rawPeer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true})
	}, http2.ErrCodeCompression},
	{"HPACK table larger than allowed", func(p *rawPeer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x3f, 0xe1, 0xff, 0x03}, EndHeaders: true})
	}, http2.ErrCodeCompression},
	{"short GOAWAY", func(p *rawPeer) {
		p.WriteRawFrame(http2.FrameGoAway, 0, 0, make([]byte, 7))
	}, http2.ErrCodeFrameSize},
	{"faults on end, each resetting a stream", func(p *rawPeer) {
		repeat(100000, func(i int) error { return faulty(p, i) })
	}, http2.ErrCodeEnhanceYourCalm},
}

// faulty makes the other side reset a stream for the peer's fault, if it is a
// server; a client's fault needs a stream of the client's.
func faulty(p *rawPeer, i int) error {
	id := uint32(101 + 2*i)
	if err := p.connect(id); err != nil {
		return err
	}
	return p.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
}

func TestListenerClosesTheTunnelOfAnAttacker(t *testing.T) {
	attacks := append([]attack{
		{"rapid reset", func(p *rawPeer) {
			repeat(100000, func(i int) error {
				id := uint32(3 + 2*i)
				return errors.Join(p.connect(id), p.WriteRSTStream(id, http2.ErrCodeCancel))
			})
		}, http2.ErrCodeEnhanceYourCalm},
		{"more streams than allowed, again and again", func(p *rawPeer) {
			repeat(100000, func(i int) error { return p.connect(uint32(3 + 2*i)) })
		}, http2.ErrCodeEnhanceYourCalm},
		{"flood of requests that are refused with 400", func(p *rawPeer) {
			repeat(1000000, func(i int) error {
				return p.writeHeaders(uint32(3+2*i), true, ":method", "GET", ":path", "/", ":scheme", "https", ":authority", "x")
			})
		}, http2.ErrCodeEnhanceYourCalm},
		{"stream ids that go down", func(p *rawPeer) {
			p.connect(9)
			p.WriteRSTStream(9, http2.ErrCodeCancel)
			p.connect(7)
		}, http2.ErrCodeStreamClosed},
	}, attacksOfAnyPeer...)
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			t.Parallel()
			l := newLink(t, nil)
			p := l.greetedClient()
			p.opened(1)
			go attack.do(p)
			p.wantGoAway(attack.want)
		})
	}
}

func TestPoolClosesTheTunnelOfAnAttacker(t *testing.T) {
	for _, attack := range attacksOfAnyPeer {
		if strings.HasPrefix(attack.name, "faults") {
			continue // needs more streams than a client would open for a peer that resets them
		}
		t.Run(attack.name, func(t *testing.T) {
			t.Parallel()
			finished := make(chan struct{})
			l := greetedServer(t, func(p *rawPeer) {
				defer close(finished)
				p.until(is[*http2.MetaHeadersFrame])
				p.must(p.writeHeaders(1, false, ":status", "200"))
				go attack.do(p)
				p.wantGoAway(attack.want)
			})
			s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
			if err == nil { // the answer was seen before what followed it
				err = carry(t, s).wait(t).err
			}
			<-finished
			if !errors.As(err, new(Cause)) {
				t.Errorf("stream ended with %v, want a cause", err)
			}
		})
	}
}

func TestFaultOfOneStreamLeavesTheOthers(t *testing.T) {
	for _, fault := range []struct {
		name string
		do   func(p *rawPeer)
		want http2.ErrCode
	}{
		{"window update by zero", func(p *rawPeer) {
			p.WriteRawFrame(http2.FrameWindowUpdate, 0, 3, make([]byte, 4))
		}, http2.ErrCodeProtocol},
		{"window overflow", func(p *rawPeer) {
			p.WriteWindowUpdate(3, h2.WindowLimit)
		}, http2.ErrCodeFlowControl},
		{"DATA after the end", func(p *rawPeer) {
			p.WriteData(3, true, nil)
			p.WriteData(3, false, []byte("more"))
		}, http2.ErrCodeStreamClosed},
		{"HEADERS after the end", func(p *rawPeer) {
			p.WriteData(3, true, nil)
			p.writeHeaders(3, true, "trailer", "x")
		}, http2.ErrCodeStreamClosed},
		{"HEADERS in the middle", func(p *rawPeer) {
			p.writeHeaders(3, false, "baggage", "x")
		}, http2.ErrCodeProtocol},
		{"more DATA than the window", func(p *rawPeer) {
			for range streamWindow/h2.FrameLimit + 1 {
				p.WriteData(3, false, make([]byte, h2.FrameLimit))
			}
		}, http2.ErrCodeFlowControl},
	} {
		t.Run(fault.name, func(t *testing.T) {
			serve := make(chan *Stream, 2)
			l := newLink(t, func(s *Stream) {
				s.Accept()
				serve <- s // nobody reads what comes
			})
			p := l.greetedClient()
			p.opened(1)
			p.opened(3)
			fault.do(p)
			p.wantReset(3, fault.want)
			p.wantAlive()
			first, second := <-serve, <-serve
			if second.id == 1 {
				first, second = second, first
			}
			<-second.Done()
			if err := second.result(); !errors.Is(err, ErrReset) {
				t.Errorf("stream ended with %v, want %v", err, ErrReset)
			}
			first.Reset()
		})
	}
}

func TestPeerMayFinishWhatItWasSendingOnAStreamWeReset(t *testing.T) {
	l := newLink(t, func(s *Stream) { s.Accept(); s.Reset() })
	p := l.greetedClient()
	p.opened(1)
	p.wantReset(1, http2.ErrCodeCancel)
	for range streamWindow / (64 << 10) {
		p.must(p.WriteData(1, false, make([]byte, 64<<10)))
	}
	p.wantAlive()
	go repeat(4, func(int) error { return p.WriteData(1, false, make([]byte, 64<<10)) })
	p.wantGoAway(http2.ErrCodeStreamClosed)
}

func TestTinyFramesCostNoMoreMemoryThanTheirBytes(t *testing.T) {
	served := make(chan *Stream, 1)
	l := newLink(t, func(s *Stream) { s.Accept(); served <- s })
	p := l.greetedClient()
	p.opened(1)
	const n = streamWindow / 1000 * 1000
	frames := make([]byte, 0, 10*1000)
	for range 1000 {
		frames = append(h2.AppendFrame(frames, 1, h2.KindData, 0, 1), 'x')
	}
	for range n / 1000 {
		p.do(p.conn.Write(frames))
	}
	p.wantAlive()
	s := <-served
	s.toApp.mu.Lock()
	size, held := s.toApp.waiting.size, memory(&s.toApp.waiting)
	s.toApp.mu.Unlock()
	if size != n || held > n+buffers.Largest() {
		t.Errorf("%d bytes are held in %d", size, held)
	}
	s.Reset()
}

func TestPeerThatDoesNotReadIsOwedOnlySoManyAnswers(t *testing.T) {
	c := newConn(false, nil, proof{}, &hooks{})
	c.writer.leading = true // as if a write were stuck
	var err error
	n := 0
	for ; err == nil; n++ {
		c.pings = rate.Left{}
		err = c.gotPing(h2.Piece{FrameHeader: h2.FrameHeader{Kind: h2.KindPing, Length: 8}, Payload: make([]byte, 8)})
	}
	var bad *tunnelError
	if !errors.As(err, &bad) || bad.Code != h2.CodeCalm || n != unflushedLimit+1 {
		t.Errorf("after %d PINGs: %v", n, err)
	}
	if !errors.Is(err, ErrLimit) {
		t.Errorf("%v is not %v", err, ErrLimit)
	}
}

func TestListenerRefusesStreamsOverTheLimitAndServesTheRest(t *testing.T) {
	l := newLink(t, func(s *Stream) { s.Accept(); <-s.Done(); s.Reset() })
	p := l.greetedClient()
	for i := range serverStreams {
		p.must(p.connect(uint32(1 + 2*i)))
	}
	over := uint32(1 + 2*serverStreams)
	p.must(p.connect(over))
	p.wantReset(over, http2.ErrCodeRefusedStream)
	p.must(p.WriteRSTStream(1, http2.ErrCodeCancel))
	p.must(p.connect(over + 2))
	p.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		return ok && h.StreamID == over+2
	})
}

func TestResettingAStreamDoesNotFreeThePlaceOfItsApp(t *testing.T) {
	let := make(chan struct{})
	l := newLink(t, func(s *Stream) { s.Accept(); <-let; s.Reset() })
	p := l.greetedClient()
	// Each is reset after its answer, so that no early-reset budget is used,
	// but its app is still being served.
	for i := range liveFactor * serverStreams {
		id := uint32(1 + 2*i)
		p.opened(id)
		p.must(p.WriteRSTStream(id, http2.ErrCodeCancel))
	}
	over := uint32(1 + 2*liveFactor*serverStreams)
	p.must(p.connect(over))
	p.wantReset(over, http2.ErrCodeRefusedStream)
	close(let)
}

func TestUnacceptedStreamsAreBounded(t *testing.T) {
	l := &link{t: t, ca: newAuthority(t)}
	cred := l.ca.credential(serverID, clientID, time.Hour)
	l.ln = startListener(t, ListenerConfig{
		Credential: func(context.Context) (Credential, error) { return cred, nil },
	})
	l.key.Addr = l.ln.Addr()
	for range acceptLimit / serverStreams {
		p := l.greetedClient()
		for i := range serverStreams {
			p.must(p.connect(uint32(1 + 2*i)))
		}
		p.wantAlive()
	}
	p := l.greetedClient()
	for i := range acceptLimit%serverStreams + 1 {
		p.must(p.connect(uint32(1 + 2*i)))
	}
	p.wantReset(uint32(1+2*(acceptLimit%serverStreams)), http2.ErrCodeRefusedStream)
}

func TestFirstFrameMustBeSettings(t *testing.T) {
	l := newLink(t, nil)
	p := l.rawClient()
	p.do(io.WriteString(p.conn, h2.Preface))
	p.must(p.WritePing(false, [8]byte{}))
	p.wantGoAway(http2.ErrCodeProtocol)

	p = l.rawClient()
	p.do(io.WriteString(p.conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	p.wantGoAway(http2.ErrCodeProtocol)
}

func TestUnknownFramesAndHeadersAreIgnored(t *testing.T) {
	l := newLink(t, nil)
	p := l.greetedClient()
	p.must(p.WriteRawFrame(0xfa, 0xff, 12, binary.BigEndian.AppendUint64(nil, 1)))
	p.must(p.WriteSettings(http2.Setting{ID: 0x99, Val: 1}))
	p.must(p.WritePriority(1, http2.PriorityParam{}))
	block := p.headers(":method", "CONNECT", ":authority", p.authority(), "x-unknown", "1", "baggage", "k8s.namespace.name=shop")
	p.must(p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block[:5], PadLength: 3, Priority: http2.PriorityParam{StreamDep: 9, Weight: 1},
	}))
	p.must(p.WriteContinuation(1, false, block[5:20]))
	p.must(p.WriteContinuation(1, true, block[20:]))
	p.until(is[*http2.MetaHeadersFrame])
	p.must(p.WriteDataPadded(1, false, []byte("padded"), make([]byte, 200)))
	f := p.until(is[*http2.DataFrame]).(*http2.DataFrame)
	if string(f.Data()) != "padded" {
		t.Errorf("echo is %q", f.Data())
	}
}
