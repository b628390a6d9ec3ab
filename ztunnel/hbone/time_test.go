// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// bubble is a Pool and a Listener joined by net.Pipe, so that their hours pass
// in no time. Streams have no apps.
type bubble struct {
	t    *testing.T
	ca   *authority
	pool *Pool
	ln   *Listener
	key  Key
	ttl  time.Duration // of the certificates that both ends get next

	mu      sync.Mutex
	dials   int
	down    bool         // dials fail
	port    uint16       // of the last dial
	mute    *atomic.Bool // the network takes everything and delivers nothing
	arrived chan *Stream // accepted at the listener
}

// inBubble runs a test in synctest's bubble.
func inBubble(t *testing.T, ttl time.Duration, test func(t *testing.T, b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, ca: newAuthority(t), ttl: ttl, mute: new(atomic.Bool), arrived: make(chan *Stream, 16)}
		b.key = Key{serverID, netip.MustParseAddrPort("10.0.0.2:15008")}
		b.ln = NewListener(nil, ListenerConfig{
			Credential: func(context.Context) (Credential, error) {
				return b.ca.credential(serverID, clientID, b.ttl), nil
			},
		})
		b.pool = NewPool(PoolConfig{
			Credential: func(context.Context, Key) (Credential, error) {
				return b.ca.credential(clientID, serverID, b.ttl), nil
			},
		})
		b.pool.connect = func(context.Context, Key) (net.Conn, error) { return b.dial() }
		go func() {
			for {
				s, err := b.ln.Accept(context.Background())
				if err != nil {
					return
				}
				s.Accept()
				b.arrived <- s
			}
		}()
		defer func() {
			b.pool.Close()
			b.ln.Close()
		}()
		test(t, b)
	})
}

func (b *bubble) dial() (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dials++
	if b.down {
		return nil, errors.New("no route")
	}
	near, far := b.pipe()
	b.ln.begin(far)
	return near, nil
}

// unreachable has later dials fail.
func (b *bubble) unreachable() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
}

// forget has the network forget the connections of now, and not those that come.
func (b *bubble) forget() {
	b.mute.Store(true)
	b.mute = new(atomic.Bool)
}

// addressed is an end of a net.Pipe with the addresses of a socket.
type addressed struct {
	net.Conn
	local, remote netip.AddrPort
	mute          *atomic.Bool
}

func (a addressed) Write(b []byte) (int, error) {
	if a.mute.Load() {
		return len(b), nil
	}
	return a.Conn.Write(b)
}

func (a addressed) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(a.local) }
func (a addressed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(a.remote) }

func (b *bubble) pipe() (near, far net.Conn) {
	near, far = net.Pipe()
	b.port++
	from := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 40000+b.port)
	return addressed{near, from, b.key.Addr, b.mute}, addressed{far, b.key.Addr, from, b.mute}
}

// open opens a stream and returns its two ends.
func (b *bubble) open() (near, far *Stream) {
	b.t.Helper()
	s, err := b.pool.Open(b.t.Context(), b.key, Target{Authority: netip.AddrPortFrom(b.key.Addr.Addr(), 8080)})
	if err != nil {
		b.t.Fatal(err)
	}
	return s, <-b.arrived
}

func (b *bubble) countDials() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dials
}

func (b *bubble) setDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

// pass lets time pass and everything settle.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

func wantOpen(t *testing.T, streams ...*Stream) {
	t.Helper()
	for _, s := range streams {
		select {
		case <-s.Done():
			t.Fatalf("stream ended with %v", s.result())
		default:
		}
	}
}

func wantEnd(t *testing.T, s *Stream, want error) {
	t.Helper()
	select {
	case <-s.Done():
		if err := s.result(); !errors.Is(err, want) {
			t.Fatalf("stream ended with %v, want %v", err, want)
		}
	default:
		t.Fatal("stream is still open")
	}
}

func TestIdleTunnelIsReleasedAfterFiveMinutes(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.open()
		pass(time.Hour) // in use, with nothing but PINGs
		wantOpen(t, near, far)
		near.Reset()
		pass(4 * time.Minute)
		if n := b.pool.Stats().Tunnels; n != 1 {
			t.Errorf("%d tunnels", n)
		}
		pass(2 * time.Minute)
		if n := b.pool.Stats().Tunnels + b.ln.Stats().Tunnels; n != 0 {
			t.Errorf("%d tunnels", n)
		}
		if len(b.pool.keys) != 0 {
			t.Error("key is kept")
		}
	})
}

func TestListenerReleasesATunnelThatItsPeerLeavesIdle(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bubble) {
		b.pool.cfg.IdleTimeout = time.Hour
		near, _ := b.open()
		near.Reset()
		pass(11 * time.Minute)
		if n := b.pool.Stats().Tunnels + b.ln.Stats().Tunnels; n != 0 {
			t.Errorf("%d tunnels", n)
		}
	})
}

// raw is a raw peer behind a pipe: the client of the bubble's listener, or with
// server the server of its pool.
func (b *bubble) raw(server bool) *rawPeer {
	near, far := b.pipe()
	if server {
		b.pool.connect = func(context.Context, Key) (net.Conn, error) { return near, nil }
		conn := tls.Server(far, b.ca.credential(serverID, clientID, b.ttl).Config)
		return b.rawOver(conn)
	}
	b.ln.begin(far)
	conn := tls.Client(near, b.ca.credential(clientID, serverID, b.ttl).Config)
	if err := conn.Handshake(); err != nil {
		b.t.Fatal(err)
	}
	return b.rawOver(conn)
}

func (b *bubble) rawOver(conn *tls.Conn) *rawPeer {
	p := newRawPeer(b.t, conn)
	conn.SetDeadline(time.Time{})
	return p
}

func TestSilentPeerIsGivenUpTwentySecondsAfterAPing(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(false)
		start := time.Now()
		go func() {
			io.WriteString(p.conn, h2.Preface)
			p.alone(func() error { return p.WriteSettings() })
		}()
		pings := 0
		for {
			f, err := p.ReadFrame()
			if err != nil {
				break
			}
			if is[*http2.PingFrame](f) {
				pings++
			}
		}
		if lived := time.Since(start); lived != 30*time.Second || pings != 2 {
			t.Errorf("tunnel lived %v with %d PINGs", lived, pings)
		}
	})
}

func TestPoolGivesUpASilentPeer(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(true)
		go func() {
			io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
			p.alone(func() error { return p.WriteSettings() })
			p.until(is[*http2.MetaHeadersFrame])
			p.writeHeaders(1, false, ":status", "200")
			io.Copy(io.Discard, p.conn)
		}()
		s, err := b.pool.Open(t.Context(), b.key, Target{Authority: b.key.Addr})
		if err != nil {
			t.Fatal(err)
		}
		pass(29 * time.Second)
		wantOpen(t, s)
		pass(time.Second)
		wantEnd(t, s, ErrReset)
	})
}

func TestPeerMustGreetInTime(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(false)
		start := time.Now()
		p.wantGoAway(http2.ErrCodeSettingsTimeout)
		if took := time.Since(start); took != settingsTimeout {
			t.Errorf("took %v", took)
		}
	})
}

func TestPeerMustFinishAHeaderBlockInTime(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(false)
		go func() {
			io.WriteString(p.conn, h2.Preface)
			p.alone(func() error { return p.WriteSettings() })
		}()
		go func() {
			time.Sleep(5 * time.Second)
			p.alone(func() error {
				return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
			})
		}()
		begin := time.Now()
		p.wantGoAway(http2.ErrCodeEnhanceYourCalm)
		if took := time.Since(begin); took != 5*time.Second+headerTimeout {
			t.Errorf("took %v", took)
		}
	})
}

// A byte now and then shows that the peer is alive, and does not put off the end.
func TestPeerMustFinishAFrameInTime(t *testing.T) {
	for name, begin := range map[string][]byte{
		"HEADERS":  h2.AppendFrame(nil, 64<<10, h2.KindHeaders, h2.FlagEndHeaders, 1),
		"SETTINGS": h2.AppendFrame(nil, 60, h2.KindSettings, 0, 0),
		"unknown":  h2.AppendFrame(nil, 64<<10, 0xbe, 0, 1),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				p := b.raw(false)
				go func() {
					io.WriteString(p.conn, h2.Preface)
					p.alone(func() error { return p.WriteSettings() })
					time.Sleep(5 * time.Second)
					p.say(begin)
					for range headerTimeout/time.Second - 1 {
						time.Sleep(time.Second)
						p.say([]byte{0})
					}
				}()
				began := time.Now()
				p.wantGoAway(http2.ErrCodeEnhanceYourCalm)
				if took := time.Since(began); took != 5*time.Second+headerTimeout {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// Whatever is finished in time may be followed by the beginning of the next.
func TestEachFrameHasItsOwnTime(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(false)
		ping := append(h2.AppendFrame(nil, 8, h2.KindPing, h2.FlagAck, 0), make([]byte, 8)...)
		go func() {
			io.WriteString(p.conn, h2.Preface)
			p.alone(func() error { return p.WriteSettings() })
			half := len(ping) - 4
			p.say(ping[:half])
			for range 10 { // the rest, and the beginning of one more
				time.Sleep(headerTimeout - time.Second)
				p.say(slices.Concat(ping[half:], ping[:half]))
			}
			p.say(ping[half:])
			time.Sleep(2 * headerTimeout)
			p.alone(func() error { return p.WritePing(false, [8]byte{'s'}) })
		}()
		p.until(func(f http2.Frame) bool {
			ping, ok := f.(*http2.PingFrame)
			return ok && ping.IsAck() && ping.Data == [8]byte{'s'}
		})
	})
}

// say writes bytes that need not be whole frames.
func (p *rawPeer) say(b []byte) {
	p.alone(func() error {
		_, err := p.conn.Write(b)
		return err
	})
}

func TestHandshakeMustFinishInTime(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.pipe()
		begin := time.Now()
		b.ln.begin(far)
		io.Copy(io.Discard, near)
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("listener waited %v", took)
		}

		b.pool.connect = func(context.Context, Key) (net.Conn, error) {
			near, far := b.pipe()
			go io.Copy(io.Discard, far)
			return near, nil
		}
		begin = time.Now()
		_, err := b.pool.Open(t.Context(), b.key, Target{Authority: b.key.Addr})
		if took := time.Since(begin); took != 10*time.Second || !errors.Is(err, ErrTLS) {
			t.Errorf("pool waited %v: %v", took, err)
		}
	})
}

func TestAnswerMustComeInTime(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(true)
		go func() {
			io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
			p.alone(func() error { return p.WriteSettings() })
			p.answerPings()
		}()
		begin := time.Now()
		_, err := b.pool.Open(t.Context(), b.key, Target{Authority: b.key.Addr})
		if took := time.Since(begin); took != 20*time.Second || !errors.Is(err, ErrDial) {
			t.Errorf("waited %v: %v", took, err)
		}
	})
}

func TestOpenKeepsItsDeadlineWhateverItWaitsFor(t *testing.T) {
	for name, obstruct := range map[string]func(b *bubble){
		"a certificate": func(b *bubble) {
			b.pool.cfg.Credential = func(ctx context.Context, _ Key) (Credential, error) {
				<-ctx.Done()
				return Credential{}, ctx.Err()
			}
		},
		"a dial": func(b *bubble) {
			b.pool.connect = func(ctx context.Context, _ Key) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		},
		"a handshake":                  func(b *bubble) { b.mute.Store(true) },
		"a peer that allows no stream": func(b *bubble) { b.shutServer(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				obstruct(b)
				begin := time.Now()
				_, err := b.openWithin(3 * time.Second)
				if took := time.Since(begin); took != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}

func TestDenialEndsStreamsAtOnce(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.open()
		b.ln.Retire(Denied)
		synctest.Wait()
		wantEnd(t, far, ErrDenied)
		wantEnd(t, near, ErrDenied) // the peer says why
		near, far = b.open()
		b.pool.Retire(Denied)
		synctest.Wait()
		wantEnd(t, near, ErrDenied)
		wantEnd(t, far, ErrDenied)
	})
}

func TestDrainGivesStreamsUntilItsDeadline(t *testing.T) {
	type drainer interface{ Drain(context.Context) }
	for _, side := range []string{"pool", "listener"} {
		t.Run(side, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				var who drainer = b.pool
				if side == "listener" {
					who = b.ln
				}
				near, far := b.open()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				begin := time.Now()
				go func() {
					pass(4 * time.Second)
					wantOpen(t, near, far)
				}()
				who.Drain(ctx)
				if took := time.Since(begin); took < 5*time.Second || took > 6*time.Second {
					t.Errorf("drain took %v", took)
				}
				synctest.Wait()
				if side == "pool" {
					wantEnd(t, near, ErrDrained)
				} else {
					wantEnd(t, far, ErrDrained)
				}
			})
		})
	}
}

func TestListenerDrainEndsWithItsLastStream(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.open()
		begin := time.Now()
		go func() {
			pass(3 * time.Second)
			wantOpen(t, near, far)
			if _, err := b.pool.Open(t.Context(), b.key, Target{Authority: b.key.Addr}); err == nil {
				t.Error("a draining listener took a stream")
			}
			near.Reset()
		}()
		b.ln.Drain(t.Context())
		if took := time.Since(begin); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("drain took %v", took)
		}
		if _, err := b.ln.Accept(t.Context()); !errors.Is(err, ErrDrained) {
			t.Errorf("Accept: %v", err)
		}
	})
}

// GOAWAY comes twice: a request that crosses the first is still served.
func TestRequestThatCrossesAGoAwayIsServed(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(false)
		go func() {
			io.WriteString(p.conn, h2.Preface)
			p.alone(func() error { return p.WriteSettings() })
			p.connectTo(1, b.key.Addr)
		}()
		p.until(is[*http2.MetaHeadersFrame])
		<-b.arrived
		go b.ln.Retire(Rotated)
		f := p.until(is[*http2.GoAwayFrame]).(*http2.GoAwayFrame)
		if f.LastStreamID != h2.WindowLimit || f.ErrCode != http2.ErrCodeNo {
			t.Errorf("first GOAWAY %v %v", f.LastStreamID, f.ErrCode)
		}
		go p.connectTo(3, b.key.Addr)
		p.until(is[*http2.MetaHeadersFrame])
		far := <-b.arrived
		f = p.until(is[*http2.GoAwayFrame]).(*http2.GoAwayFrame)
		if f.LastStreamID != 3 || f.ErrCode != http2.ErrCodeNo {
			t.Errorf("second GOAWAY %v %v", f.LastStreamID, f.ErrCode)
		}
		go p.connectTo(5, b.key.Addr)
		go func() {
			for {
				f, err := p.ReadFrame()
				if err != nil {
					return
				}
				if f.Header().StreamID == 5 {
					t.Errorf("answer to a stream after the last: %v", f)
				}
			}
		}()
		pass(5 * time.Second)
		wantOpen(t, far)
		p.conn.NetConn().Close()
		synctest.Wait()
		wantEnd(t, far, ErrReset)
	})
}
