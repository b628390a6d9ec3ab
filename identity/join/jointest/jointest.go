// SPDX-License-Identifier: Apache-2.0

// Package jointest tells every join.Store what it must do.
package jointest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/join"
)

// Batch is an identity outside Kubernetes.
var Batch = spiffeid.RequireFromString("spiffe://cluster.local/ns/legacy/sa/batch")

// Conformance runs the suite on a Store. open returns another process's view of the
// same, empty, Store at each call.
func Conformance(t *testing.T, open func(t *testing.T) func() join.Store) {
	for name, test := range map[string]func(*testing.T, func() join.Store){
		"a token is found by its secret alone":                   found,
		"of keys that redeem one token at once exactly one wins": race,
		"the winner may come again, and nobody else":             again,
		"a revoked token or process is gone":                     removed,
		"what expired unredeemed makes room":                     pruned,
		"a record is written once":                               once,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func create(t *testing.T, store join.Store) join.Token {
	t.Helper()
	token, _, err := join.Create(t.Context(), store, join.Options{Identity: Batch, TTL: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func find(t *testing.T, store join.Store, id string) join.Record {
	t.Helper()
	r, err := store.Find(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(n int) join.Key { return sha256.Sum256(fmt.Append(nil, n)) }

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: %v, want %v", what, err, target)
	}
}

func found(t *testing.T, open func() join.Store) {
	token := create(t, open())
	other := create(t, open())
	r := find(t, open(), token.ID)
	if r.Identity != Batch || r.Redeemed {
		t.Errorf("found %+v", r)
	}
	want(t, "its own token", r.Admit(token, time.Now()), nil)
	want(t, "another token", r.Admit(other, time.Now()), join.ErrUnknown)
	other.ID = token.ID
	want(t, "another secret", r.Admit(other, time.Now()), join.ErrWrong)
	want(t, "too late", r.Admit(token, r.Expires), join.ErrExpired)
	for _, id := range []string{"0123456789abcdef", "", "..", "../" + token.ID, token.ID + "x"} {
		_, err := open().Find(t.Context(), id)
		want(t, "ID "+id, err, join.ErrUnknown)
	}
	all, err := open().List(t.Context())
	if err != nil || len(all) != 2 || all[0].ID > all[1].ID {
		t.Errorf("listed %v, %v", all, err)
	}
}

// SPIRE 1.14.6: two agents redeemed one join token, since it was checked and deleted in
// two steps.
func race(t *testing.T, open func() join.Store) {
	const runners = 16
	for range 20 {
		token := create(t, open())
		var (
			start = make(chan struct{})
			wg    sync.WaitGroup
			errs  [runners]error
		)
		for i := range runners {
			store := open()
			wg.Go(func() {
				<-start
				errs[i] = store.Redeem(context.Background(), token.ID, key(i))
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("%d and %d both redeemed the token", winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, join.ErrRedeemed):
				t.Errorf("loser: %v", err)
			}
		}
		if winner < 0 {
			t.Fatal("nobody redeemed the token")
		}
		if r := find(t, open(), token.ID); !r.Redeemed || r.By != key(winner) {
			t.Errorf("%d won, and the record says %x", winner, r.By)
		}
	}
}

func again(t *testing.T, open func() join.Store) {
	token := create(t, open())
	want(t, "first", open().Redeem(t.Context(), token.ID, key(1)), nil)
	want(t, "again", open().Redeem(t.Context(), token.ID, key(1)), nil)
	want(t, "another key", open().Redeem(t.Context(), token.ID, key(2)), join.ErrRedeemed)
	r := find(t, open(), token.ID)
	if r.At.IsZero() || r.Identity != Batch {
		t.Errorf("found %+v", r)
	}
	want(t, "with its token", r.Admit(token, time.Now()), nil)
	want(t, "once the token has expired", r.Admit(token, r.Expires), join.ErrExpired)
}

func removed(t *testing.T, open func() join.Store) {
	fresh, redeemed := create(t, open()), create(t, open())
	want(t, "redeem", open().Redeem(t.Context(), redeemed.ID, key(1)), nil)
	for _, token := range []join.Token{fresh, redeemed} {
		want(t, "remove", open().Remove(t.Context(), token.ID), nil)
		want(t, "remove again", open().Remove(t.Context(), token.ID), join.ErrUnknown)
		_, err := open().Find(t.Context(), token.ID)
		want(t, "find", err, join.ErrUnknown)
		want(t, "redeem", open().Redeem(t.Context(), token.ID, key(1)), join.ErrUnknown)
	}
	want(t, "an ID that is none", open().Remove(t.Context(), "../x"), join.ErrUnknown)
}

func pruned(t *testing.T, open func() join.Store) {
	for _, r := range []join.Record{
		{ID: "00000000000000a1", Identity: Batch, Created: time.Now().Add(-2 * time.Hour), Expires: time.Now().Add(-time.Hour)},
		{ID: "00000000000000a2", Identity: Batch, Created: time.Now().Add(-2 * time.Hour), Expires: time.Now().Add(-time.Hour)},
	} {
		want(t, "add", open().Add(t.Context(), r), nil)
	}
	want(t, "redeem", open().Redeem(t.Context(), "00000000000000a2", key(1)), nil)
	create(t, open())
	_, err := open().Find(t.Context(), "00000000000000a1")
	want(t, "expired", err, join.ErrUnknown)
	if r := find(t, open(), "00000000000000a2"); !r.Redeemed {
		t.Error("a process that has joined is no token any more: it does not expire")
	}
}

func once(t *testing.T, open func() join.Store) {
	token := create(t, open())
	r := find(t, open(), token.ID)
	r.Identity = spiffeid.RequireFromString("spiffe://cluster.local/ns/kube-system/sa/admin")
	if err := open().Add(t.Context(), r); err == nil {
		t.Error("a second token of one ID was added")
	}
	if r := find(t, open(), token.ID); r.Identity != Batch {
		t.Errorf("the token is now %v's", r.Identity)
	}
}
