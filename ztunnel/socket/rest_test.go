// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// world is a socket with its Rest, its reader, and what may still happen to them. Go's
// poller and a Wait are modelled by what their documentation promises.
type world struct {
	state  restState
	ticket Ticket
	past   bool // the read deadline
	unread int  // what the app said, and nobody has read
	edge   bool // Go's poller has seen something since RawConn.Read began or looked
	armed  Ticket
	given  Ticket
	called int // goroutines that Wait started, and that are yet to run
	at     step

	says, asks, stops, failures int // yet to come
	stopped                     bool
}

// step is where the reader stands.
type step int

const (
	begins   step = iota // calls RawConn.Read
	reads                // is in its function
	waits                // is in Go's poller
	expired              // RawConn.Read has ended by the deadline
	refused              // Park did not park
	gone                 // is no goroutine
	returned             // comes back as another
	ended                // has left for ever
)

// rules are the steps of a Rest, of which a test breaks one.
type rules struct {
	park  func(*Rest, Conn, func() (Ticket, error)) bool
	woken func(*Rest, Conn)
	stop  func(*Rest, Conn, func(Ticket))
	edge  bool // Wait does not report what was there before
}

func ours() rules { return rules{park: (*Rest).park, woken: (*Rest).Woken, stop: (*Rest).stop} }

// deadline is the socket's.
type deadline struct{ w *world }

func (d deadline) SetReadDeadline(t time.Time) error {
	d.w.past = !t.IsZero()
	return nil
}

// next returns all worlds that may follow, or what went wrong in this one.
func (r rules) next(w world) (all []world, wrong error) {
	if w.called > 1 || w.called > 0 && w.at != gone {
		return nil, fmt.Errorf("two goroutines read")
	}
	with := func(change func(w *world, rest *Rest)) {
		n := w
		rest := &Rest{state: w.state, ticket: w.ticket}
		change(&n, rest)
		n.state, n.ticket = rest.state, rest.ticket
		all = append(all, n)
	}
	to := func(at step) { with(func(w *world, _ *Rest) { w.at = at }) }
	switch w.at {
	case begins:
		if w.past {
			to(expired)
		} else {
			with(func(w *world, _ *Rest) { w.at, w.edge = reads, false })
		}
	case reads:
		with(func(w *world, _ *Rest) { w.at, w.unread = waits, 0 })
	case waits:
		if w.past {
			to(expired)
		}
		if w.edge {
			with(func(w *world, _ *Rest) { w.at, w.edge = reads, false })
		}
	case expired:
		park := func(fails bool) {
			with(func(w *world, rest *Rest) {
				w.at = refused
				if r.park(rest, deadline{w}, func() (Ticket, error) {
					if fails {
						w.failures--
						return 0, errors.New("no poller")
					}
					w.given = w.given%2 + 1 // so that there are not endless worlds
					w.armed = w.given
					return w.given, nil
				}) {
					w.at = gone
				}
			})
		}
		park(false)
		if w.failures > 0 {
			park(true)
		}
	case refused:
		if w.state == restStopped {
			to(ended)
		} else {
			to(begins)
		}
	case gone:
		if w.called > 0 {
			with(func(w *world, _ *Rest) { w.at, w.called = returned, w.called-1 })
		}
	case returned:
		with(func(w *world, rest *Rest) { r.woken(rest, deadline{w}); w.at = begins })
	}
	if w.armed != 0 && w.unread > 0 && !r.edge {
		with(func(w *world, _ *Rest) { w.armed, w.called = 0, w.called+1 })
	}
	if w.says > 0 {
		with(func(w *world, _ *Rest) {
			w.says, w.unread, w.edge = w.says-1, w.unread+1, true
			if r.edge && w.armed != 0 {
				w.armed, w.called = 0, w.called+1
			}
		})
	}
	if w.asks > 0 {
		with(func(w *world, rest *Rest) { rest.Ask(deadline{w}); w.asks-- })
	}
	if w.stops > 0 {
		with(func(w *world, rest *Rest) {
			w.stops, w.stopped = w.stops-1, true
			r.stop(rest, deadline{w}, func(t Ticket) {
				if w.armed == t {
					w.armed, w.called = 0, w.called+1
				}
			})
		})
	}
	if len(all) == 0 {
		return nil, w.mayStay()
	}
	return all, nil
}

// mayStay is what is wrong with a world in which nothing happens any more.
func (w world) mayStay() error {
	switch {
	case w.stopped && w.at != ended:
		return fmt.Errorf("stopped, and the reader stands at %d", w.at)
	case w.stopped:
		return nil
	case w.unread > 0:
		return fmt.Errorf("%d unread, and the reader stands at %d", w.unread, w.at)
	case w.at == waits && w.state != restAwake, w.at == gone && (w.state != restParked || w.armed == 0), w.at != waits && w.at != gone:
		return fmt.Errorf("the reader stands at %d, and the Rest is %d", w.at, w.state)
	}
	return nil
}

// explore goes through all worlds. From each there must be a way to one in which nothing
// is left to do.
func (r rules) explore() (worlds int, wrong error) {
	before := map[world][]world{}
	var settled []world
	open := []world{{says: 2, asks: 3, stops: 1, failures: 1}, {says: 2, asks: 3, failures: 1}}
	for _, w := range open {
		before[w] = nil
	}
	for len(open) > 0 {
		w := open[len(open)-1]
		open = open[:len(open)-1]
		all, err := r.next(w)
		if err != nil {
			return len(before), fmt.Errorf("%w: %+v", err, w)
		}
		if len(all) == 0 {
			settled = append(settled, w)
		}
		for _, n := range all {
			if _, seen := before[n]; !seen {
				open = append(open, n)
			}
			before[n] = append(before[n], w)
		}
	}
	settles := map[world]bool{}
	for len(settled) > 0 {
		w := settled[len(settled)-1]
		settled = settled[:len(settled)-1]
		if !settles[w] {
			settles[w] = true
			settled = append(settled, before[w]...)
		}
	}
	for w := range before {
		if !settles[w] {
			return len(before), fmt.Errorf("never comes to rest: %+v", w)
		}
	}
	return len(before), nil
}

func TestNoWakeUpOfARestIsLost(t *testing.T) {
	worlds, err := ours().explore()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d worlds", worlds)
}

// The model is of use only if it sees what would lose a wake-up.
func TestTheModelOfARestFindsBrokenOnes(t *testing.T) {
	for name, breaks := range map[string]func(*rules){
		"what lies in the socket is not reported": func(r *rules) { r.edge = true },
		"Stop does not end the Wait": func(r *rules) {
			r.stop = func(rest *Rest, conn Conn, _ func(Ticket)) { rest.stop(conn, func(Ticket) {}) }
		},
		"Stop sets no deadline": func(r *rules) {
			r.stop = func(rest *Rest, _ Conn, wake func(Ticket)) { rest.stop(deadline{new(world)}, wake) }
		},
		"Park ignores Stop": func(r *rules) {
			r.park = func(rest *Rest, conn Conn, wait func() (Ticket, error)) bool {
				rest.state = restAsked
				return rest.park(conn, wait)
			}
		},
		"Woken leaves the deadline": func(r *rules) {
			r.woken = func(rest *Rest, _ Conn) { rest.Woken(deadline{new(world)}) }
		},
		"Woken forgets Stop": func(r *rules) {
			r.woken = func(rest *Rest, conn Conn) { rest.state = restAsked; rest.Woken(conn) }
		},
		"Park waits without noting it": func(r *rules) {
			r.park = func(rest *Rest, conn Conn, wait func() (Ticket, error)) bool {
				parked := rest.park(conn, wait)
				rest.state = restAsked
				return parked
			}
		},
	} {
		broken := ours()
		breaks(&broken)
		if _, err := broken.explore(); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// What the model assumes of a Wait and of a read deadline, with a socket.
func TestAReaderParksAndComesBackForWhatIsSaid(t *testing.T) {
	a, b, _, conn := connected(t)
	var rest Rest
	read := func() error {
		return b.Read(func(fd uintptr) bool {
			_, err := Read(fd, make([]byte, 2))
			return err == nil
		})
	}
	for range 3 {
		rest.Ask(conn)
		if err := read(); err == nil {
			t.Fatal("a reader that was asked to leave stays")
		}
		back := make(chan struct{})
		if !rest.Park(conn, b, func() { close(back) }) {
			t.Fatal("does not park")
		}
		wantWaiting(t, back)
		send(t, a)
		<-back
		rest.Woken(conn)
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
	rest.Stop(conn)
	if rest.Park(conn, b, nil) || !rest.Stopped() {
		t.Error("parks after Stop")
	}
}
