// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// Totals is what a stream carried.
type Totals struct {
	Sent     uint64 // bytes from the app into the tunnel
	Received uint64 // bytes from the tunnel to the app
}

// Carry joins the stream and the app's socket until both directions are done,
// and owns the socket from now on: it is closed when Carry returns. Each side
// may close its direction alone (FIN and END_STREAM). If either breaks off, the
// other is reset, and so is the app when the tunnel ends; then the error says why.
func (s *Stream) Carry(app *net.TCPConn) (Totals, error) {
	defer s.letGo()
	raw, err := app.SyscallConn()
	if err != nil {
		app.Close()
		s.appFailed(err)
		return Totals{}, s.result()
	}
	app.SetDeadline(time.Time{}) // stopReading is the only one to set one
	p := &pump{s: s, raw: raw}
	if s.attach(app, raw) {
		p.run()
	}
	<-s.done
	err = s.result()
	if err != nil { // sever does so too, but perhaps later than we close
		app.SetLinger(0)
	}
	app.Close()
	return s.Totals(), err
}

// Totals is what the stream has carried so far, and in the end what Carry
// returns.
func (s *Stream) Totals() Totals {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Totals{Sent: s.sent.Load(), Received: s.received}
}

// pump moves bytes from an app into its stream. It reads no more than the peer
// takes, into a buffer that it takes when there is something to read and that
// grows with what comes.
type pump struct {
	s   *Stream
	raw syscall.RawConn

	size   int // of the buffer to take
	full   int // reads in a row that filled it
	short  int // reads in a row that left most of it empty
	limit  int
	buf    *buffer
	n      int
	err    error
	readFn func(uintptr) bool
}

func (p *pump) run() {
	p.size = bufferSizes[0]
	p.readFn = p.readSome
	for {
		if p.limit = p.s.awaitWindow(); p.limit == 0 {
			return
		}
		err := p.raw.Read(p.readFn)
		if err == nil {
			err = p.err
		}
		switch {
		case err == io.EOF:
			p.s.send(nil, true)
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			p.s.appFailed(err) // nothing, if the stream is over: then it was we who closed the socket
			return
		}
		ok := p.s.send(p.buf.b[:p.n], false)
		p.buf.release()
		p.buf = nil
		if !ok {
			return
		}
		p.s.sent.Add(uint64(p.n))
		p.adapt()
	}
}

// readSome reads what there is, or has RawConn.Read wait, without a buffer, for more.
func (p *pump) readSome(fd uintptr) bool {
	most := min(p.size, p.limit)
	p.buf = takeBuffer(most)
	p.n, p.err = socket.Read(fd, p.buf.b[:most])
	switch {
	case p.err == nil && p.n > 0:
		return true
	case p.err == nil:
		p.err = io.EOF
	}
	p.buf.release()
	p.buf = nil
	return p.err != syscall.EAGAIN
}

// adapt sizes the next buffer: up after two full reads, down after four that
// used less than a quarter.
func (p *pump) adapt() {
	switch {
	case p.n == min(p.size, p.limit):
		p.short = 0
		if p.full++; p.full == 2 && p.size < largestBuffer {
			p.size, p.full = p.size*4, 0
		}
	case p.n < p.size/4:
		p.full = 0
		if p.short++; p.short == 4 && p.size > bufferSizes[0] {
			p.size, p.short = p.size/4, 0
		}
	default:
		p.full, p.short = 0, 0
	}
}

// awaitWindow waits until the peer takes bytes and returns how many to read, or
// 0 if it never will again. The more streams wait for the tunnel, the less each
// holds in hand.
func (s *Stream) awaitWindow() int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for s.sendWindow <= 0 && !s.over && !s.endSent {
		s.changed.Wait()
	}
	if s.over || s.endSent {
		return 0
	}
	s.reading = true
	return min(s.sendWindow, max(largestBuffer/(1+s.c.ring.n), bufferSizes[1]))
}

// send returns when p is on its way, or at least copied; false if the stream
// sends no more.
func (s *Stream) send(p []byte, end bool) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.reading = false
	if s.over || s.endSent {
		return false
	}
	s.out, s.endWanted = p, end
	c.ring.push(s)
	c.flush(s)
	for !s.over && !s.endSent && (len(s.out) > 0 || end) {
		s.changed.Wait()
	}
	return !s.over && (end || !s.endSent)
}

// appGone reports that the app broke its connection off while nobody was
// reading from it: its kernel answered something we sent, for instance a
// keepalive, with a reset. A hang-up without an error is not that: both ends
// have finished, and the stream may have yet to send what is left in the socket.
func (s *Stream) appGone() bool {
	s.mu.Lock()
	raw, dead := s.raw, s.dead
	s.mu.Unlock()
	if raw == nil || dead {
		return false
	}
	gone := false
	raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n == 1 && fds[0].Revents&unix.POLLERR != 0
	})
	return gone
}

// stopReading wakes a pump whose bytes the peer no longer wants.
func (s *Stream) stopReading() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.app != nil {
		s.app.SetReadDeadline(time.Unix(1, 0))
	}
}
