// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

func TestListenerAnswersWhatIsNotForItWith400(t *testing.T) {
	l := newLink(t, func(s *Stream) { t.Errorf("stream to %v", s.Target()); s.Reset() })
	p := l.greetedClient()
	for i, pairs := range [][]string{
		{":method", "GET", ":scheme", "https", ":path", "/", ":authority", p.authority()},
		{":method", "CONNECT", ":authority", "db.shop.svc.cluster.local:80"},
		{":method", "CONNECT", ":authority", "127.0.0.1"},
		{":method", "CONNECT", ":authority", "127.0.0.1:0"},
		{":method", "CONNECT", ":authority", "127.0.0.2:80"}, // another pod's
		{":method", "CONNECT", ":authority", "[::1]:80"},
	} {
		id := uint32(1 + 2*i)
		p.must(p.writeHeaders(id, false, pairs...))
		f := p.until(is[*http2.MetaHeadersFrame]).(*http2.MetaHeadersFrame)
		if f.StreamID != id || f.PseudoValue("status") != "400" || !f.StreamEnded() {
			t.Errorf("%v: %v", pairs, f.Fields)
		}
		p.wantReset(id, http2.ErrCodeNo) // and no need to send the rest
	}
	p.wantAlive()
}

func TestListenerTakesMappedAddressesForTheirIPv4(t *testing.T) {
	l := newLink(t, nil)
	p := l.greetedClient()
	p.must(p.writeHeaders(1, false, ":method", "CONNECT", ":authority", "[::ffff:127.0.0.1]:80"))
	if f := p.until(is[*http2.MetaHeadersFrame]).(*http2.MetaHeadersFrame); f.PseudoValue("status") != "200" {
		t.Errorf("%v", f.Fields)
	}
}

func TestRejectTellsTheStatus(t *testing.T) {
	for status, cause := range map[int]Cause{401: ErrDenied, 503: ErrDial, 400: ErrDial} {
		l := newLink(t, func(s *Stream) {
			if err := s.Reject(status); err != nil {
				t.Error(err)
			}
		})
		_, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
		var got *StatusError
		if !errors.As(err, &got) || got.Code != status || !errors.Is(err, cause) {
			t.Errorf("status %d: %v", status, err)
		}
		var word Cause
		if !errors.As(err, &word) || word != cause {
			t.Errorf("status %d: word %q, want %q", status, word, cause)
		}
		if l.pool.Stats().Streams != 0 || l.ln.Stats().Streams != 0 {
			t.Error("stream is still open")
		}
	}
}

func TestStreamThatItsPeerGaveUpIsNotAccepted(t *testing.T) {
	l := newLink(t, nil)
	l.ln.Close()
	l.served.Wait()

	ca := newAuthority(t)
	cred := ca.credential(serverID, clientID, time.Hour)
	ln := startListener(t, ListenerConfig{Credential: func(context.Context) (Credential, error) { return cred, nil }})
	fresh := &link{t: t, ca: ca, key: Key{serverID, ln.Addr()}}
	p := fresh.greetedClient()
	p.must(p.connect(1))
	p.must(p.WriteRSTStream(1, http2.ErrCodeCancel))
	p.must(p.connect(3))
	p.wantAlive()
	s, err := ln.Accept(context.Background())
	if err != nil || s.id != 3 {
		t.Fatalf("stream %v, %v", s, err)
	}
	s.Reset()
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	l := newLink(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.ln.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ca := newAuthority(t)
	cred := ca.credential(serverID, clientID, time.Hour)
	ln := NewListener(listenTCP(t), ListenerConfig{
		Credential: func(context.Context) (Credential, error) { return cred, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	running := make(chan error)
	go func() { running <- ln.Run(ctx) }()
	l := &link{t: t, ca: ca, key: Key{serverID, ln.Addr()}}
	p := l.greetedClient()
	p.must(p.connect(1))
	s, err := ln.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s.Accept()
	cancel()
	if err := <-running; err != nil {
		t.Error(err)
	}
	if <-s.Done(); !errors.Is(s.result(), ErrDrained) {
		t.Error(s.result())
	}
	p.wantGoAway(http2.ErrCodeNo)
}

func TestListenerWithoutACredentialTurnsPeersAway(t *testing.T) {
	refused := make(chan error, 1)
	ln := startListener(t, ListenerConfig{
		Credential: func(context.Context) (Credential, error) { return Credential{}, errors.New("no SVID") },
		Refused:    func(_ netip.AddrPort, why error) { refused <- why },
	})
	l := newLink(t, nil)
	key := Key{serverID, ln.Addr()}
	if _, err := l.pool.Open(context.Background(), key, l.target(key)); !errors.Is(err, ErrTLS) {
		t.Error(err)
	}
	if err := <-refused; !errors.Is(err, ErrIdentity) {
		t.Errorf("refused for %v, want %v", err, ErrIdentity)
	}
}

func TestListenerNeedsACertificateOfThePeer(t *testing.T) {
	l := newLink(t, nil)
	config := l.ca.credential(clientID, serverID, time.Hour).Config
	config.Certificates = nil
	conn, err := tls.Dial("tcp", l.key.Addr.String(), config)
	if err != nil {
		t.Fatal(err) // with TLS 1.3 a client learns of it only by reading
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = conn.Read(make([]byte, 1))
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" {
		t.Errorf("read: %v, want an alert", err)
	}
}

func TestOverloadedListenerTurnsNewPeersAway(t *testing.T) {
	l := newLink(t, nil)
	l.ln.mu.Lock()
	l.ln.cfg.MaxTunnels = 1
	l.ln.mu.Unlock()
	a := l.open()
	l.pool.Retire(Rotated)
	if _, err := l.pool.Open(context.Background(), l.key, l.target(l.key)); !errors.Is(err, ErrTLS) && !errors.Is(err, ErrDial) {
		t.Error(err) // by a reset, which may even come before connect(2) returns
	}
	if n := l.ln.Stats().Shed; n == 0 { // twice, if a request was refused before it was written
		t.Errorf("%d shed", n)
	}
	a.write("x")
	a.wantRead("x")
}

// Go's own HTTP/2 server as the peer of our Pool: windows, frame sizes and
// flow of another implementation.
func TestPoolWorksWithGosServer(t *testing.T) {
	l := &link{t: t, ca: newAuthority(t)}
	ln := listenTCP(t)
	server := &http.Server{
		TLSConfig: l.ca.credential(serverID, clientID, time.Hour).Config,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodConnect || r.Header.Get("Baggage") == "" {
				t.Errorf("%s %v", r.Method, r.Header)
			}
			control := http.NewResponseController(w)
			control.Flush()
			buf := make([]byte, 32<<10)
			for {
				n, err := r.Body.Read(buf)
				w.Write(buf[:n])
				control.Flush()
				if err != nil {
					return
				}
			}
		}),
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.ServeTLS(ln, "", "") })
	client := l.ca.credential(clientID, serverID, time.Hour)
	pool := NewPool(PoolConfig{
		Dial:       l.dial,
		Credential: func(context.Context, Key) (Credential, error) { return client, nil },
	})
	t.Cleanup(func() {
		pool.Close()
		server.Close()
		serving.Wait()
	})

	key := Key{serverID, socket.AddrPort(ln.Addr())}
	target := l.target(key)
	target.Header.Baggage = "k8s.namespace.name=shop"
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			s, err := pool.Open(context.Background(), key, target)
			if err != nil {
				t.Error(err)
				return
			}
			a := carry(t, s)
			data := pattern(uint64(i), 3<<20)
			go func() {
				a.Write(data)
				a.CloseWrite()
			}()
			got, err := io.ReadAll(a)
			if err != nil || string(got) != string(data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if r := a.wait(t); r.err != nil {
				t.Error(r.err)
			}
		})
	}
	all.Wait()
}

// Go's own HTTP/2 client as the peer of our Listener.
func TestListenerWorksWithGosClient(t *testing.T) {
	l := newLink(t, nil)
	transport := &http.Transport{
		TLSClientConfig:   l.ca.credential(clientID, serverID, time.Hour).Config,
		ForceAttemptHTTP2: true,
	}
	cc, err := transport.NewClientConn(context.Background(), "https", l.key.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			body, send := io.Pipe()
			req, err := http.NewRequest(http.MethodConnect, "https://"+l.target(l.key).Authority.String(), body)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := cc.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Error(resp, err)
				return
			}
			defer resp.Body.Close()
			data := pattern(uint64(i), 3<<20)
			go func() {
				send.Write(data)
				send.Close()
			}()
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != string(data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
}

// RFC 9113 §3.4: a server begins with SETTINGS, and so does one that is retired
// between its handshake and its first word.
func TestATunnelGreetsBeforeItSaysAnythingElse(t *testing.T) {
	l, far := newPipe(t)
	l.open()
	older := (<-far).s.c
	older.mu.Lock() // at which the listener waits when it has shaken hands
	p := l.rawClient()
	var younger *conn
	waitUntil(t, func() bool {
		for _, c := range l.ln.all() {
			if c != older {
				younger = c
			}
		}
		return younger != nil
	})
	younger.retire()
	older.mu.Unlock()
	p.do(io.WriteString(p.conn, h2.Preface))
	p.must(p.WriteSettings())
	if f, err := p.ReadFrame(); err != nil || !isSettings(f) {
		t.Errorf("its first frame is %v, %v", f, err)
	}
}
