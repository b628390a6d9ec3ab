// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Law 7: what is refused here leaves a record here.
func TestRequestsThatNobodyAcceptsAreReported(t *testing.T) {
	ca := newAuthority(t)
	cred := ca.credential(serverID, clientID, time.Hour)
	refused := make(chan error, 2*acceptLimit)
	ln := startListener(t, ListenerConfig{
		Records:    testRecords(),
		MaxStreams: 3,
		Credential: func(context.Context) (Credential, error) { return cred, nil },
		Refused:    func(_ netip.AddrPort, err error) { refused <- err },
	})
	l := &link{t: t, ca: ca, key: Key{serverID, ln.Addr()}}
	p := l.greetedClient()
	want := func(what string, cause Cause) {
		t.Helper()
		select {
		case err := <-refused:
			var word Cause
			if !errors.As(err, &word) || word != cause {
				t.Errorf("%s: reported as %v, want %v", what, err, cause)
			}
		case <-time.After(patience):
			t.Fatalf("%s: not reported", what)
		}
	}

	p.must(p.writeHeaders(1, false, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", p.authority()))
	want("status 400", ErrDial)
	p.must(p.writeHeaders(3, false, "x", "y", ":method", "CONNECT"))
	want("malformed", ErrReset)

	p.must(p.connect(5))
	p.must(p.WriteRSTStream(5, http2.ErrCodeCancel))
	for _, id := range []uint32{7, 9, 11} {
		p.must(p.connect(id))
	}
	waitUntil(t, func() bool {
		c := ln.all()[0]
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.lastPeer == 11
	})
	s, err := ln.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if s.id != 7 {
		t.Errorf("stream %d", s.id)
	}
	defer s.Reset()
	want("given up", ErrReset)

	p.must(p.connect(13))
	want("over the limit", ErrLimit)

	ln.Close()
	want("queued at Close", ErrDrained)
	want("queued at Close", ErrDrained)
	if len(refused) != 0 {
		t.Errorf("reported beside: %v", <-refused)
	}
}

func TestRequestsThatFindTheQueueFullAreReported(t *testing.T) {
	l := &link{t: t, ca: newAuthority(t)}
	cred := l.ca.credential(serverID, clientID, time.Hour)
	refused := make(chan error, 2*acceptLimit)
	ln := startListener(t, ListenerConfig{
		MaxStreams: 2 * acceptLimit,
		Credential: func(context.Context) (Credential, error) { return cred, nil },
		Refused:    func(_ netip.AddrPort, err error) { refused <- err },
	})
	l.key.Addr = ln.Addr()
	p := l.greetedClient()
	for i := range acceptLimit + 1 {
		p.must(p.connect(uint32(1 + 2*i)))
	}
	if err := <-refused; !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
}
