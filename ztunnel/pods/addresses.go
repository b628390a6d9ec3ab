// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxAddrs is how many addresses of one pod are steered: the maps that hold
	// them are shared by all pods. Beyond it, connections are refused.
	maxAddrs = 64
	// settle is how long a netns may change before it is looked at again, and
	// rest how many times as long as the last look the pause is at least: a pod
	// that changes its devices all the time must not keep a processor busy.
	settle = 100 * time.Millisecond
	rest   = 10
)

// A pod is its netns, and has the addresses that the netns holds now. They are
// looked at when netlink tells of a change, and every verifyEvery.

// addresses are those of one member.
type addresses struct {
	looking sync.Mutex // one look at the netns at a time; before mu

	mu sync.Mutex // guards what follows
	chosen
	applied []netip.Addr // those that steering has: what is chosen comes a moment later
	crowded int          // devices beyond those that are steered: see redirect.Routing
}

// chosen says which addresses of a netns are its pod's.
type chosen struct {
	steered []netip.Addr          // those of the sandbox first
	refused map[netip.Addr]string // not steered, and why: connections are refused
	excess  int                   // how many more are refused, as there are too many
}

func (a *addresses) list() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.steered
}

// inForce are the addresses that steering has.
func (a *addresses) inForce() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied
}

func (a *addresses) setInForce(addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.applied = addrs
}

// takers is every member that has addresses. An address has one taker at a time,
// unless both are the same pod's.
type takers struct {
	mu      sync.Mutex // also held while addresses change hands; before addresses.mu and Pods.mu
	members map[*member]struct{}
}

// look has m take the addresses that its netns holds now.
func (p *Pods) look(m *member) error {
	held, err := heldIn(m.ns, m.ips())
	if err != nil {
		return err
	}
	p.takers.mu.Lock()
	defer p.takers.mu.Unlock()
	next := p.choose(m, held)
	p.takers.members[m] = struct{}{}

	a := &m.addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	p.sayRefused(m, next)
	p.neighbours.forget(m, func(addr netip.Addr) bool { return !slices.Contains(next.steered, addr) })
	a.chosen = next
	return nil
}

// choose says which of the addresses held are m's: those of the sandbox, those
// that are m's already, and others, as long as they are no other pod's. A second
// network must not be a way around the listeners; but whoever may configure
// devices can give himself any address.
func (p *Pods) choose(m *member, held []netip.Addr) (next chosen) {
	there := make(map[netip.Addr]bool, len(held)) // false once it was looked at
	for _, addr := range held {
		there[addr] = true
	}
	next.refused = map[netip.Addr]string{}
	for _, addr := range m.ips() {
		if addr = addr.Unmap(); there[addr] && len(next.steered) < maxAddrs {
			there[addr] = false
			next.steered = append(next.steered, addr)
		}
	}
	others := p.others(m.PodUID)
	for _, addr := range slices.Concat(m.addresses.list(), held) {
		if !there[addr] {
			continue
		}
		there[addr] = false
		if len(next.steered) == maxAddrs || len(next.refused) == maxAddrs {
			next.excess++
		} else if other, ok := others(addr); ok {
			next.refused[addr] = "is the address of pod " + other
		} else {
			next.steered = append(next.steered, addr)
		}
	}
	return next
}

// others returns a function that names another pod than podUID which has an
// address: by what the plugin said of it, because it was enrolled first, or by
// the registry's word. p.takers.mu is held.
func (p *Pods) others(podUID string) func(netip.Addr) (string, bool) {
	collect := sync.OnceValue(func() map[netip.Addr]string {
		names := map[netip.Addr]string{}
		for m := range p.takers.members {
			if m.PodUID != podUID {
				for _, addr := range m.addresses.list() {
					names[addr] = m.String()
				}
			}
		}
		for _, pod := range p.all() {
			if s := pod.sandbox(); s.PodUID != podUID {
				for _, addr := range s.ips() {
					names[addr.Unmap()] = pod.String()
				}
			}
		}
		return names
	})
	return func(addr netip.Addr) (string, bool) {
		if name, ok := collect()[addr]; ok {
			return name, true
		}
		w, ok := p.Registry.ByAddr(addr)
		return w.String(), ok && w.UID != podUID
	}
}

// sayRefused logs and counts what was not refused before; m.addresses.mu is held.
// A pod that goes on beyond the limit is named once.
func (p *Pods) sayRefused(m *member, next chosen) {
	before := m.addresses.chosen
	for addr, why := range next.refused {
		if before.refused[addr] != why {
			p.Metrics.AddressesRefused("other_pod", 1)
			p.Log.Warn("an address of a pod is not steered: connections by it are refused",
				logPod, m.sandbox.String(), logAddress, addr, logReason, why)
		}
	}
	if next.excess > before.excess {
		p.Metrics.AddressesRefused("limit", next.excess-before.excess)
	}
	if next.excess > 0 && before.excess == 0 {
		p.Log.Warn("a pod has more addresses than are steered: connections by the others are refused",
			logPod, m.sandbox.String(), logLimit, maxAddrs, logRefused, next.excess)
	}
}

// sayCrowded logs and counts the devices beyond the limit, of a pod that stays beyond
// it once.
func (p *Pods) sayCrowded(m *member, excess int) {
	a := &m.addresses
	a.mu.Lock()
	before := a.crowded
	a.crowded = excess
	a.mu.Unlock()
	if excess > before {
		p.Metrics.DevicesRefused(excess - before)
	}
	switch {
	case excess > 0 && before == 0:
		p.Log.Warn("a pod has more devices than are steered: connections of sockets that are bound to a device are refused",
			logPod, m.sandbox.String(), logDevices, excess)
	case excess == 0 && before > 0:
		p.Log.Info("a pod has no more devices than are steered", logPod, m.sandbox.String())
	}
}

// leaveAddrs is the end of m's addresses.
func (p *Pods) leaveAddrs(m *member) {
	p.takers.mu.Lock()
	defer p.takers.mu.Unlock()
	delete(p.takers.members, m)
}

// refresh makes steering follow the netns of m as it is now, and puts right there what
// another hand changed.
func (p *Pods) refresh(m *member) error {
	a := &m.addresses
	a.looking.Lock()
	defer a.looking.Unlock()
	if err := p.look(m); err != nil {
		return err
	}
	addrs, applied := a.list(), a.inForce()
	if !slices.Equal(applied, addrs) {
		if err := p.update(m, applied, addrs); err != nil {
			return err
		}
		p.Log.Info("addresses of a pod changed", logPod, m.sandbox.String(), logAddresses, fmt.Sprint(addrs))
	}
	wrong, excess, err := p.Datapath.VerifyRoute(m.ns, addrs)
	if err != nil {
		return err
	}
	p.sayCrowded(m, excess)
	if wrong != "" {
		p.repaired(kindOf(wrong), m.sandbox.String())
		p.Log.Error("steering was removed by another hand and is restored", logPod, m.sandbox.String(), logWhat, wrong)
	}
	return nil
}

// update first has the pod lose what left: that may be another pod's already.
// New addresses come after the routes to them. m.addresses.looking is held.
func (p *Pods) update(m *member, applied, addrs []netip.Addr) error {
	apply := func(addrs []netip.Addr) error {
		err := p.Datapath.UpdateAddrs(m.Cookie, addrs)
		if err == nil {
			m.addresses.setInForce(addrs)
		}
		return err
	}
	left := func(addr netip.Addr) bool { return !slices.Contains(addrs, addr) }
	if err := apply(slices.DeleteFunc(slices.Clone(applied), left)); err != nil {
		return err
	}
	if err := p.Datapath.Route(m.ns, addrs); err != nil {
		return err
	}
	return apply(addrs)
}

// follow refreshes m when its netns changes, until stopFollowing or the end of
// Run.
func (p *Pods) follow(_ context.Context, m *member) error {
	m.addresses.setInForce(m.addresses.list()) // by the steps before
	ctx, stop := context.WithCancel(m.life)
	context.AfterFunc(ctx, func() { m.changes.Close() })
	ended := make(chan struct{})
	m.unfollow = func() {
		stop()
		<-ended
	}
	p.following.Go(func() {
		defer close(ended)
		for m.changes.Wait() == nil {
			start := time.Now()
			if err := p.changed(m); err != nil {
				p.notFollowed(m.sandbox.String(), err)
			}
			select {
			case <-time.After(max(settle, rest*time.Since(start))):
			case <-ctx.Done():
			}
		}
	})
	return nil
}

// notFollowed logs why the netns of a pod is not followed. A loopback that is down is how
// most sandboxes end.
func (p *Pods) notFollowed(pod string, err error) {
	level := slog.LevelError
	if errors.Is(err, unix.ENETDOWN) {
		level = slog.LevelInfo
	}
	p.Log.Log(context.Background(), level, "following the netns of a pod", logPod, pod, logError, err)
}

// changed has all that depends on the netns of m follow it: its addresses, its
// routing, and whether it forwards.
func (p *Pods) changed(m *member) error {
	err := p.refresh(m)
	if w, known := p.workload(m.sandbox); known {
		err = errors.Join(err, p.watchForwarding(m, w))
	}
	return err
}

func (p *Pods) stopFollowing(_ context.Context, m *member) error {
	m.unfollow()
	return nil
}
