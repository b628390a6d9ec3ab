// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"sync"
	"syscall"
	"time"
)

// Rest lets whoever reads from a socket by RawConn.Read leave while nothing comes, and
// go on in another goroutine when something does. The zero Rest is awake.
//
//	         Ask            Park
//	awake ────────→ asked ────────→ parked
//	  ↑                                │ something came: Woken
//	  └────────────────────────────────┘
//
//	any of them, by Stop or Leave → stopped: nobody parks any more
//
// RawConn.Read ends only by a read deadline, so that says what the state says. It has
// passed in asked and parked, and after Stop; only Park, Woken, Stop and Leave may
// touch it as long as the Rest is not stopped. No wake-up is lost:
//
//   - what comes between the last read and Park is told by Wait, which reports what is
//     there already;
//   - Stop before Park has Park refuse; Stop after it ends the Wait, and Woken leaves
//     the deadline, by which the next RawConn.Read ends;
//   - Wait calls back once, whoever ends it, so that never two goroutines read.
//
// TestNoWakeUpOfARestIsLost goes through all sequences of these steps.
type Rest struct {
	mu     sync.Mutex // a leaf, but for Wait's
	state  restState
	ticket Ticket // of parked
}

type restState uint8

const (
	restAwake   restState = iota // a goroutine reads, or waits in RawConn.Read
	restAsked                    // its RawConn.Read ends, so that it may park
	restParked                   // there is none: the socket is in a Wait
	restStopped                  // what is to be read is read, and RawConn.Read does not wait
)

// Conn is what a Rest needs of a net.Conn.
type Conn interface{ SetReadDeadline(time.Time) error }

var past = time.Unix(1, 0)

// Ask has the RawConn.Read of a socket that is awake end by os.ErrDeadlineExceeded. Its
// caller then calls Park.
func (r *Rest) Ask(conn Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == restAwake {
		r.state = restAsked
		conn.SetReadDeadline(past)
	}
}

// Park has ready called, as by Wait, when there is something to read. Its caller returns
// then, and ready calls Woken before it reads. Park reports false if the caller must go
// on itself: because of Stop, or for want of a poller.
func (r *Rest) Park(conn Conn, raw syscall.RawConn, ready func()) (parked bool) {
	return r.park(conn, func() (Ticket, error) { return Wait(raw, ready) })
}

// ParkDeaf is Park, but ready is called, as by WaitBroken, when the connection breaks.
func (r *Rest) ParkDeaf(conn Conn, raw syscall.RawConn, ready func()) (parked bool) {
	return r.park(conn, func() (Ticket, error) { return WaitBroken(raw, ready) })
}

func (r *Rest) park(conn Conn, wait func() (Ticket, error)) (parked bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == restStopped {
		return false
	}
	ticket, err := wait()
	if err != nil {
		r.wakeLocked(conn)
		return false
	}
	r.state, r.ticket = restParked, ticket
	return true
}

// Woken makes the socket readable by RawConn.Read again.
func (r *Rest) Woken(conn Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakeLocked(conn)
}

func (r *Rest) wakeLocked(conn Conn) {
	if r.state != restStopped {
		r.state, r.ticket = restAwake, 0
		conn.SetReadDeadline(time.Time{})
	}
}

// Stop has RawConn.Read end, now and whenever it is called again, and ends the Wait.
func (r *Rest) Stop(conn Conn) { r.stop(conn, Wake) }

func (r *Rest) stop(conn Conn, wake func(Ticket)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn.SetReadDeadline(past)
	if r.state == restParked {
		wake(r.ticket)
	}
	r.state = restStopped
}

// Leave says that nobody reads any more, or not in this way: the deadline is the caller's.
func (r *Rest) Leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = restStopped
}

// Stopped reports that nobody parks any more.
func (r *Rest) Stopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == restStopped
}

// Parked reports that there is no goroutine.
func (r *Rest) Parked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == restParked
}

// Awake reports that there is a goroutine, and that nobody asked it to leave.
func (r *Rest) Awake() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == restAwake
}
