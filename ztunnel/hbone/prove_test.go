// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestATunnelIsProvedByOneThatAnswers(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		prove := func(dials int) {
			t.Helper()
			if err := b.pool.Prove(t.Context(), b.key); err != nil {
				t.Fatal(err)
			}
			if n := b.countDials(); n != dials {
				t.Errorf("%d dials, want %d", n, dials)
			}
		}
		prove(1)
		pass(time.Minute)
		prove(1) // by the one that is there
		b.wantTunnels(1)
		pass(5 * time.Second)
		b.forget()
		prove(2) // that one is silent: a fresh one proves it
		pass(10 * time.Minute)
		b.wantTunnels(0) // none is kept for having been proved
	})
}

func TestATunnelThatIsNotThereIsNotProved(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.unreachable()
		if err := b.pool.Prove(t.Context(), b.key); !errors.Is(err, ErrDial) {
			t.Errorf("without a way: %v", err)
		}
	})
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		if err := b.pool.Prove(t.Context(), b.key); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		b.forget()
		b.unreachable()
		began := time.Now()
		if err := b.pool.Prove(t.Context(), b.key); !errors.Is(err, ErrDial) {
			t.Errorf("silent, and no other to be had: %v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A handshake that nobody answers, or that is cut off, is of a peer that was not seen.
func TestAHandshakeWithoutAnAnswerShowsNobody(t *testing.T) {
	for name, far := range map[string]func(net.Conn){
		"silent":    func(c net.Conn) { io.Copy(io.Discard, c) },
		"cut off":   func(c net.Conn) { c.Close() },
		"other TCP": func(c net.Conn) { c.Write([]byte("220 ready\r\n")); io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				b.pool.connect = func(context.Context, Key) (net.Conn, error) {
					near, other := b.pipe()
					go far(other)
					return near, nil
				}
				if err := b.pool.Prove(t.Context(), b.key); !errors.Is(err, ErrTLS) || Shown(err) {
					t.Errorf("shown %v: %v", Shown(err), err)
				}
			})
		})
	}
}
