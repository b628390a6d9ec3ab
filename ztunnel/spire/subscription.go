// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

// How long after a stream broke it is opened again, anywhere in the second half of it: it
// doubles with each failure. The agent is on this machine.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
)

// subscription is the stream of one identity. Client.mu guards it. It is in one of three
// states:
//
//	waiting    neither current nor problem: the agent has not answered yet
//	served     current: the SVID that the agent has now
//	refused    problem: there is none, or the stream is broken
//
// An answer leads to served or refused, the end of the stream to refused.
type subscription struct {
	id      spiffeid.ID
	ctx     context.Context
	end     context.CancelFunc
	current *svid
	problem error

	asked  []selector         // in the stream that is open
	reopen context.CancelFunc // ends that stream
}

// subscribe opens the stream of id, if there is none.
func (c *Client) subscribe(id spiffeid.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.subscriptions[id] != nil {
		return nil
	}
	s := &subscription{id: id}
	s.ctx, s.end = context.WithCancel(c.ctx)
	c.subscriptions[id] = s
	c.streams.Go(func() { c.follow(s) })
	return nil
}

// follow keeps the stream open until nobody wants it.
func (c *Client) follow(s *subscription) {
	defer c.drop(s)
	for pause := firstPause; s.ctx.Err() == nil; {
		heard, err := c.receive(s)
		if s.ctx.Err() != nil {
			return
		}
		if err == nil { // the agent is to be asked by other selectors
			continue
		}
		if heard {
			pause = firstPause
		}
		c.fail(s, problem(c.cfg.AdminSocket, err))
		sleep(s.ctx, pause/2+rand.N(pause/2))
		pause = min(2*pause, lastPause)
	}
}

// receive takes answers until the stream breaks, or is to be opened by other selectors:
// then there is no error.
func (c *Client) receive(s *subscription) (heard bool, err error) {
	ctx, reopen := context.WithCancel(s.ctx)
	defer reopen()
	asked := c.selectors(s.id)
	c.mu.Lock()
	s.asked, s.reopen = asked, reopen
	c.mu.Unlock()
	stream, err := c.agent.SubscribeToX509SVIDs(ctx, request(asked))
	if err != nil {
		return false, err
	}
	for {
		answer, err := stream.Recv()
		if err != nil && ctx.Err() != nil {
			return heard, nil
		}
		if err != nil {
			return heard, err
		}
		heard = true
		c.take(s, answer)
	}
}

// take puts an answer in force.
func (c *Client) take(s *subscription, answer *delegatedv1.SubscribeToX509SVIDsResponse) {
	svids, err := parse(answer)
	selectors := c.selectors(s.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	chosen := choose(svids, s.id, s.current)
	for _, other := range svids {
		if other != chosen {
			other.forget()
		}
	}
	if chosen == nil {
		s.refuse(c.missing(s, svids, err))
		s.lookAgain(selectors)
		c.tellLocked()
		return
	}
	another := !chosen.same(s.current)
	s.current.forget()
	s.current, s.problem = chosen, nil
	c.tellLocked()
	if another {
		c.fresh[s.id] = true
		signal(c.wake)
	}
}

// fail notes that the stream is broken.
func (c *Client) fail(s *subscription, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.refuse(err)
	c.tellLocked()
}

func (s *subscription) refuse(err error) {
	s.current.forget()
	s.current, s.problem = nil, err
}

// lookAgain opens the stream anew if other selectors hold now: a pod came or went.
func (s *subscription) lookAgain(now []selector) {
	if s.reopen != nil && !slices.Equal(s.asked, now) {
		s.asked = now
		s.reopen()
	}
}

// drop forgets what nobody wants.
func (c *Client) drop(s *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.refuse(context.Canceled)
	c.tellLocked()
}

// selector is what is known of a workload, in the words of SPIRE's attestor of Kubernetes.
type selector string

// selectors are all that may be known of the pods of an identity. An entry fits if all of
// its own are among them.
func (c *Client) selectors(id spiffeid.ID) []selector {
	var all []selector
	if account, err := identity.Parse(id); err == nil {
		all = append(all, selector("ns:"+account.Namespace), selector("sa:"+account.Name))
	}
	if c.cfg.Node != "" {
		all = append(all, selector("node-name:"+c.cfg.Node))
	}
	for _, pod := range c.cfg.Pods(id) {
		all = append(all, selector("pod-uid:"+pod.UID), selector("pod-name:"+pod.Name))
		for key, value := range pod.Labels {
			all = append(all, selector("pod-label:"+key+":"+value))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func request(selectors []selector) *delegatedv1.SubscribeToX509SVIDsRequest {
	r := &delegatedv1.SubscribeToX509SVIDsRequest{}
	for _, s := range selectors {
		r.Selectors = append(r.Selectors, &delegatedv1.Selector{Type: "k8s", Value: string(s)})
	}
	return r
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// signal leaves a signal that is not yet seen alone.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
