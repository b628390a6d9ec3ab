// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// link is a Pool and a Listener on loopback, with an app behind each stream
// that arrives.
type link struct {
	t    testing.TB
	ca   *authority
	pool *Pool
	ln   *Listener
	key  Key

	dials  atomic.Int64
	served sync.WaitGroup
}

// newLink starts one. serve is given each accepted stream, to answer and carry;
// nil means echo.
func newLink(t testing.TB, serve func(*Stream)) *link {
	t.Helper()
	l := &link{t: t, ca: newAuthority(t)}
	server := l.ca.credential(serverID, clientID, time.Hour)
	l.ln = startListener(t, ListenerConfig{
		Credential: func(context.Context) (Credential, error) { return server, nil },
	})
	l.key = Key{serverID, addrPort(l.ln.ln.Addr())}
	client := l.ca.credential(clientID, serverID, time.Hour)
	l.pool = NewPool(PoolConfig{
		Dial: l.dial,
		Credential: func(context.Context, Key) (Credential, error) {
			return client, nil
		},
	})
	t.Cleanup(l.pool.Close)
	if serve == nil {
		serve = l.echo
	}
	l.acceptAll(serve)
	return l
}

func startListener(t testing.TB, cfg ListenerConfig) *Listener {
	t.Helper()
	ln := NewListener(listenTCP(t), cfg)
	var running sync.WaitGroup
	running.Go(func() {
		if err := ln.Run(context.Background()); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return ln
}

func listenTCP(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func (l *link) dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	l.dials.Add(1)
	return dialTCP(ctx, to)
}

func dialTCP(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (l *link) acceptAll(serve func(*Stream)) {
	l.served.Go(func() {
		for {
			s, err := l.ln.Accept(context.Background())
			if err != nil {
				return
			}
			l.served.Go(func() { serve(s) })
		}
	})
	l.t.Cleanup(func() {
		l.pool.Close()
		l.ln.Close()
		l.served.Wait()
	})
}

// echo is an app that sends back what it gets.
func (l *link) echo(s *Stream) {
	near, far := socketPair(l.t)
	l.served.Go(func() {
		defer far.Close()
		if _, err := io.Copy(far, far); err == nil {
			far.CloseWrite()
		}
	})
	if err := s.Accept(); err != nil {
		near.Close()
		return
	}
	s.Carry(near)
}

// socketPair is two ends of a loopback TCP connection.
func socketPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed := make(chan *net.TCPConn, 1)
	go func() {
		conn, err := net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
		if err != nil {
			t.Error(err)
		}
		dialed <- conn
	}()
	far, err = ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return <-dialed, far
}

// result is what a Carry returned.
type result struct {
	totals Totals
	err    error
}

// app is the program at the client's end of a stream.
type app struct {
	*net.TCPConn
	s      *Stream
	result chan result
}

// open opens a stream and puts an app on it.
func (l *link) open() *app {
	l.t.Helper()
	return l.openKey(l.key)
}

func (l *link) openKey(key Key) *app {
	l.t.Helper()
	s, err := l.pool.Open(context.Background(), key, l.target(key))
	if err != nil {
		l.t.Fatal(err)
	}
	return carry(l.t, s)
}

func (l *link) target(key Key) Target {
	return Target{Authority: netip.AddrPortFrom(key.Addr.Addr(), 8080)}
}

func carry(t testing.TB, s *Stream) *app {
	t.Helper()
	near, far := socketPair(t)
	a := &app{far, s, make(chan result, 1)}
	go func() {
		totals, err := s.Carry(near)
		a.result <- result{totals, err}
	}()
	t.Cleanup(func() { far.Close() })
	return a
}

// wait returns how the stream ended.
func (a *app) wait(t testing.TB) result {
	t.Helper()
	select {
	case r := <-a.result:
		a.result <- r
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("Carry does not return")
		panic("unreachable")
	}
}
