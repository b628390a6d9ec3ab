// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// A relay whose ends have both been silent from one tick to the next comes to rest: each
// direction waits in socket.Wait for its src, and has no goroutine, whose stack would be
// the most of what an idle relay takes. It holds no buffer, no pipe, and no room that the
// kernel did not use when it came to rest.
//
// What a goroutine would have noticed ends the rest of its direction: bytes, a FIN, a
// reset, and Stop, by which abort and the end of the other direction call it. The other
// direction rests on. A direction that has ended waits only for src to break, from its
// end on and without a tick.

// restAfter is the time between two ticks.
const restAfter = 10 * time.Second

// ticking is all relays of the process.
var ticking = ticks{every: restAfter}

type ticks struct {
	every time.Duration

	mu     sync.Mutex           // a leaf
	all    map[*relaying]uint64 // and what each had carried at the last tick
	coming bool                 // a tick
}

func (t *ticks) add(r *relaying) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[*relaying]uint64{}
	}
	t.all[r] = r.carried()
	if !t.coming {
		t.coming = true
		time.AfterFunc(t.every, t.tick)
	}
}

func (t *ticks) remove(r *relaying) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.all, r); len(t.all) == 0 {
		t.all = nil // a map keeps the size that it had
	}
}

func (t *ticks) tick() {
	t.ask()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.coming = len(t.all) > 0; t.coming {
		time.AfterFunc(t.every, t.tick)
	}
}

// ask has the relays rest that have carried nothing since it was called last.
func (t *ticks) ask() {
	for _, r := range t.silent() {
		r.toFar.rest.Ask(r.app)
		r.toApp.rest.Ask(r.far)
	}
}

// silent are those relays. That of them which is over by now has nobody who could rest.
func (t *ticks) silent() (all []*relaying) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r, before := range t.all {
		if now := r.carried(); now != before {
			t.all[r] = now
		} else {
			all = append(all, r)
		}
	}
	return all
}

// carried is how many bytes the relay has moved.
func (r *relaying) carried() uint64 { return r.toFar.n.Load() + r.toApp.n.Load() }

// isRest reports that a direction was asked to rest: an error of its move.
func isRest(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && !errors.As(err, new(deaf))
}

// park has the direction rest until src has something, or Stop. It reports false if it
// must go on itself.
func (d *oneWay) park(ready func()) bool {
	d.room.narrow(d.dst)
	return d.parkBy(d.rest.Park, ready)
}

// parkDeaf has the direction rest until src breaks, or Stop.
func (d *oneWay) parkDeaf(ready func()) bool { return d.parkBy(d.rest.ParkDeaf, ready) }

func (d *oneWay) parkBy(park func(socket.Conn, syscall.RawConn, func()) bool, ready func()) bool {
	raw, err := d.src.SyscallConn()
	return err == nil && park(d.src, raw, ready)
}

// resume goes on with a direction that rested.
func (r *relaying) resume(d, back *oneWay) {
	d.rest.Woken(d.src)
	r.carry(d, back)
}

// watchOn goes on with a direction that rested behind its end.
func (r *relaying) watchOn(d *oneWay) {
	d.rest.Woken(d.src)
	if !r.watch(d) {
		r.leave()
	}
}
