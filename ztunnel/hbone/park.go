// SPDX-License-Identifier: Apache-2.0

package hbone

// A stream whose app and peer have been silent from one look to the next is parked: its
// app's socket waits in socket.Wait, and there is no goroutine, for its stack would be the
// most of what an idle stream takes. Looks are at each tick of the tunnel and halfway to the
// next. Whatever the pump would have noticed wakes it: bytes, a FIN or a reset of the app,
// and stopReading and sever, which end the Wait. The end of a stream, by whomever, severs
// its app. What the peer says is the tunnel's reader's to pass on, and needs no pump.
//
// A stream whose app has finished has nothing to wait for but the end. So it has no
// goroutine either.

// leavePump has the stream hold nothing that only a pump needs.
func (w *writer) leavePump(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.changed = nil
}

// idles reports, at a tick, that a stream whose app has said all for now should be
// parked; conn.mu is held.
func (s *Stream) idles() bool {
	before, now := s.moved, s.Totals()
	s.moved = uint32(now.Sent + now.Received)
	return s.moved == before && s.rest.Awake()
}

// resume goes on with a stream that was parked.
func (s *Stream) resume() {
	s.rest.Woken(s.toApp.app)
	s.carryOn()
}

// carryOn is the way from where a stream has its app to conclude. It returns earlier if
// that goes on in another goroutine.
func (s *Stream) carryOn() {
	if !s.pump() {
		return
	}
	s.rest.Leave()
	if s.isDoneOrAwaited() {
		s.conclude(s.toApp.app, s.toApp.raw)
	}
}

// isDoneOrAwaited reports that the stream is done. If not, conclude is called when it is.
func (s *Stream) isDoneOrAwaited() bool {
	s.c.mu.Lock()
	defer s.c.unlock()
	select {
	case <-s.done:
		return true
	default:
		s.awaited = true
		return false
	}
}

// isDone closes done; conn.mu is held.
func (s *Stream) isDone() {
	close(s.done)
	if s.awaited {
		s.c.hooks.workers.Go(func() { s.conclude(s.toApp.app, s.toApp.raw) })
	}
}
