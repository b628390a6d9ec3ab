// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// Stream is one CONNECT in a tunnel: the connection of one app. Whoever got it
// from Open calls Carry or Reset; from a Listener, Reject, Reset, or Accept and
// then Carry.
type Stream struct {
	c        *conn
	id       uint32
	target   netip.AddrPort
	header   *Header       // of the request at a Listener, of the answer at a Pool; nil from Carry on
	answered chan struct{} // the answer came; nil at a Listener, and from Carry on
	done     chan struct{} // it is over; if orderly, the peer has acknowledged that, perhaps not yet the app
	sent     atomic.Uint64 // bytes of the app that went into the tunnel

	sender // guarded by writer.mu

	// conn.mu guards what follows. The states of sender and receiver are about the app's
	// bytes. The fields here are about frames, the answer and the end, and each may
	// hold in several of those states: so they are no states themselves. Small ones stand
	// together: there are many idle streams (TestIdleConnectionsAreSmall of package proxy).
	accepted bool  // the 200 was sent, or came; bytes may go before
	interim  uint8 // 1xx answers
	endSent  bool  // the peer knows that nothing more comes: after senderEnded, a reset may be yet to be sent
	gotEnd   bool  // END_STREAM or RST_STREAM came; the receiver learns that behind the bytes before it
	told     bool  // the app's kernel took the FIN: receiverTold is before that, and may be cut later
	orderly  bool  // both sides had said all; a rejected stream has no err either
	unread   bool  // the peer wants no more of the app, whose socket may still hold some
	over     bool  // off its tunnel; done is closed now or, if orderly, with the proof
	counted  bool  // in conn.active
	letGone  bool  // no more in conn.live
	awaited  bool  // by Carry, which goes on in a goroutine of its own when done is closed

	moved uint32 // bytes that had been carried at the last tick, modulo 2^32

	cause      error // of an RST_STREAM: why the stream is over once the app has what came before
	overAt     time.Time
	cutBy      error   // why it was broken off after it was over
	mark       int64   // bytes of the tunnel that must arrive until then, see acknowledging
	err        error   // why it is over; nil if orderly and proven, or rejected
	fellBefore *Stream // the next of conn.fallen
	allowed    int     // streams, by the peer, when this one was opened
	window     int     // what we let the peer send
	limit      int     // of window, when all was taken
	grantedAt  time.Time
	unacked    int          // taken off window and since written to the app
	held       int          // taken off window and waiting for the app
	lent       int          // of limit, by Memory
	listening  *net.TCPConn // to wake when the stream is answered or over, or nil

	toApp   receiver
	rest    socket.Rest // of the pump
	carried func(Totals, error)
	arrival
}

// arrival is what one read of the tunnel brought for a stream; the reader's alone.
type arrival struct {
	segments [][]byte
	end      receiverState // receiverEnded or receiverCut, if that came too
	touched  bool
	overhead int // padding
}

// newStream registers a stream; conn.mu is held.
func newStream(c *conn, id uint32, target netip.AddrPort) *Stream {
	s := &Stream{
		c: c, id: id, target: target,
		done:    make(chan struct{}),
		counted: true, allowed: c.peerStreams, window: streamWindow, limit: streamWindow,
		grantedAt: time.Now(), mark: notWritten,
	}
	s.sendWindow = c.peerWindow
	if c.client {
		s.answered = make(chan struct{})
	}
	if c.streams == nil {
		c.streams = make(map[uint32]*Stream)
	}
	c.streams[id] = s
	c.quiet.Store(false)
	c.active++
	return s
}

// Peer is the verified identity at the other end of the tunnel.
func (s *Stream) Peer() spiffeid.ID { return s.c.peer }

// LocalAddr is this end's address of the tunnel.
func (s *Stream) LocalAddr() netip.AddrPort { return s.c.local }

// RemoteAddr is the peer's address of the tunnel.
func (s *Stream) RemoteAddr() netip.AddrPort { return s.c.remote }

// Target is the authority of the CONNECT.
func (s *Stream) Target() netip.AddrPort { return s.target }

// Header is what the peer sent with its request or answer. Carry forgets it.
func (s *Stream) Header() Header {
	if s.header == nil {
		return Header{}
	}
	return *s.header
}

// Spoke reports that bytes of the peer's app are here, which Carry writes first of all.
func (s *Stream) Spoke() bool {
	s.toApp.mu.Lock()
	defer s.toApp.mu.Unlock()
	return s.toApp.waiting.size > 0
}

// Done is closed when the stream is over, for instance because the peer reset it and
// its app, if there is one, has what came before.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Accept answers a request with 200. The app must be reached by then.
func (s *Stream) Accept() error {
	c := s.c
	c.mu.Lock()
	if s.over {
		defer c.unlock()
		return s.err
	}
	s.accepted = true
	answer := h2.AppendStatus(nil, 200)
	if s.saysEnough() {
		c.writer.answerSoon(s, answer)
		c.unlock()
		return nil
	}
	c.writer.queueBlock(s.id, 0, answer)
	c.unlock()
	c.writer.run()
	return nil
}

// Reject answers a request with another status than 200 and ends the stream. A
// peer with whose requests that happens without end loses its tunnel.
func (s *Stream) Reject(status int) error {
	defer s.letGo()
	c := s.c
	c.mu.Lock()
	if s.over {
		defer c.unlock()
		return s.err
	}
	c.reject(s, status)
	tolerance := c.tolerance
	c.unlock()
	if tolerance != nil && !tolerance.spend() {
		c.fail(broken(h2.CodeCalm, "more than %v requests a second that are rejected", rejectRate.PerSecond))
	}
	return nil
}

// reject queues the answer. As RFC 9113 §8.1 asks, it then tells the peer to
// stop sending, without error; mu is held.
func (c *conn) reject(s *Stream, status int) {
	c.writer.stop(s)
	c.writer.queueBlock(s.id, h2.FlagEndStream, h2.AppendStatus(nil, status))
	s.endSent = true
	if !s.gotEnd {
		c.writer.queue(func(b []byte) []byte { return h2.AppendReset(b, s.id, h2.CodeNone) })
		c.forgive(s)
	}
	c.end(s, nil)
	c.writer.wake()
}

// Reset breaks the stream off: the peer's app gets a TCP reset. A stream that is over
// only waits no longer for what is yet to be acknowledged.
func (s *Stream) Reset() {
	s.resetWith(h2.CodeCancel, errBrokenOff)
	s.letGo()
}

var errBrokenOff = fmt.Errorf("%w: broken off here", ErrReset)

// Close is Reset with the reason that Carry is to return, for instance a
// change of policy.
func (s *Stream) Close(reason error) { s.resetWith(h2.CodeCancel, reason) }

func (s *Stream) resetWith(c h2.Code, err error) {
	s.c.mu.Lock()
	defer s.c.unlock()
	if !s.c.reset(s, c, err) {
		s.cutBy = err
		s.c.disown(s, err)
	}
}

// reset ends a stream for err and tells the peer. It reports whether it was this
// call that ended it; mu is held.
func (c *conn) reset(s *Stream, why h2.Code, err error) bool {
	if s.over {
		return false
	}
	if c.err == nil && !s.closed() {
		c.writer.stop(s) // first: nothing that its app says may follow
		c.writer.say(func(b []byte) []byte { return h2.AppendReset(b, s.id, why) })
		if !s.gotEnd {
			c.forgive(s)
		}
	}
	return c.end(s, err)
}

// closed reports that both sides have sent all. Such a stream needs its tunnel
// no longer, though the app may still be reading; mu is held.
func (s *Stream) closed() bool { return s.endSent && s.gotEnd }

// end takes a stream that is over off its tunnel, and has unlock cut its app off. It
// reports whether it was this call that ended it; mu is held.
func (c *conn) end(s *Stream, err error) bool {
	if s.over {
		return false
	}
	s.err = err
	c.remove(s)
	s.isDone()
	s.fellBefore, c.fallen = c.fallen, s
	return true
}

// remove is what end and arrive have in common; mu is held.
func (c *conn) remove(s *Stream) {
	s.over, s.overAt = true, time.Now()
	c.writer.stop(s)
	c.repay(s, s.lent)
	delete(c.streams, s.id)
	c.uncount(s)
	s.wake()
	if len(c.streams) == 0 && c.empty != nil {
		close(c.empty)
		c.empty = nil
	}
}

// uncount takes a stream off the number that is limited; mu is held.
func (c *conn) uncount(s *Stream) {
	if s.counted {
		s.counted = false
		c.active--
		c.used()
	}
}

// letGo says that the Listener's user has no more to do with the stream.
func (s *Stream) letGo() {
	c := s.c
	if c.client {
		return
	}
	c.mu.Lock()
	defer c.unlock()
	if !s.letGone {
		s.letGone = true
		c.live--
	}
}

// Ended is when the stream was over, now if it is not. Carry returns later than
// that: when all has arrived, at the peer and at the app.
func (s *Stream) Ended() time.Time {
	s.c.mu.Lock()
	defer s.c.unlock()
	if !s.over {
		return time.Now()
	}
	return s.overAt
}

// ending is result, and whether both sides had said all.
func (s *Stream) ending() (err error, orderly bool) {
	s.c.mu.Lock()
	defer s.c.unlock()
	return s.err, s.orderly
}

// result is how the stream ended; only after done.
func (s *Stream) result() error {
	s.c.mu.Lock()
	defer s.c.unlock()
	return s.err
}

// await sends the request and returns when the peer accepted it, or the reason
// why it does not.
func (s *Stream) await(ctx context.Context, patience time.Duration, first *early) error {
	defer s.watch(patience).Stop()
	first.follow(ctx, s)
	select {
	case <-s.answered:
		return nil
	case <-s.done:
		return s.result()
	case <-ctx.Done():
		s.giveUp(context.Cause(ctx))
	}
	select { // which of the two it was
	case <-s.answered:
		return nil
	case <-s.done:
		return s.result()
	}
}

// giveUp ends a stream that the peer has not answered.
func (s *Stream) giveUp(why error) {
	s.c.mu.Lock()
	defer s.c.unlock()
	if !s.accepted {
		s.c.reset(s, h2.CodeCancel, &NoAnswerError{s.target, why})
	}
}
