// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// accusing is a CA that says on its streams whom it denies.
type accusing struct {
	*turning
	mu   sync.Mutex
	set  certs.DenySet
	news chan struct{}
}

func newAccusing() *accusing {
	root := certstest.NewCA()
	ca := &accusing{turning: newTurning(root), news: make(chan struct{})}
	ca.turn(root, root)
	ca.deny()
	return ca
}

func (a *accusing) deny(entries ...deny.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.set = certs.DenySet{Generation: a.set.Generation + 1, Entries: entries}
	close(a.news)
	a.news = make(chan struct{})
}

func (a *accusing) FollowDeny(ctx context.Context, _ uint64, take func(certs.DenySet)) error {
	for {
		a.mu.Lock()
		set, news := a.set, a.news
		a.mu.Unlock()
		take(set)
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// F-16, N-9: a denied identity loses its streams under load within a second, at both ends,
// and opens no other until it is allowed again.
func TestADeniedIdentityLosesItsStreams(t *testing.T) {
	const streams = 20
	ca := newAccusing()
	p := newPair(t, ca)
	for range streams {
		p.open()
	}
	p.flows("at first")
	ca.deny(deny.Entry{Kind: deny.KindID, Value: "spiffe://" + domain.Name() + "/ns/shop/sa/other"})
	p.flows("while somebody else is denied")

	ca.deny(deny.Entry{Kind: deny.KindID, Value: p.id.String()})
	denied := env.NewStopwatch()
	for n := range 2 * streams {
		select {
		case err := <-p.ends:
			if !errors.Is(err, hbone.ErrDenied) {
				t.Errorf("a stream ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d ends", n, 2*streams)
		}
	}
	if took := denied.Elapsed(); took > 5*time.Second {
		t.Errorf("the streams ended within %v", took)
	}
	_, err := p.pool.Open(t.Context(), p.key, hbone.Target{Authority: p.key.Addr})
	if cause, _ := errors.AsType[hbone.Cause](err); cause != hbone.ErrDenied {
		t.Errorf("another stream: %v", err)
	}
	ca.deny()
	p.opens("it is allowed again")
	p.flows("after it was allowed again")
}

// opens opens a stream as soon as that is possible.
func (p *pairOf) opens(when string) {
	p.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := p.pool.Open(p.t.Context(), p.key, hbone.Target{Authority: p.key.Addr})
		if err == nil {
			s.Reset()
			<-p.ends // the other one
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: %v", when, err)
		}
	}
	p.open()
}
