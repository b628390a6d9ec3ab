// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/peer"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// from is a request's context.
func from(ctx context.Context, addr string) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 40000))})
}

func (r *reviewed) accepts(token, why string) {
	r.t.Helper()
	if _, err := r.Attest(r.t.Context(), token); err != nil {
		r.t.Errorf("%s: %v", why, err)
	}
}

func (r *reviewed) wantReviews(want int, why string) {
	r.t.Helper()
	if got := r.reviews(); got != want {
		r.t.Errorf("%s: %d reviews, want %d", why, got, want)
	}
}

func TestATokenIsAskedAboutOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		token := goodToken(t)
		var together sync.WaitGroup
		for range 30 { // a node that starts with 30 pods
			together.Go(func() { r.accepts(token, "together") })
		}
		together.Wait()
		r.wantReviews(1, "30 at once")
		time.Sleep(59 * time.Second)
		r.accepts(token, "within the minute")
		r.wantReviews(1, "within the minute")
		time.Sleep(2 * time.Second)
		r.accepts(token, "after the minute")
		r.wantReviews(2, "after the minute")
		r.accepts(mint(t, jose.RS256, rsKey, "rs", tokenClaims()), "another of the pod's tokens")
		r.wantReviews(3, "another token")
	})
}

func TestAPodThatIsDeletedEndsWhatWasProvenOfIt(t *testing.T) {
	r := newReviewed(t)
	token := goodToken(t)
	r.accepts(token, "it lives")
	for name, agents := range map[string][]Agent{
		"gone":      nil,
		"elsewhere": {{UID: agent.UID, Name: agent.Name, ServiceAccount: ztunnel, Node: "node-2"}},
	} {
		r.placement.Replace(nil, agents)
		if _, err := r.Attest(t.Context(), token); err == nil {
			t.Errorf("%s, and it is accepted", name)
		}
	}
	r.wantReviews(3, "not by what was said before")
}

func TestAProofEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		token := mint(t, jose.ES256, esKey, "es", with("exp", time.Now().Unix()+20))
		r.accepts(token, "it is good for 20 s")
		time.Sleep(21 * time.Second) // within the leeway for clocks
		r.accepts(token, "Kubernetes says so")
		r.wantReviews(2, "expired")
		r.away = true
		if _, err := r.Attest(t.Context(), token); err == nil {
			t.Error("an expired token goes on while the API server is away")
		}
	})
}

func TestWhoProvedThemselvesGoOnForAnHourWithoutAnAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		token := mint(t, jose.ES256, esKey, "es", with("exp", time.Now().Add(24*time.Hour).Unix()))
		r.accepts(token, "first")
		r.away = true
		time.Sleep(59 * time.Minute)
		r.accepts(token, "after 59 minutes")
		fresh := mint(t, jose.RS256, rsKey, "rs", with("exp", time.Now().Add(24*time.Hour).Unix()))
		if _, err := r.Attest(t.Context(), fresh); err == nil {
			t.Error("a token that nobody vouched for")
		}
		time.Sleep(2 * time.Minute)
		if _, err := r.Attest(t.Context(), token); err == nil {
			t.Error("after 61 minutes")
		}
		r.away = false
		r.accepts(token, "the API server is back")
	})
}

// A renewal must not wait for an API server that the one before has waited for.
func TestASilentAPIServerIsWaitedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		token := goodToken(t)
		r.accepts(token, "first")
		time.Sleep(2 * time.Minute)
		r.silent = true
		start := time.Now()
		r.accepts(token, "it waits")
		if waited := time.Since(start); waited != reviewWithin {
			t.Errorf("waited %v, want %v", waited, reviewWithin)
		}
		for range 10 {
			r.accepts(token, "it does not wait")
		}
		if waited := time.Since(start); waited != reviewWithin {
			t.Errorf("the next ones waited %v", waited-reviewWithin)
		}
	})
}

// slowly has the API server take a second for each answer, which is no but for the good
// tokens, and tells how many it gives at a time at most.
func (r *reviewed) slowly(good ...string) (most func() int) {
	var now, peak atomic.Int32
	r.api.Vouch(func(spec authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
		n := now.Add(1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		time.Sleep(time.Second)
		now.Add(-1)
		if slices.Contains(good, spec.Token) {
			return vouched(spec)
		}
		return authenticationv1.TokenReviewStatus{}
	})
	return func() int { return int(peak.Load()) }
}

func TestJunkOfOneNodeLeavesTheAPIServerToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		home := agent
		home.Addrs = []netip.Addr{netip.MustParseAddr("192.168.0.1")}
		r.placement.Replace(nil, []Agent{home})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		good, junk := goodToken(t), mint(t, jose.RS256, rsKey, "rs", tokenClaims()) // it names a pod that lives
		most := r.slowly(good)
		var flood sync.WaitGroup
		for i := range 500 {
			flood.Go(func() {
				for ctx.Err() == nil {
					r.Attest(from(ctx, fmt.Sprintf("10.1.%d.%d", i/250, i%250)), junk)
					time.Sleep(time.Second)
				}
			})
		}
		time.Sleep(10 * time.Second)
		if n := most(); n > strangerQuestions {
			t.Errorf("%d questions of strangers at a time, want %d", n, strangerQuestions)
		}
		for range 5 {
			start := time.Now()
			if _, err := r.Attest(from(t.Context(), "192.168.0.1"), good); err != nil || time.Since(start) > time.Second {
				t.Errorf("the pod itself, from its own address: %v after %v", err, time.Since(start))
			}
			time.Sleep(1300 * time.Millisecond)
			r.forget()
		}
		cancel()
		flood.Wait()
	})
}

func TestACallerWhoseTokensAreRefusedIsNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		r.vouch(func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false })
		var reasons []identityv1.Reason
		for range 20 {
			_, err := r.Attest(from(t.Context(), "10.1.0.1"), goodToken(t))
			reasons = append(reasons, reasonOf(notAttested(err)))
		}
		want := slices.Concat(slices.Repeat([]identityv1.Reason{identityv1.Reason_TOKEN_REFUSED}, 10), slices.Repeat([]identityv1.Reason{identityv1.Reason_TOO_MANY_REQUESTS}, 10))
		if !slices.Equal(reasons, want) {
			t.Errorf("refused by %v", reasons)
		}
		r.wantReviews(10, "of one address")
		time.Sleep(5 * time.Second)
		r.Attest(from(t.Context(), "10.1.0.1"), goodToken(t))
		r.wantReviews(11, "5 s later")
	})
}

// A flood that cancels its requests must be held to the answers, and leave places.
func TestAStrangerWhoCancelsLeavesPlacesToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		junk := mint(t, jose.RS256, rsKey, "rs", tokenClaims())
		var good []string
		for range 40 {
			good = append(good, goodToken(t)) // signed anew, so that each is another
		}
		r.slowly(good...)
		var flood sync.WaitGroup
		for range 80 { // streams
			flood.Go(func() {
				for ctx.Err() == nil {
					brief, left := context.WithTimeout(from(ctx, "10.1.0.1"), 900*time.Millisecond)
					r.Attest(brief, junk)
					if brief.Err() == nil { // refused at once
						time.Sleep(200 * time.Millisecond)
					}
					left()
				}
			})
		}
		time.Sleep(time.Second)
		refused := 0
		for _, token := range good {
			if _, err := r.Attest(from(t.Context(), "10.2.0.1"), token); err != nil {
				refused++
			}
		}
		cancel()
		flood.Wait()
		if refused > 0 {
			t.Errorf("%d of %d requests beside the flood were refused", refused, len(good))
		}
		if n, most := r.reviews()-len(good), 10+(1+len(good))/5; n > most {
			t.Errorf("%d reviews for the flood, want %d at most", n, most)
		}
	})
}

func TestACallerThatLeavesDoesNotMakeTheAPIServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		r.slowly()
		brief, left := context.WithTimeout(t.Context(), time.Second/2)
		defer left()
		_, err := r.Attest(brief, goodToken(t))
		if reason := reasonOf(notAttested(err)); reason != identityv1.Reason_TOKEN_REFUSED || r.patience() != proofFresh {
			t.Errorf("%v, and proofs of %v count", reason, r.patience())
		}
	})
}

func TestWhoWaitsWhileTheCallerIsSpentIsNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReviewed(t)
		r.vouch(func(s *authenticationv1.TokenReviewStatus) {
			time.Sleep(waitAtMost / 20)
			s.Authenticated = false
		})
		var together sync.WaitGroup
		for range strangerWaiting {
			together.Go(func() { r.Attest(from(t.Context(), "10.1.0.1"), goodToken(t)) })
		}
		together.Wait()
		r.wantReviews(10, "all of them waited before the first answer")
	})
}

func TestProofsAreBounded(t *testing.T) {
	p := newProofs()
	put := func(pod string, token byte) {
		p.put(proof{token: [32]byte{token}, caller: Caller{PodUID: pod}, at: time.Now(), expires: time.Now().Add(time.Hour)}, func(pod string) bool { return pod < "b" })
	}
	for i := range 10 {
		put("a", byte(i))
	}
	for i, want := range map[byte]bool{5: false, 6: true, 9: true} {
		if _, found := p.find("a", [32]byte{i}, time.Minute); found != want {
			t.Errorf("token %d of 10 is found: %v", i, found)
		}
	}
	for i := range maxProofs + 10 {
		put(fmt.Sprint("b", i), 0)
	}
	if _, lives := p.find("a", [32]byte{9}, time.Minute); len(p.byPod) > maxProofs || !lives {
		t.Errorf("%d pods are remembered, and the one that lives: %v", len(p.byPod), lives)
	}
}
