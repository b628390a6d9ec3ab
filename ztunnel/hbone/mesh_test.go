// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
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
	return newLinkOf(t, testRecords(), serve)
}

// testRecords is whose records the tests use: HBONE_RECORDS=std runs all of
// them over crypto/tls.
func testRecords() Records {
	if os.Getenv("HBONE_RECORDS") == "std" {
		return StdRecords
	}
	return OwnRecords
}

func newLinkOf(t testing.TB, records Records, serve func(*Stream)) *link {
	t.Helper()
	return newLinkBy(t, newAuthority(t), records, serve)
}

func newLinkBy(t testing.TB, ca *authority, records Records, serve func(*Stream)) *link {
	t.Helper()
	l := &link{t: t, ca: ca}
	server := l.ca.credential(serverID, clientID, time.Hour)
	l.ln = startListener(t, ListenerConfig{
		Records:    records,
		Credential: func(context.Context) (Credential, error) { return server, nil },
	})
	l.key = Key{serverID, l.ln.Addr()}
	client := l.ca.credential(clientID, serverID, time.Hour)
	l.pool = NewPool(PoolConfig{
		Dial:    l.dial,
		Records: records,
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
	carryAll(s, near)
}

// carryAll is Carry that returns when all is over.
func carryAll(s *Stream, near *net.TCPConn) (Totals, error) {
	over := make(chan result, 1)
	s.Carry(near, func(totals Totals, err error) { over <- result{totals, err} })
	r := <-over
	return r.totals, r.err
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
	t      testing.TB
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
	return carryOn(t, s, near, far)
}

func carryOn(t testing.TB, s *Stream, near, far *net.TCPConn) *app {
	a := &app{far, t, s, make(chan result, 1)}
	go func() {
		totals, err := carryAll(s, near)
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
	case <-time.After(patience):
		t.Fatal("Carry does not return")
		panic("unreachable")
	}
}

// newPipe is a link whose far apps are given to the test, in the order of opens.
func newPipe(t testing.TB) (*link, <-chan *app) {
	t.Helper()
	far := make(chan *app, 16)
	l := newLink(t, func(s *Stream) {
		if s.Accept() == nil {
			far <- carry(t, s)
		}
	})
	return l, far
}

const patience = 30 * time.Second

func (a *app) do(_ int, err error) {
	a.t.Helper()
	if err != nil {
		a.t.Error(err)
	}
}

func (a *app) write(text string) {
	a.t.Helper()
	a.do(a.Write([]byte(text)))
}

func (a *app) wantRead(want string) {
	a.t.Helper()
	a.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(a, got); err != nil || string(got) != want {
		a.t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

func (a *app) wantEOF() {
	a.t.Helper()
	a.SetReadDeadline(time.Now().Add(patience))
	if n, err := a.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		a.t.Fatalf("read %d bytes, %v, want EOF", n, err)
	}
}

func (a *app) wantReset() {
	a.t.Helper()
	a.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, a); !errors.Is(err, syscall.ECONNRESET) {
		a.t.Fatalf("read ended with %v, want a reset", err)
	}
}

// wantAliveWith shows that bytes flow in both directions.
func (a *app) wantAliveWith(b *app) {
	a.t.Helper()
	a.write("there")
	b.wantRead("there")
	b.write("and back")
	a.wantRead("and back")
}

// waitUntil waits for what another goroutine is about to make true.
func waitUntil(t testing.TB, is func() bool) {
	t.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatal("does not become true")
		case <-again.C:
		}
	}
}

// fill writes until the far app, which does not read, can be sent no more, and
// returns how much that was.
func (a *app) fill(far *app) int {
	a.t.Helper()
	written := make(chan int)
	go func() {
		n := 0
		for chunk := make([]byte, 64<<10); ; {
			m, err := a.Write(chunk)
			if n += m; err != nil {
				written <- n
				return
			}
		}
	}()
	waitUntil(a.t, func() bool {
		a.s.c.writer.mu.Lock()
		full := a.s.sendWindow <= 0
		a.s.c.writer.mu.Unlock()
		far.s.c.mu.Lock()
		defer far.s.c.mu.Unlock()
		return full && far.s.held >= far.s.limit/4 // the rest was taken and is not granted again yet
	})
	a.SetWriteDeadline(time.Unix(1, 0))
	defer a.SetWriteDeadline(time.Time{})
	return <-written
}

// memory is what a queue really holds.
func memory(q *queue) int {
	n := 0
	for _, s := range q.segments {
		n += len(s.buf.Bytes)
	}
	return n
}
