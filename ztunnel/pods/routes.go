// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// routes counts, by netns, the members that need its routing. A pod may join
// again while what it opened before is still carried: the last to leave undoes
// the routing, not the first.
type routes struct {
	changing netns.Locks // held while the routing of a netns begins or ends; before mu

	mu    sync.Mutex // guards what follows
	users map[netns.Cookie]int
}

// add counts members that need the routing of a netns in or out, and returns how many
// there are then.
func (r *routes) add(cookie netns.Cookie, members int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.users[cookie] + members
	if r.users[cookie] = n; n == 0 {
		delete(r.users, cookie)
	}
	return n
}

// route is a step of carrying: the legs to the app and the stand-ins need it.
func (p *Pods) route(_ context.Context, m *member) error {
	defer p.routes.changing.Lock(m.Cookie)()
	if err := p.Datapath.Route(m.ns, m.addresses.list()); err != nil {
		if p.routes.add(m.Cookie, 0) == 0 && !m.adopted {
			err = errors.Join(err, ignoreInUse(p.Datapath.Unroute(m.ns)))
		}
		return err
	}
	p.routes.add(m.Cookie, 1)
	return nil
}

// unroute leaves a pod that stays steered, and refused, its guard. What an app
// holds of connections that have ended keeps some of it in place, too, until
// unrouteLeft comes by.
func (p *Pods) unroute(ctx context.Context, m *member) error {
	defer p.routes.changing.Lock(m.Cookie)()
	if p.routes.add(m.Cookie, -1) > 0 || m.adopted {
		return nil
	}
	if err := p.unguardForwarding(ctx, m); err != nil { // it failed before
		return err // unrouteLeft comes by as long as the netns is routed
	}
	return ignoreInUse(p.Datapath.Unroute(m.ns))
}

func ignoreInUse(err error) error {
	if errors.Is(err, redirect.ErrInUse) {
		return nil
	}
	return err
}

// unrouteLeft removes what is left of the routing of a pod outside the mesh: by
// an earlier run that was still carrying, or because the app held a socket.
// pod.mu is held.
//
// An app may hold such a socket for ever, so it is looked for less and less often.
func (p *Pods) unrouteLeft(pod *pod) error {
	cookie := pod.sandbox().Cookie
	if !p.Datapath.Routed(cookie) || pod.path == "" || time.Now().Before(pod.unrouting.next) {
		return nil
	}
	err := p.unrouteNow(pod, cookie)
	if errors.Is(err, redirect.ErrInUse) {
		pod.unrouting.later()
		return nil
	}
	pod.unrouting = pause{}
	return err
}

// pause is when to try again what others keep from happening.
type pause struct {
	next time.Time
	last time.Duration
}

// maxPause ends the doubling.
const maxPause = time.Minute

func (p *pause) later() {
	p.last = min(max(2*p.last, verifyEvery), maxPause)
	p.next = time.Now().Add(p.last)
}

func (p *Pods) unrouteNow(pod *pod, cookie netns.Cookie) error {
	defer p.routes.changing.Lock(cookie)()
	if p.routes.add(cookie, 0) > 0 {
		return nil // what it opened before is still carried
	}
	ns, err := netns.Open(pod.path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if ns.Cookie() != cookie {
		return fmt.Errorf("%s is another netns than the one that was recorded", pod.path)
	}
	if err := p.Datapath.UnguardForwarding(ns); err != nil {
		return err // what is still routed is looked at again
	}
	return p.Datapath.Unroute(ns)
}
