// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// The CA drops a root when no node says any more that something rests on it.
func TestANodeCountsWhatRestsOnEachRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		former, next := newCA(t, td), newCA(t, td)
		i := &issuer{ca: former}
		keyA, keyB := identity.KeyHash(former.Roots()[0]), identity.KeyHash(next.Roots()[0])
		tunnels := map[sum]int{keyA: 3}
		r := run(t, Config{TTL: time.Hour, Tunnels: func(key sum) int { return tunnels[key] }}, i, i)
		hold(t, r, web)
		hold(t, r, db)
		synctest.Wait()
		want := func(when string, all ...Rest) {
			t.Helper()
			slices.SortFunc(all, func(a, b Rest) int { return slices.Compare(a.Key[:], b.Key[:]) })
			if got := r.rests(); !slices.Equal(got, all) {
				t.Errorf("%s: %v, want %v", when, got, all)
			}
		}
		r.say(t, 1, former.Roots())
		want("one root")
		both := slices.Concat(former.Roots(), next.Roots())
		r.say(t, 2, both)
		want("the former issuer signs", Rest{keyA, 2, 3}, Rest{keyB, 0, 0})
		i.set(func() { i.ca = next })
		r.renewAll(time.Now(), "test")
		pass(time.Minute)
		want("all is renewed", Rest{keyA, 0, 3}, Rest{keyB, 2, 0})
		r.say(t, 3, next.Roots())
		want("it was dropped")
	})
}

// The CA counts what a node says after something that the CA did, so it is said again.
func TestANodeRepeatsWhatRestsOnItsRoots(t *testing.T) {
	for name, tc := range map[string]struct {
		rests       []Rest
		least, most int
	}{
		"several roots": {[]Rest{{Key: sum{1}}, {Key: sum{2}}}, 8, 13},
		"one root":      {nil, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &sent{}
				s := &sayer{stream: f, rests: func() []Rest { return tc.rests }}
				if err := s.ack(Bundle{Generation: 1}); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				s.run(ctx)
				if f.n < tc.least || f.n > tc.most {
					t.Errorf("said %d times in a minute, want %d to %d", f.n, tc.least, tc.most)
				}
			})
		})
	}
}

// sent counts what is sent on a stream.
type sent struct {
	grpc.BidiStreamingClient[identityv1.BundleAck, identityv1.Bundle]
	n int
}

func (s *sent) Send(*identityv1.BundleAck) error { s.n++; return nil }
