// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Gate bounds what handshakes cost a process, those that arrive and those that
// its pods begin: how many are under way, and how many of them compute at once.
// Half of the processors are left to tunnels that there are already.
//
// A peer that says nothing, or little, holds a place but no slot, and a place
// only until somebody needs it (evictLocked). When several wait for a slot, an
// address that has or lately had a tunnel goes first; then networks take turns, and
// in each of them whoever owes least is first (before). An address owes for what its
// handshakes cost, and so does its network, and the pod that they are with. So nobody
// is delayed much by an address that comes to many pods, by many that come to one
// pod, or by a host that uses another address of its subnet each time.
type Gate struct {
	slots, places int

	mu       sync.Mutex // guards what follows, all accounts and visitors
	running  int
	inside   []*visitor                // the oldest first
	waiting  []*visitor                // for a slot, in the order they came
	accounts map[netip.Prefix]*account // of addresses, and of networks
	swept    time.Time                 // when accounts were last looked through
}

// Door is where the handshakes of one pod come to the Gate.
type Door struct {
	gate    *Gate
	account account
}

// visitor is a handshake under way.
type visitor struct {
	gate    *Gate
	peer    *account // of the address
	network *account // that the address is in
	pod     *account // of the Door
	evict   func()
	turn    chan struct{} // gets the slot
	began   time.Time     // to use it
	busy    bool          // it has a slot, or waits for one; else it waits for the peer
}

// NewGate makes the Gate of a process.
func NewGate() *Gate {
	return &Gate{
		slots: max(1, runtime.GOMAXPROCS(0)/2), places: handshakeLimit,
		accounts: make(map[netip.Prefix]*account),
	}
}

// Door is another pod's.
func (g *Gate) Door() *Door { return &Door{gate: g} }

// doorOr is door, or that of a Gate of its own.
func doorOr(door *Door) *Door {
	if door == nil {
		return NewGate().Door()
	}
	return door
}

// Stats is how many handshakes may be under way, and how many are.
func (g *Gate) Stats() (most, underWay int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.places, len(g.inside)
}

// enter gives a handshake with addr a place, which evict ends early. Whoever
// entered must leave.
func (d *Door) enter(addr netip.Addr, evict func()) *visitor {
	g := d.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	peer := g.accountLocked(alone(addr))
	switch {
	case peer.inside >= handshakesOfPeer:
		g.evictLocked(func(v *visitor) bool { return v.peer == peer })
	case d.account.inside >= handshakesOfPod:
		g.evictLocked(func(v *visitor) bool { return v.pod == &d.account })
	case len(g.inside) >= g.places:
		g.evictLocked(func(*visitor) bool { return true })
	}
	v := &visitor{gate: g, pod: &d.account, evict: evict, turn: make(chan struct{}, 1)}
	v.pod.inside++
	v.peer = g.accountLocked(alone(addr)) // again: whoever was evicted may have been the last of it
	v.peer.inside++                       // before another account takes its room
	v.network = g.accountLocked(networkOf(addr))
	v.network.inside++
	g.inside = append(g.inside, v)
	return v
}

// evictLocked ends one of those that may go: of the address that has the most, a
// stranger's counted strangerWeight times, then of the network and of the pod with the
// most, the one whose peer is silent for longest. If none is silent, all get on, so it
// is the last that came.
func (g *Gate) evictLocked(mayGo func(*visitor) bool) {
	now := time.Now()
	var worst *visitor
	for _, v := range g.inside {
		if mayGo(v) && (worst == nil || v.worse(worst, now)) {
			worst = v
		}
	}
	g.removeLocked(worst)
	worst.evict()
}

// worse reports whether v goes before other, which is older.
func (v *visitor) worse(other *visitor, now time.Time) bool {
	switch mine, others := v.peer.weight(now), other.peer.weight(now); {
	case mine != others:
		return mine > others
	case v.network.inside != other.network.inside:
		return v.network.inside > other.network.inside
	case v.pod.inside != other.pod.inside:
		return v.pod.inside > other.pod.inside
	}
	return other.busy
}

// leave gives the place back.
func (v *visitor) leave() {
	v.gate.mu.Lock()
	defer v.gate.mu.Unlock()
	v.gate.removeLocked(v)
}

// removeLocked takes a place back, once.
func (g *Gate) removeLocked(v *visitor) {
	i := slices.Index(g.inside, v)
	if i < 0 {
		return
	}
	g.inside = slices.Delete(g.inside, i, i+1)
	v.peer.inside--
	v.network.inside--
	v.pod.inside--
	g.tidyLocked(v.peer)
	g.tidyLocked(v.network)
}

// take waits for a slot. Whoever got one must release it.
func (v *visitor) take(ctx context.Context) error {
	g := v.gate
	g.mu.Lock()
	v.busy = true
	if g.mayRunLocked(v) {
		g.runLocked(v)
		g.mu.Unlock()
		return nil
	}
	g.waiting = append(g.waiting, v)
	g.mu.Unlock()
	select {
	case <-v.turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.waiting, v)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
		v.busy = false
	}
	g.mu.Unlock()
	if i < 0 { // the slot came at the same moment
		<-v.turn
		v.release()
	}
	return context.Cause(ctx)
}

// release gives the slot to the next, and charges for the time it was held.
func (v *visitor) release() {
	g := v.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	v.busy = false
	g.running--
	v.peer.running--
	for _, a := range []*account{v.peer, v.network, v.pod} {
		a.charge(now, now.Sub(v.began))
	}
	g.tidyLocked(v.peer)
	g.tidyLocked(v.network)
	next := -1
	for i, w := range g.waiting {
		if g.mayRunLocked(w) && (next < 0 || w.before(g.waiting[next], now)) {
			next = i
		}
	}
	if next < 0 {
		return
	}
	w := g.waiting[next]
	g.waiting = slices.Delete(g.waiting, next, next+1)
	g.runLocked(w)
	w.turn <- struct{}{}
}

// mayRunLocked leaves an address no more than half of the slots.
func (g *Gate) mayRunLocked(v *visitor) bool {
	return g.running < g.slots && v.peer.running < max(1, g.slots/2)
}

func (g *Gate) runLocked(v *visitor) {
	g.running++
	v.peer.running++
	v.began = time.Now()
}

// before reports whether v gets a slot before one that came earlier. Of strangers that
// owe nothing, it is the turn of whoever computed longest ago: a queue in the order of
// arrival is as long as a flood makes it.
func (v *visitor) before(earlier *visitor, now time.Time) bool {
	favoured := v.peer.favoured(now)
	if favoured != earlier.peer.favoured(now) {
		return favoured
	}
	if !favoured && !v.network.free.Equal(earlier.network.free) {
		return v.network.free.Before(earlier.network.free)
	}
	mine, others := max(v.peer.debt(now), v.pod.debt(now)), max(earlier.peer.debt(now), earlier.pod.debt(now))
	switch {
	case mine != others:
		return mine < others
	case favoured:
		return v.peer.debt(now) < earlier.peer.debt(now)
	}
	return v.peer.free.Before(earlier.peer.free)
}
