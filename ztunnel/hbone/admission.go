// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
)

// admission bounds what strangers cost: how many handshakes are under way, and
// how many of them compute at once. A peer that says nothing, or little, holds a
// place but no slot, and a place only until somebody needs it: the oldest
// handshake of the address with the most of them makes room. No address gets
// more than half of the slots.
type admission struct {
	slots, places int

	mu      sync.Mutex // guards what follows
	running int
	inside  int
	waiting []*visitor // for a slot, in the order they came
	sources map[netip.Addr]*source
}

type source struct {
	running int
	inside  []*visitor // the oldest first
}

// visitor is a handshake under way.
type visitor struct {
	addr   netip.Addr
	source *source
	evict  func()
	turn   chan struct{} // gets the slot
}

func newAdmission(slots, places int) *admission {
	return &admission{slots: slots, places: places, sources: make(map[netip.Addr]*source)}
}

// enter gives a handshake a place, which evict ends early. Whoever entered
// must leave.
func (a *admission) enter(addr netip.Addr, evict func()) *visitor {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inside >= a.places {
		a.makeRoom()
	}
	s := a.sources[addr]
	if s == nil {
		s = new(source)
		a.sources[addr] = s
	}
	v := &visitor{addr, s, evict, make(chan struct{}, 1)}
	s.inside = append(s.inside, v)
	a.inside++
	return v
}

// makeRoom ends a handshake; mu is held.
func (a *admission) makeRoom() {
	var greediest *source
	for _, s := range a.sources {
		if greediest == nil || len(s.inside) > len(greediest.inside) {
			greediest = s
		}
	}
	v := greediest.inside[0]
	a.remove(v)
	v.evict()
}

func (a *admission) leave(v *visitor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remove(v)
}

// remove takes a place back, once; mu is held.
func (a *admission) remove(v *visitor) {
	i := slices.Index(v.source.inside, v)
	if i < 0 {
		return
	}
	v.source.inside = slices.Delete(v.source.inside, i, i+1)
	a.inside--
	a.tidy(v)
}

// tidy forgets an address that has nothing here; mu is held.
func (a *admission) tidy(v *visitor) {
	if len(v.source.inside) == 0 && v.source.running == 0 && a.sources[v.addr] == v.source {
		delete(a.sources, v.addr)
	}
}

// take waits for a slot. Whoever got one must release it.
func (a *admission) take(ctx context.Context, v *visitor) error {
	a.mu.Lock()
	if a.mayRun(v) {
		a.run(v)
		a.mu.Unlock()
		return nil
	}
	a.waiting = append(a.waiting, v)
	a.mu.Unlock()
	select {
	case <-v.turn:
		return nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	i := slices.Index(a.waiting, v)
	if i >= 0 {
		a.waiting = slices.Delete(a.waiting, i, i+1)
	}
	a.mu.Unlock()
	if i < 0 { // the slot came at the same moment
		<-v.turn
		a.release(v)
	}
	return context.Cause(ctx)
}

// release gives a slot to the next: of those whose address has the fewest, the
// one that waits longest.
func (a *admission) release(v *visitor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	v.source.running--
	a.tidy(v)
	next := -1
	for i, w := range a.waiting {
		if a.mayRun(w) && (next < 0 || w.source.running < a.waiting[next].source.running) {
			next = i
		}
	}
	if next < 0 {
		return
	}
	w := a.waiting[next]
	a.waiting = slices.Delete(a.waiting, next, next+1)
	a.run(w)
	w.turn <- struct{}{}
}

func (a *admission) mayRun(v *visitor) bool {
	return a.running < a.slots && v.source.running < max(1, a.slots/2)
}

func (a *admission) run(v *visitor) {
	a.running++
	v.source.running++
}

// turnstile is the socket of a handshake under way: it holds a slot from when
// the peer said something until it must say more. After open it is only the
// socket.
type turnstile struct {
	net.Conn
	ctx       context.Context // of the handshake
	admission *admission      // nil: open
	visitor   *visitor
	holds     bool
}

func (t *turnstile) Read(p []byte) (int, error) {
	if t.admission == nil {
		return t.Conn.Read(p)
	}
	t.release()
	n, err := t.Conn.Read(p)
	if err == nil {
		err = t.admission.take(t.ctx, t.visitor)
		t.holds = err == nil
	}
	return n, err
}

func (t *turnstile) release() {
	if t.holds {
		t.holds = false
		t.admission.release(t.visitor)
	}
}

// open ends the handshake.
func (t *turnstile) open() {
	t.release()
	t.admission, t.visitor, t.ctx = nil, nil, nil
}

// SyscallConn is the socket's.
func (t *turnstile) SyscallConn() (syscall.RawConn, error) {
	if s, ok := t.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.ENOTSOCK
}

// NetConn is the socket, for who has no need of a turnstile any more.
func (t *turnstile) NetConn() net.Conn { return t.Conn }
