// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// A server that does not want the rest of a request answers, closes with bytes
// unread, and so resets: whoever still writes to it hears of that first.
func TestRelayPassesAnAnswerOnBeforeTheResetBehindIt(t *testing.T) {
	answer := bytes.Repeat([]byte("too large "), 150)
	for range 200 {
		r := startRelay(t)
		go func() {
			for range 100 {
				if _, err := r.client.Write(make([]byte, 10)); err != nil {
					return
				}
			}
		}()
		if _, err := io.ReadFull(r.server, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.server.Write(answer); err != nil {
			t.Fatal(err)
		}
		r.server.Close()
		if got, _ := io.ReadAll(r.client); !bytes.Equal(got, answer) {
			t.Fatalf("%d bytes of %d", len(got), len(answer))
		}
		r.client.Close()
		r.end()
	}
}

// unread has the server say more than the client, which does not read, has room
// for: the rest is in the relay's kernel.
func (r *relayed) unread() (said []byte) {
	r.t.Helper()
	r.client.SetReadBuffer(16 << 10)
	said = bytes.Repeat([]byte("unread"), 24<<10)
	if _, err := r.server.Write(said); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "all was passed on", func() bool { return r.bytes.received.Load() == uint64(len(said)) })
	if unacked(r.legs[0]) == 0 {
		r.t.Fatal("the client's kernel has room for all")
	}
	return said
}

func TestRelayResetsNobodyBeforeItHasAll(t *testing.T) {
	r := startRelay(t)
	said := r.unread()
	reset(r.server)
	got, err := io.ReadAll(r.client)
	if !bytes.Equal(got, said) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes of %d, and %v", len(got), len(said), err)
	}
	if err := r.end(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("ended by %v", err)
	}
}

func TestRelayThatIsCancelledWaitsForNobody(t *testing.T) {
	r := startRelay(t)
	r.unread()
	reset(r.server)
	cause := errors.New("policy changed")
	r.cancel(cause)
	if err := r.end(); err != cause && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("ended by %v", err)
	}
}

// Both ends have said all, and the client takes its time.
func TestRelayThatIsCancelledWaitsForNobodyAtItsEnd(t *testing.T) {
	r := startRelay(t)
	r.unread()
	r.client.CloseWrite()
	r.server.Close()
	eventually(t, "the server's connection has ended", func() bool { return isClosed(r.legs[1]) })
	eventually(t, "both directions have ended", func() bool { return r.relaying() == nil })
	cause := errors.New("policy changed")
	began := time.Now()
	r.cancel(cause)
	if err := r.end(); err != cause {
		t.Errorf("ended by %v", err)
	}
	if took := time.Since(began); took > socket.Standstill/2 {
		t.Errorf("after %v", took)
	}
}

func TestRelayEndsWhenWhatItPassedOnIsAcknowledged(t *testing.T) {
	r := startRelay(t)
	said := r.unread()
	r.client.CloseWrite()
	r.server.Close()
	eventually(t, "the server's connection has ended", func() bool { return isClosed(r.legs[1]) })
	r.running()
	if got, err := io.ReadAll(r.client); err != nil || !bytes.Equal(got, said) {
		t.Errorf("%d bytes of %d, and %v", len(got), len(said), err)
	}
	if err := r.end(); err != nil {
		t.Errorf("ended by %v", err)
	}
}

func TestRelayDoesNotEndWellIfItsLastBytesWereLost(t *testing.T) {
	r := startRelay(t)
	r.unread()
	r.client.CloseWrite()
	expectEOF(t, r.server)
	r.server.Close()
	r.client.Close() // with bytes unread
	if err := r.end(); err == nil {
		t.Error("ended well")
	}
}
