// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// patience bounds every wait of a test; nothing waits this long when all is well.
const patience = 30 * time.Second

// tcpPair is the two ends of one loopback connection.
func tcpPair(t *testing.T) (dialed, accepted *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err = ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{conn, accepted} {
		c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
	}
	return conn, accepted
}

// relayed is a relay under way between two programs.
type relayed struct {
	t      *testing.T
	client *net.TCPConn // the program on the app side
	server *net.TCPConn // the program on the far side
	legs   [2]*net.TCPConn
	bytes  *tally
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // once done is closed
}

func startRelay(t *testing.T) *relayed { return startRelayOf(t, nil) }

func startRelayOf(t *testing.T, share *Share) *relayed {
	t.Helper()
	client, app := tcpPair(t)
	far, server := tcpPair(t)
	app.SetDeadline(time.Time{})
	far.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancelCause(context.Background())
	r := &relayed{t: t, client: client, server: server, legs: [2]*net.TCPConn{app, far}, bytes: &tally{}, cancel: cancel, done: make(chan struct{})}
	go relay(ctx, app, far, r.bytes, share, func(err error) {
		r.err = err
		close(r.done) // a second time would panic
	})
	t.Cleanup(func() { cancel(errors.New("test over")); <-r.done })
	return r
}

// end waits for the relay.
func (r *relayed) end() error {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatal("the relay does not end")
	}
	return r.err
}

// running fails the test if the relay has ended.
func (r *relayed) running() {
	r.t.Helper()
	select {
	case <-r.done:
		r.t.Fatalf("the relay ended: %v", r.err)
	default:
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func send(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != want {
		t.Fatalf("got %q, %v; want %q", buf, err, want)
	}
}

func expectEOF(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("got %d bytes, %v; want the end", n, err)
	}
}

func expectReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v; want a reset", err)
	}
}

// expectBroken waits for a reset on an end whose incoming side has ended: what
// reads as an end of data breaks the pipe for what it would still send.
func expectBroken(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err, over := awaitHangUp(conn); !over || !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("got %v; want a broken pipe", err)
	}
}

func TestRelayCarriesBothWaysAndCountsAsItGoes(t *testing.T) {
	r := startRelay(t)
	send(t, r.server, "220 hello\r\n") // server speaks first
	expect(t, r.client, "220 hello\r\n")
	send(t, r.client, "EHLO\r\n")
	expect(t, r.server, "EHLO\r\n")
	// Counted right after the write that the other end has just read.
	eventually(t, "6 bytes sent and 11 received are counted of an open connection", func() bool {
		return r.bytes.sent.Load() == 6 && r.bytes.received.Load() == 11
	})
	r.running()
	r.client.Close()
	r.server.Close()
	if err := r.end(); err != nil {
		t.Errorf("ended by %v", err)
	}
}

func TestRelayPassesHalfCloseOnAndKeepsTheOtherDirection(t *testing.T) {
	for _, row := range []struct {
		name string
		ends func(*relayed) (first, second *net.TCPConn)
	}{
		{"client first", func(r *relayed) (_, _ *net.TCPConn) { return r.client, r.server }},
		{"server first", func(r *relayed) (_, _ *net.TCPConn) { return r.server, r.client }},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := startRelay(t)
			first, second := row.ends(r)
			send(t, first, "request")
			first.CloseWrite()
			expect(t, second, "request")
			expectEOF(t, second)
			r.running()
			for range 3 {
				send(t, second, "answer")
				expect(t, first, "answer")
			}
			second.CloseWrite()
			expectEOF(t, first)
			if err := r.end(); err != nil {
				t.Errorf("ended by %v", err)
			}
		})
	}
}

func TestRelayPassesAResetOn(t *testing.T) {
	for _, row := range []struct {
		name string
		ends func(*relayed) (breaks, other *net.TCPConn)
	}{
		{"client", func(r *relayed) (_, _ *net.TCPConn) { return r.client, r.server }},
		{"server", func(r *relayed) (_, _ *net.TCPConn) { return r.server, r.client }},
	} {
		t.Run(row.name+" resets", func(t *testing.T) {
			r := startRelay(t)
			breaks, other := row.ends(r)
			send(t, breaks, "x")
			expect(t, other, "x")
			reset(breaks)
			expectReset(t, other)
			if err := r.end(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("ended by %v", err)
			}
		})
		t.Run(row.name+" resets after its half-close", func(t *testing.T) {
			r := startRelay(t)
			breaks, other := row.ends(r)
			breaks.CloseWrite()
			expectEOF(t, other)
			r.running()
			reset(breaks) // the other end is silent: only a watcher can notice
			expectBroken(t, other)
			if err := r.end(); err == nil {
				t.Error("ended without an error")
			}
		})
	}
}

// The kernel tells a socket's error once: whoever writes may hear of a reset
// before who reads, for whom it then looks like an end of data.
func TestRelayTakesNoResetForAnEndOfData(t *testing.T) {
	for range 50 {
		r := startRelay(t)
		chunk := bytes.Repeat([]byte("bulk"), 1<<16)
		broke := make(chan error, 1)
		go func() {
			for {
				if _, err := r.server.Write(chunk); err != nil {
					broke <- err
					return
				}
			}
		}()
		if _, err := io.ReadFull(r.client, make([]byte, len(chunk))); err != nil {
			t.Fatal(err)
		}
		reset(r.client)
		if err := <-broke; !errors.Is(err, syscall.ECONNRESET) { // EPIPE, had an end of data come before it
			t.Fatalf("the other end is told %v, want a reset", err)
		}
		r.end()
	}
}

// A process that is gone does not answer for its half-open connection: what a
// keepalive probe finds out ends the relay although the far end never closes.
func TestRelayEndsWhenAHalfClosedProcessIsGone(t *testing.T) {
	r := startRelay(t)
	fast := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}
	if err := r.legs[0].SetKeepAliveConfig(fast); err != nil {
		t.Fatal(err)
	}
	setLinger2(t, r.client)
	r.client.Close() // FIN, and a second later nobody remembers the connection
	expectEOF(t, r.server)
	if err := r.end(); err == nil {
		t.Error("ended without an error")
	}
	expectBroken(t, r.server)
}

// setLinger2 makes the kernel forget a closed connection after one second.
func setLinger2(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if err := syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_LINGER2, 1); err != nil {
			t.Error(err)
		}
	})
}

func TestRelayResetsBothEndsWhenItsContextEnds(t *testing.T) {
	r := startRelay(t)
	send(t, r.client, "x")
	expect(t, r.server, "x")
	cause := errors.New("policy changed")
	r.cancel(cause)
	expectReset(t, r.client)
	expectReset(t, r.server)
	if err := r.end(); err != cause {
		t.Errorf("ended by %v, want the cause", err)
	}
}

func TestRelayIsCancelledWhileItWatches(t *testing.T) {
	r := startRelay(t)
	r.client.CloseWrite()
	expectEOF(t, r.server)
	r.cancel(errors.New("drained"))
	expectBroken(t, r.server)
	r.end()
}

func TestRelayHoldsLittleForASlowReader(t *testing.T) {
	r := startRelay(t)
	r.client.SetWriteBuffer(64 << 10)
	const limit = 64 << 20
	var wrote int
	chunk := make([]byte, 64<<10)
	for wrote < limit {
		r.client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := r.client.Write(chunk)
		wrote += n
		if err != nil {
			break // nothing takes any more: back-pressure has arrived
		}
	}
	if wrote >= limit {
		t.Fatalf("%d bytes went in while nobody read", wrote)
	}
	// The kernel's socket buffers hold what they hold; our part is the pipe.
	sent := int(r.bytes.sent.Load())
	r.client.CloseWrite()
	n, err := io.Copy(io.Discard, r.server)
	if err != nil || int(n) != wrote {
		t.Errorf("%d bytes came out of %d (%d had passed before): %v", n, wrote, sent, err)
	}
}

func TestRelayIsByteExactBothWaysAtOnce(t *testing.T) {
	size := 64 << 20
	if testing.Short() {
		size = 8 << 20
	}
	r := startRelay(t)
	var wg sync.WaitGroup
	story := func(seed uint64, from, to *net.TCPConn) {
		want, got := sha256.New(), sha256.New()
		wg.Go(func() {
			var key [32]byte
			key[0] = byte(seed)
			noise := rand.New(rand.NewChaCha8(key))
			buf := make([]byte, 100_003)
			for left := size; left > 0; {
				n := min(left, 1+int(noise.Uint64N(uint64(len(buf)))))
				for i := range n {
					buf[i] = byte(i) ^ byte(left>>8)
				}
				want.Write(buf[:n])
				from.SetDeadline(time.Now().Add(patience))
				if _, err := from.Write(buf[:n]); err != nil {
					t.Error(err)
					return
				}
				left -= n
			}
			from.CloseWrite()
		})
		wg.Go(func() {
			if n, err := io.Copy(got, to); err != nil || int(n) != size {
				t.Errorf("%d bytes of %d: %v", n, size, err)
			}
		})
		t.Cleanup(func() {
			if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
				t.Error("the bytes changed on the way")
			}
		})
	}
	story(1, r.client, r.server)
	story(2, r.server, r.client)
	wg.Wait()
	if err := r.end(); err != nil {
		t.Errorf("ended by %v", err)
	}
	if sent, received := r.bytes.sent.Load(), r.bytes.received.Load(); sent != uint64(size) || received != uint64(size) {
		t.Errorf("counted %d and %d bytes of %d", sent, received, size)
	}
}
