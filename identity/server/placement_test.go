// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// asked is an API server that knows more than our source.
type asked struct {
	running Running
	agents  []Agent
	err     error
	times   atomic.Int32
}

func (a *asked) ask(_ context.Context, node string, sa identity.ServiceAccount) ([]Running, []Agent, error) {
	a.times.Add(1)
	if a.running.Node != node || a.running.ServiceAccount != sa {
		return nil, a.agents, a.err
	}
	return []Running{a.running}, a.agents, a.err
}

func TestAPodThatTheWatchDoesNotKnowIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &asked{running: Running{Node: "node-1", ServiceAccount: web}}
		r := newRig(t, func(c *Config) { c.Placement.Replace(nil, nil); c.Placement.Ask = api.ask })
		start := time.Now()
		if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t)); err != nil {
			t.Error(err)
		}
		if waited := time.Since(start); waited != askAfter {
			t.Errorf("waited %v, want %v", waited, askAfter)
		}
		api.running.Node = "node-2"
		_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
		wantStatus(t, err, codes.PermissionDenied, "runs on node node-1")
		api.err = errors.New("connection refused")
		_, err = r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
		wantStatus(t, err, codes.Unavailable, "the API server does not say: connection refused")
		if reasonOf(err) != identityv1.Reason_API_UNAVAILABLE {
			t.Errorf("the word is %v", reasonOf(err))
		}
	})
}

// A node that asks for what does not run there costs the API server little.
func TestOneNodeHasTheAPIServerAskedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &asked{}
		p := NewPlacement()
		p.Replace([]Running{{Node: "node-2", ServiceAccount: web}}, nil)
		p.Ask = api.ask
		var all sync.WaitGroup
		var untold atomic.Int32
		for range 200 {
			all.Go(func() {
				runs, err := p.RunsOn(t.Context(), "node-1", web)
				if errors.Is(err, errAskedTooOften) {
					untold.Add(1)
				} else if len(runs) > 0 || err != nil {
					t.Error(runs, err)
				}
			})
		}
		all.Wait()
		if n := api.times.Load(); n != 50 || untold.Load() != 150 {
			t.Errorf("asked %d times for 200 requests, want 50; %d were told to try again", n, untold.Load())
		}
		if runs, err := p.RunsOn(t.Context(), "node-2", web); len(runs) != 1 || err != nil {
			t.Error(runs, err)
		}
	})
}

func TestAnAgentThatTheWatchDoesNotKnowIsAskedFor(t *testing.T) {
	r := newReviewed(t)
	api := &asked{agents: []Agent{{UID: "other"}, agent}}
	r.placement.Replace(nil, nil)
	r.placement.Ask = api.ask
	r.accepts(goodToken(t), "the API server knows it")
	r.forget()
	api.agents = nil
	r.refuses(goodToken(t), identityv1.Reason_TOKEN_POD_GONE, "is gone")
	api.err = errors.New("connection refused")
	if _, err := r.Attest(t.Context(), goodToken(t)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody knows, and it is %v", err)
	}
}

// What nobody was asked is no answer: it must not be said to a node, nor held against it.
func TestANodeThatHasAskedTooOftenIsToldToTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &asked{}
		spend := func(p *Placement) {
			p.Ask = api.ask
			for range int(nodeQuestions.Burst) {
				p.ask(t.Context(), "node-1", web)
			}
		}
		ca := newRig(t, func(c *Config) { c.Placement.Replace(nil, nil); spend(c.Placement) })
		_, err := ca.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
		wantStatus(t, err, codes.Unavailable, "asked too often")
		if reasonOf(err) != identityv1.Reason_TOO_MANY_REQUESTS {
			t.Errorf("the word is %v", reasonOf(err))
		}
		r := newReviewed(t)
		r.placement.Replace(nil, nil)
		for range 2 * int(wrongAnswers.Burst) {
			spend(r.placement)
			_, err := r.Attest(t.Context(), goodToken(t))
			if err := notAttested(err); status.Code(err) != codes.Unavailable || reasonOf(err) != identityv1.Reason_TOO_MANY_REQUESTS {
				t.Errorf("%v", err)
			}
		}
	})
}
