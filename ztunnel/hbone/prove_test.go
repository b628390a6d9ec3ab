// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
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
