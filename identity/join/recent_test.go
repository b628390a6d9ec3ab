// SPDX-License-Identifier: Apache-2.0

package join_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/join/jointest"
)

func TestAnObjectInMemoryIsAStore(t *testing.T) {
	jointest.Conformance(t, func(*testing.T) func() join.Store {
		o := &jointest.Object{}
		return func() join.Store { return join.In(o) }
	})
}

func TestStrangersCostOneReadASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &jointest.Object{Takes: 100 * time.Millisecond}
		store := join.In(o).(join.Recent)
		token := made(t, store)
		before, start := o.Reads(), time.Now()
		for time.Since(start) < 10*time.Second {
			errs := make(chan error)
			for range 20 {
				go func() {
					_, err := store.FindSoon(context.Background(), "0123456789abcdef")
					errs <- err
				}()
			}
			for range 20 {
				if err := <-errs; !errors.Is(err, join.ErrUnknown) {
					t.Error(err)
				}
			}
			if r, known := store.Known(token.ID); !known || r.Identity != jointest.Batch {
				t.Errorf("a token among strangers': %+v, %v", r, known)
			}
		}
		if n := o.Reads() - before; n > 11 {
			t.Errorf("%d reads in ten seconds", n)
		}
		time.Sleep(time.Second)
		if _, known := store.Known(token.ID); known {
			t.Error("what was read a second ago counts still")
		}
	})
}

// An operator makes a token and gives it to a process, which comes at once.
func TestATokenThatWasJustMadeIsNotUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &jointest.Object{Takes: 100 * time.Millisecond}
		store := join.In(o).(join.Recent)
		other := make(chan error)
		go func() {
			_, err := store.FindSoon(context.Background(), "0123456789abcdef")
			other <- err
		}()
		synctest.Wait() // its read has begun, and does not know what is made now
		o.Takes = 0
		token := made(t, store)
		start := time.Now()
		if r, err := store.FindSoon(t.Context(), token.ID); err != nil || r.ID != token.ID {
			t.Errorf("%+v, %v", r, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("found after %v", took)
		}
		if err := <-other; !errors.Is(err, join.ErrUnknown) {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.FindSoon(ctx, "0123456789abcdef"); !errors.Is(err, context.Canceled) {
			t.Errorf("who has left waits: %v", err)
		}
		time.Sleep(2 * time.Second) // its read is of nobody
	})
}

func made(t *testing.T, store join.Store) join.Token {
	t.Helper()
	token, _, err := join.Create(t.Context(), store, join.Options{Identity: jointest.Batch, TTL: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return token
}
