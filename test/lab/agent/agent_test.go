// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start runs an agent in this process; only its pipes are as in a pod.
func start(t *testing.T) *Client {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Serve(inR, outW)
		outW.Close()
	}()
	c := NewClient(outR, inW)
	t.Cleanup(func() {
		c.Close()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	return c
}

func local(network string) Socket {
	if network == "tcp6" {
		return Socket{Network: network, Bind: netip.MustParseAddrPort("[::1]:0")}
	}
	return Socket{Network: network, Bind: netip.MustParseAddrPort("127.0.0.1:0")}
}

func TestAnEchoComesBackUnderTheNamesBothEndsSee(t *testing.T) {
	c, ctx := start(t), t.Context()
	for _, network := range []string{"tcp4", "tcp6"} {
		srv, err := c.Serve(ctx, Server{Socket: local(network), Kind: Echo})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.Dial(ctx, network, srv.Addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(ctx, "hello"); err != nil {
			t.Error(err)
		}
		served, err := srv.Served(ctx)
		if err != nil || len(served) != 1 {
			t.Fatalf("served %v, %v", served, err)
		}
		if served[0].Peer != conn.Local() || served[0].Local != conn.Peer() {
			t.Errorf("%s: server saw %v, client %v", network, served[0].Names, conn.names)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDatagramsAreEchoed(t *testing.T) {
	c, ctx := start(t), t.Context()
	srv, err := c.Serve(ctx, Server{Socket: local("udp4"), Kind: Echo})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial(ctx, "udp4", srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Send(ctx, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got, err := conn.Receive(ctx, 100); err != nil || string(got) != "hello" {
		t.Errorf("received %q, %v", got, err)
	}
}

func TestAFailedConnectKeepsItsErrno(t *testing.T) {
	c, ctx := start(t), t.Context()
	ln, err := c.Listen(ctx, local("tcp4"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]Connect{
		"non-blocking": {To: ln.Addr},
		"blocking":     {To: ln.Addr, Blocking: true},
		"fast open":    {To: ln.Addr, FastOpen: []byte("x")},
	} {
		_, err := c.DialWith(ctx, Socket{Network: "tcp4"}, to)
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s connect to a closed port: %v", name, err)
		}
		var e *Error
		if !errors.As(err, &e) || e.Name != "ECONNREFUSED" || e.Elapsed <= 0 {
			t.Errorf("%s: error %+v", name, e)
		}
	}
}

func TestTransfersBothWaysAreByteExact(t *testing.T) {
	c, ctx := start(t), t.Context()
	const size = 8 << 20
	ln, err := c.Listen(ctx, local("tcp4"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Dial(ctx, "tcp4", ln.Addr)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	far := make(chan Transferred)
	go func() {
		got, err := b.Transfer(ctx, Transfer{Send: size, Seed: 2, Receive: -1})
		if err != nil {
			t.Error(err)
		}
		far <- got
	}()
	near, err := a.Transfer(ctx, Transfer{Send: size, Seed: 1, Receive: -1})
	if err != nil {
		t.Error(err)
	}
	if got := <-far; got.ReceivedHash != StreamHash(1, size) || near.ReceivedHash != StreamHash(2, size) {
		t.Errorf("near %+v, far %+v", near, got)
	}
}

func TestATransferInTinyWritesIsTheSameBytes(t *testing.T) {
	c, ctx := start(t), t.Context()
	const size = 100_000
	srv, err := c.Serve(ctx, Server{Socket: local("tcp4"), Kind: Echo})
	if err != nil {
		t.Fatal(err)
	}
	for _, turns := range []bool{false, true} {
		conn, err := c.Dial(ctx, "tcp4", srv.Addr)
		if err != nil {
			t.Fatal(err)
		}
		got, err := conn.Transfer(ctx, Transfer{Send: size, Seed: 1, Tiny: 200, Turns: turns, Receive: -1})
		if err != nil || got.Received != size || got.ReceivedHash != StreamHash(1, size) || got.SentHash != got.ReceivedHash {
			t.Errorf("by turns %v: %+v, %v", turns, got, err)
		}
	}
}

func TestServersOfEachKind(t *testing.T) {
	c, ctx := start(t), t.Context()
	talk := func(kind Kind, text string) (string, error) {
		srv, err := c.Serve(ctx, Server{Socket: local("tcp4"), Kind: kind, Size: 5, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.Dial(ctx, "tcp4", srv.Addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Send(ctx, []byte(text)); err != nil {
			return "", err
		}
		if err := conn.CloseWrite(); err != nil {
			return "", err
		}
		all, err := io.ReadAll(conn)
		return strings.ReplaceAll(string(all), conn.Local().String(), "ME"), err
	}
	stream := make([]byte, 5)
	_, _ = io.ReadFull(Stream(7), stream)
	for kind, want := range map[Kind]string{
		Echo:       "abc",
		SpeakFirst: "you are ME\nabc",
		Sink:       "3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n",
		Discard:    "",
		Source:     string(stream),
	} {
		if got, err := talk(kind, "abc"); err != nil || got != want {
			t.Errorf("%s answered %q, %v; want %q", kind, got, err, want)
		}
	}
	srv, err := c.Serve(ctx, Server{Socket: local("tcp4"), Kind: HTTP})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Get(ctx, Request{URL: "http://" + srv.Addr.String() + "/healthz"})
	if err != nil || answer.Status != 200 || !strings.HasPrefix(answer.Body, "you are 127.0.0.1:") {
		t.Errorf("http: %+v, %v", answer, err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}

func TestAResetReachesTheClient(t *testing.T) {
	c, ctx := start(t), t.Context()
	srv, err := c.Serve(ctx, Server{Socket: local("tcp4"), Kind: Reset})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial(ctx, "tcp4", srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Send(ctx, []byte("abc")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Receive(ctx, 1); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("receive: %v", err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	c := start(t)
	ln, err := c.Listen(t.Context(), local("tcp4"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := ln.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("accept: %v", err)
	}
	conn, err := c.Dial(t.Context(), "tcp4", ln.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := conn.Send(t.Context(), []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send on a closed socket: %v", err)
	}
}

func TestACrowdIsHeldAndMeasured(t *testing.T) {
	c, ctx := start(t), t.Context()
	srv, err := c.Serve(ctx, Server{Socket: local("tcp4"), Kind: Echo})
	if err != nil {
		t.Fatal(err)
	}
	crowd, err := c.Many(ctx, Many{Network: "tcp4", To: srv.Addr, Count: 200})
	if err != nil || crowd.OK != 200 || len(crowd.Failed) != 0 {
		t.Fatalf("many: %+v, %v", crowd, err)
	}
	again, err := c.ManyCheck(ctx, crowd.ID)
	if err != nil || again.OK != 200 {
		t.Errorf("check: %+v, %v", again, err)
	}
	if err := c.ManyClose(ctx, crowd.ID); err != nil {
		t.Error(err)
	}
	m := Measure{Network: "tcp4", To: srv.Addr, Duration: 300 * time.Millisecond}
	if q, err := c.Latency(ctx, m); err != nil || q.Count == 0 || q.P50 > q.P99 {
		t.Errorf("latency: %+v, %v", q, err)
	}
	if q, err := c.Connects(ctx, m); err != nil || q.Count == 0 {
		t.Errorf("connects: %+v, %v", q, err)
	}
	sink, err := c.Serve(ctx, Server{Socket: local("tcp4"), Kind: Discard})
	if err != nil {
		t.Fatal(err)
	}
	m.To, m.Streams = sink.Addr, 2
	if got, err := c.Throughput(ctx, m); err != nil || got.Gbps() == 0 {
		t.Errorf("throughput: %+v, %v", got, err)
	}
}
