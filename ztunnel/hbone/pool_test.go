// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestConcurrentOpensOfOneKeyDialOnce(t *testing.T) {
	l := newLink(t, nil)
	var all sync.WaitGroup
	for range clientStreams {
		all.Go(func() { l.open() })
	}
	all.Wait()
	if n := l.dials.Load(); n != 1 {
		t.Errorf("%d dials", n)
	}
	if stats := l.pool.Stats(); stats.Tunnels != 1 || stats.Streams != clientStreams {
		t.Errorf("%+v", stats)
	}
}

func TestPoolNeverSharesATunnelAcrossIdentities(t *testing.T) {
	l := newLink(t, nil)
	l.pool.cfg.Credential = func(_ context.Context, key Key) (Credential, error) {
		return l.ca.credential(clientID, key.Dst, time.Hour), nil
	}
	a := l.open()
	for range 2 {
		other := Key{otherID, l.key.Addr} // the same address, but who is there is not whom we want
		s, err := l.pool.Open(context.Background(), other, l.target(other))
		if !errors.Is(err, ErrTLS) {
			t.Fatalf("stream %v, error %v, want %v", s, err, ErrTLS)
		}
		if !Shown(err) {
			t.Errorf("the other showed its certificate: %v", err)
		}
	}
	if a.s.Peer() != serverID {
		t.Errorf("peer is %v", a.s.Peer())
	}
	if n := l.dials.Load(); n != 3 {
		t.Errorf("%d dials, want one for each attempt", n)
	}
}

// Even a credential that lets everybody pass does not.
func TestPoolChecksThePeerItself(t *testing.T) {
	l := newLink(t, nil)
	l.pool.cfg.Credential = func(context.Context, Key) (Credential, error) {
		return l.ca.credential(clientID, Key{}.Dst, time.Hour), nil
	}
	other := Key{otherID, l.key.Addr}
	if _, err := l.pool.Open(context.Background(), other, l.target(other)); !errors.Is(err, ErrTLS) || !Shown(err) {
		t.Fatalf("error %v, want %v", err, ErrTLS)
	}
}

func TestFullTunnelIsJoinedByAnother(t *testing.T) {
	l := newLink(t, nil)
	var apps []*app
	for range clientStreams + 1 {
		apps = append(apps, l.open())
	}
	if stats := l.pool.Stats(); stats.Tunnels != 2 {
		t.Errorf("%+v", stats)
	}
	apps[0].CloseWrite()
	apps[0].wantEOF()
	apps[0].wait(t)
	l.open()
	l.open()
	if stats := l.pool.Stats(); stats.Tunnels != 2 {
		t.Errorf("%+v", stats)
	}
}

// answerAll answers every request of a raw server's tunnel and reads on until it ends.
func answerAll(p *rawPeer) {
	for {
		f, err := p.find(is[*http2.MetaHeadersFrame])
		if err != nil {
			return
		}
		p.must(p.writeHeaders(f.Header().StreamID, false, ":status", "200", "baggage", "k8s.namespace.name=shop"))
	}
}

func TestPeersStreamLimitIsKept(t *testing.T) {
	l := greetedServer(t, answerAll, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 3})
	l.open() // by its answer, the limit is known
	for range 5 {
		l.open()
	}
	if stats := l.pool.Stats(); stats.Tunnels != 2 || stats.Streams != 6 {
		t.Errorf("%+v", stats)
	}
}

func TestPeerThatRefusesOurCertificate(t *testing.T) {
	l := newLink(t, nil)
	l.pool.cfg.Credential = func(_ context.Context, key Key) (Credential, error) {
		return l.ca.credential(otherID, key.Dst, time.Hour), nil
	}
	_, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if !errors.Is(err, ErrTLS) || !Shown(err) || l.dials.Load() != 1 {
		t.Errorf("error %v after %d dials", err, l.dials.Load())
	}
}

func TestPeerMustSpeakHTTP2(t *testing.T) {
	l := newLink(t, nil)
	cred := l.ca.credential(clientID, serverID, time.Hour)
	cred.Config.NextProtos = nil
	l.pool.cfg.Credential = func(context.Context, Key) (Credential, error) { return cred, nil }
	if _, err := l.pool.Open(context.Background(), l.key, l.target(l.key)); !errors.Is(err, ErrTLS) || !Shown(err) {
		t.Errorf("error %v", err)
	}
}

func TestRefusedDialTellsItsErrno(t *testing.T) {
	l := newLink(t, nil)
	l.ln.Close()
	_, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if !errors.Is(err, ErrDial) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v", err)
	}
}

func TestWithoutACredentialNothingIsDialled(t *testing.T) {
	l := newLink(t, nil)
	reason := errors.New("no SVID yet")
	l.pool.cfg.Credential = func(context.Context, Key) (Credential, error) { return Credential{}, reason }
	_, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if !errors.Is(err, ErrIdentity) || !errors.Is(err, reason) || l.dials.Load() != 0 {
		t.Errorf("error %v after %d dials", err, l.dials.Load())
	}
}

func TestOpenGivesUpWithItsContext(t *testing.T) {
	reason := errors.New("app is gone")
	reached := make(chan struct{}, 1)
	l := greetedServer(t, func(p *rawPeer) {
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			if is[*http2.MetaHeadersFrame](f) {
				reached <- struct{}{}
			}
			if r, ok := f.(*http2.RSTStreamFrame); ok {
				if r.ErrCode != http2.ErrCodeCancel {
					t.Errorf("reset with %v", r.ErrCode)
				}
				reached <- struct{}{}
			}
		}
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		<-reached
		cancel(reason)
	}()
	if _, err := l.pool.Open(ctx, l.key, l.target(l.key)); !errors.Is(err, reason) {
		t.Errorf("error %v", err)
	}
	<-reached
}

func TestHeadersArriveAtTheOtherEnd(t *testing.T) {
	target := Target{Header: Header{
		Baggage:     "k8s.namespace.name=shop,service.name=web",
		Forwarded:   `for="10.0.0.1:4711";host=db.shop.svc.cluster.local`,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
	}}
	got := make(chan *Stream, 1)
	l := newLink(t, func(s *Stream) { s.Accept(); got <- s })
	target.Authority = netip.AddrPortFrom(l.key.Addr.Addr(), 5432)
	client, err := l.pool.Open(context.Background(), l.key, target)
	if err != nil {
		t.Fatal(err)
	}
	s := <-got
	defer s.Reset()
	if s.Header() != target.Header || s.Target() != target.Authority || s.Peer() != clientID {
		t.Errorf("got %+v for %v from %v", s.Header(), s.Target(), s.Peer())
	}
	if s.RemoteAddr() != client.LocalAddr() || s.LocalAddr() != client.RemoteAddr() || s.LocalAddr() != l.key.Addr {
		t.Errorf("tunnel is %v-%v here and %v-%v there", client.LocalAddr(), client.RemoteAddr(), s.LocalAddr(), s.RemoteAddr())
	}
}

func TestAnswersHeadersAreSeenAndInterimAnswersAreNot(t *testing.T) {
	l := greetedServer(t, func(p *rawPeer) {
		f := p.until(is[*http2.MetaHeadersFrame]).(*http2.MetaHeadersFrame)
		if f.PseudoValue("method") != "CONNECT" || f.PseudoValue("path") != "" || f.PseudoValue("scheme") != "" {
			t.Errorf("request %v", f.Fields)
		}
		p.must(p.writeHeaders(1, false, ":status", "103"))
		p.must(p.writeHeaders(1, false, ":status", "200", "baggage", "service.name=db"))
		p.must(p.WriteData(1, true, []byte("hello")))
		p.find(func(http2.Frame) bool { return false })
	})
	s, err := l.pool.Open(t.Context(), l.key, l.target(l.key))
	if err != nil {
		t.Fatal(err)
	}
	if h := s.Header(); h.Baggage != "service.name=db" {
		t.Errorf("%+v", h)
	}
	a := carry(t, s)
	a.wantRead("hello")
	a.wantEOF()
	if h := s.Header(); h.Baggage != "" {
		t.Errorf("%+v is kept for as long as the stream is open", h)
	}
}

// Go's own HTTP/2 sends RST_STREAM(NO_ERROR) when it has answered in full and
// wants no more of the request.
func TestPeerThatHasSentAllMayStopReadingWithoutHarm(t *testing.T) {
	l := greetedServer(t, func(p *rawPeer) {
		p.until(is[*http2.MetaHeadersFrame])
		p.must(p.writeHeaders(1, false, ":status", "200"))
		p.must(p.WriteData(1, true, []byte("all of it")))
		p.must(p.WriteRSTStream(1, http2.ErrCodeNo))
		p.find(func(http2.Frame) bool { return false })
	})
	a := l.open()
	a.wantRead("all of it")
	a.wantEOF()
	if r := a.wait(t); r.err != nil || r.totals.Received != 9 {
		t.Errorf("%+v", r)
	}
}

func TestPoolRetiresItsTunnelsForYoungerOnes(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.open(), <-far
	l.pool.Retire(Rotated)
	younger, c := l.open(), <-far
	if younger.s.c == a.s.c {
		t.Error("stream was opened in a retired tunnel")
	}
	a.wantAliveWith(b)
	a.CloseWrite()
	b.CloseWrite()
	a.wait(t)
	b.wait(t)
	a.s.c.ended.Wait() // with its last stream
	younger.wantAliveWith(c)

	l.pool.Retire(Denied)
	younger.wantReset()
	if r := younger.wait(t); !errors.Is(r.err, ErrDenied) {
		t.Errorf("Carry returned %v, want %v", r.err, ErrDenied)
	}
	c.wantReset()
}

// Credentials that change during a handshake are not to be used any more.
func TestRetireVoidsDialsUnderWay(t *testing.T) {
	l := newLink(t, nil)
	once := sync.OnceFunc(func() { l.pool.Retire(Rotated) })
	l.pool.connect = func(ctx context.Context, key Key) (net.Conn, error) {
		once()
		return l.pool.dialTCP(ctx, key)
	}
	a := l.open()
	if n := l.dials.Load(); n != 2 {
		t.Errorf("%d dials", n)
	}
	a.write("x")
	a.wantRead("x")
}

func TestPoolDrainsWhenItsStreamsHaveEnded(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.open(), <-far
	drained := make(chan struct{})
	go func() {
		l.pool.Drain(context.Background())
		close(drained)
	}()
	waitUntil(t, func() bool {
		l.pool.mu.Lock()
		defer l.pool.mu.Unlock()
		return l.pool.closed
	})
	if _, err := l.pool.Open(context.Background(), l.key, l.target(l.key)); !errors.Is(err, ErrDrained) {
		t.Errorf("error %v, want %v", err, ErrDrained)
	}
	a.wantAliveWith(b)
	a.CloseWrite()
	b.CloseWrite()
	<-drained
	if r := a.wait(t); r.err != nil {
		t.Error(r.err)
	}
}

func TestPoolDrainEndsWithItsContext(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.open(), <-far
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.pool.Drain(ctx)
	if r := a.wait(t); !errors.Is(r.err, ErrDrained) {
		t.Errorf("Carry returned %v, want %v", r.err, ErrDrained)
	}
	b.wantReset()
	a.wantReset()
	if stats := l.pool.Stats(); stats.Tunnels != 0 {
		t.Errorf("%+v", stats)
	}
}

func TestTunnelsOfManyKeysAreForgotten(t *testing.T) {
	l := newLink(t, nil)
	for i := range 5 {
		key := Key{serverID, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)}), l.key.Addr.Port())}
		if _, err := l.pool.Open(context.Background(), key, l.target(key)); err == nil {
			t.Fatalf("nobody listens at %v", key.Addr)
		}
	}
	if n := len(l.pool.keys); n != 0 {
		t.Errorf("%d keys are kept", n)
	}
}

func TestPingsAreAnswered(t *testing.T) {
	l := greetedServer(t, func(p *rawPeer) {
		p.until(is[*http2.MetaHeadersFrame])
		p.wantAlive()
		p.must(p.writeHeaders(1, true, ":status", "200"))
		io.Copy(io.Discard, p.conn)
	})
	a := l.open()
	a.wantEOF()
}

func TestTunnelThatUsedUpItsStreamIDsIsReplaced(t *testing.T) {
	l := newLink(t, nil)
	a := l.open()
	a.s.c.mu.Lock()
	a.s.c.nextID = streamIDLimit + 1
	a.s.c.mu.Unlock()
	b := l.open()
	if a.s.c == b.s.c {
		t.Errorf("stream %d was opened", b.s.id)
	}
	a.write("still works")
	a.wantRead("still works")
}
