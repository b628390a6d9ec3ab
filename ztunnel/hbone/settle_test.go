// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// lastWordsToADeafServer has a client say its last words to a server that has finished,
// and that reads nothing: they lie in the kernels in front of it. Both have said all
// then, and the tunnel has acknowledged it.
func lastWordsToADeafServer(t *testing.T) (l *link, client, server *app, said []byte) {
	t.Helper()
	far := make(chan *app, 1)
	l = newLink(t, func(s *Stream) {
		if s.Accept() == nil {
			near, end := socketPair(t)
			end.SetReadBuffer(32 << 10)
			far <- carryOn(t, s, near, end)
		}
	})
	client, server = l.open(), <-far
	server.CloseWrite()
	client.wantEOF()
	said = pattern(11, 150<<10)
	client.do(client.Write(said))
	client.CloseWrite()
	waitUntil(t, server.s.isOver)
	if r := client.wait(t); r.err != nil {
		t.Errorf("the client's Carry, whose peer acknowledged all: %v", r.err)
	}
	<-server.s.Done()
	select {
	case r := <-server.result:
		t.Fatalf("Carry returned before the server has it: %v", r.err)
	case <-time.After(5 * proofPause): // it would at once
	}
	return l, client, server, said
}

func TestCarryReturnsWhenTheAppHasAcknowledgedAll(t *testing.T) {
	_, _, server, said := lastWordsToADeafServer(t)
	before := time.Now()
	server.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, said) {
		t.Errorf("the server read %d of %d bytes, %v", len(got), len(said), err)
	}
	if r := server.wait(t); r.err != nil || r.totals.Received != uint64(len(said)) {
		t.Errorf("Carry: %+v", r)
	}
	if !server.s.Ended().Before(before) {
		t.Error("the stream counts as open until then")
	}
}

func TestNoStreamEndsInOrderWhoseAppDiedBeforeItHadAll(t *testing.T) {
	_, _, server, _ := lastWordsToADeafServer(t)
	server.Close() // with bytes unread
	if r := server.wait(t); !errors.Is(r.err, ErrReset) {
		t.Errorf("Carry: %v", r.err)
	}
}

// Neither policy nor a drain that is over waits for an app.
func TestAnAppThatIsSlowToAcknowledgeIsNotWaitedForByWhoEndsItsStream(t *testing.T) {
	for name, row := range map[string]struct {
		end  func(*link, *app)
		want error
	}{
		"by a change of policy": {func(_ *link, server *app) { server.s.Close(ErrDenied) }, ErrDenied},
		"by a reset":            {func(_ *link, server *app) { server.s.Reset() }, ErrReset},
		"by the Listener's end": {func(l *link, _ *app) { l.ln.Close() }, ErrDrained},
		"by a drain": {func(l *link, _ *app) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			l.ln.Drain(ctx)
		}, ErrDrained},
		"by the identity's end": {func(l *link, _ *app) { l.ln.Retire(Denied) }, ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			l, _, server, _ := lastWordsToADeafServer(t)
			row.end(l, server)
			began := time.Now()
			if r := server.wait(t); !errors.Is(r.err, row.want) {
				t.Errorf("Carry: %v, want %v", r.err, row.want)
			}
			if waited := time.Since(began); waited > socket.Standstill/2 {
				t.Errorf("it took %v", waited)
			}
		})
	}
}

func TestAnAppIsWaitedForAsLongAsItGetsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Stream{c: newConn(true, nowhere{}, proof{peer: serverID}, &hooks{})}
		began, stops := time.Now(), 10
		wait := func() error {
			return s.patiently(func() (left int, gone bool) { // which acknowledges a byte in ten seconds
				return stops - min(int(time.Since(began)/(socket.Standstill*2/3)), 7), false
			}, time.Sleep)
		}
		if err := wait(); !errors.Is(err, ErrReset) {
			t.Errorf("an app that stops: %v", err)
		}
		if waited := time.Since(began); waited < 7*socket.Standstill*2/3+socket.Standstill || waited > 7*socket.Standstill*2/3+socket.Standstill+time.Second {
			t.Errorf("it stopped after %v and was given up after %v", 7*socket.Standstill*2/3, waited)
		}
		began, stops = time.Now(), 7
		if err := wait(); err != nil {
			t.Errorf("an app that goes on: %v", err)
		}
	})
}
