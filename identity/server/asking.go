// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/rate"
)

// Bounds on questions to the API server. A caller whose address is that of the pod
// which its token names is at home; a stranger cannot be, so that strangers, however
// many, leave the greater part to nodes.
const (
	homeQuestions     = 16 // at a time
	strangerQuestions = 4
	waitAtMost        = 2 * time.Second
)

// Bounds on requests that wait for a question or its answer. Those of strangers together
// are a part of maxInFlight, and those of one stranger a part of that: none of them takes
// the places of the others. A node that starts, whose pod is not known yet, may have many
// pods at once.
const (
	homeWaiting      = 64 // of one caller
	strangerWaiting  = 32 // of one address
	strangersWaiting = 256
)

// wrongAnswers is how often the answer about a caller's tokens may be no.
var wrongAnswers = rate.Limit{PerSecond: 0.2, Burst: 10}

// asking lets callers have questions asked: each one at a time, and none for a while
// whose questions were in vain.
type asking struct {
	home, strangers chan struct{} // one for each question under way

	mu      sync.Mutex // guards what follows
	callers map[origin]*asker
	waiting int // strangers
	pruned  time.Time
}

// origin is where a question comes from.
type origin struct {
	from netip.Addr // of a stranger's IPv6, its /64
	home bool
}

// asker is one origin's.
type asker struct {
	wrong   rate.Left
	turn    chan struct{} // holds one
	waiting int
}

func newAsking() *asking {
	return &asking{
		home: make(chan struct{}, homeQuestions), strangers: make(chan struct{}, strangerQuestions),
		callers: make(map[origin]*asker),
	}
}

// originOf is where a request comes from, given the addresses of the pod that its
// token names.
func originOf(ctx context.Context, pod []netip.Addr) origin {
	var o origin
	if p, ok := peer.FromContext(ctx); ok {
		if addr, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
			o.from = addr.Addr().Unmap().WithZone("")
		}
	}
	for _, addr := range pod {
		o.home = o.home || addr == o.from
	}
	if o.from.Is6() && !o.home {
		o.from = netip.PrefixFrom(o.from, 64).Masked().Addr()
	}
	return o
}

// take waits for the turn to ask, which lasts until end: that takes whether the
// answer was no.
func (a *asking) take(ctx context.Context, o origin) (end func(no bool), err error) {
	k, err := a.enter(o)
	if err != nil {
		return nil, err
	}
	places := a.strangers
	if o.home {
		places = a.home
	}
	ctx, cancel := context.WithTimeout(ctx, waitAtMost)
	defer cancel()
	for i, place := range []chan struct{}{k.turn, places} {
		select {
		case place <- struct{}{}:
		case <-ctx.Done():
			if i > 0 {
				<-k.turn
			}
			a.leave(o, k, false)
			return nil, unavailable(identityv1.Reason_API_UNAVAILABLE, "too many tokens wait for an answer of the API server")
		}
	}
	end = func(no bool) {
		a.leave(o, k, no) // before the next turn, which asks whether it may be
		<-places
		<-k.turn
	}
	if err := a.spent(o, k); err != nil { // by those who had their turn before
		end(false)
		return nil, err
	}
	return end, nil
}

// enter lets a question wait.
func (a *asking) enter(o origin) (*asker, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pruneLocked(time.Now())
	k := a.callers[o]
	if k == nil {
		k = &asker{turn: make(chan struct{}, 1)}
		a.callers[o] = k
	}
	if err := k.spentLocked(o); err != nil {
		return nil, err
	}
	if o.home && k.waiting >= homeWaiting || !o.home && (k.waiting >= strangerWaiting || a.waiting >= strangersWaiting) {
		return nil, refused(identityv1.Reason_TOO_MANY_REQUESTS, "too many tokens wait for an answer of the API server; try again")
	}
	k.waiting++
	if !o.home {
		a.waiting++
	}
	return k, nil
}

// spent is why no more is asked for a caller, nil if it may be.
func (a *asking) spent(o origin, k *asker) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return k.spentLocked(o)
}

func (k *asker) spentLocked(o origin) error {
	if !k.wrong.Spent(wrongAnswers) {
		return nil
	}
	return refused(identityv1.Reason_TOO_MANY_REQUESTS, "Kubernetes refused too many tokens from %v; try again later", o.from)
}

func (a *asking) leave(o origin, k *asker, no bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k.waiting--
	if !o.home {
		a.waiting--
	}
	if no {
		k.wrong.Spend(wrongAnswers)
	}
}

// pruneLocked forgets, once a minute, the callers that have all they could have.
func (a *asking) pruneLocked(now time.Time) {
	if now.Sub(a.pruned) < time.Minute {
		return
	}
	a.pruned = now
	for o, k := range a.callers {
		if k.waiting == 0 && k.wrong.Whole(wrongAnswers) {
			delete(a.callers, o)
		}
	}
}
