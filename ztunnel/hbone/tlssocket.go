// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/buffer"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

const (
	// tlsOverhead is what a record of TLS 1.3 has besides its plaintext: header, kind and
	// tag, RFC 8446 §5.2.
	tlsOverhead = 5 + 1 + 16
	// mostLate is the bytes of records that crypto/tls may make by itself while the socket
	// takes nothing: answers to the peer's KeyUpdates.
	mostLate = 16 << 10
)

// answerRate bounds these answers: each costs a key schedule, as in package record.
var answerRate = rate.Limit{PerSecond: 1, Burst: 32}

// sealedSizes hold 1, 4 and 16 full records; the smallest is for what is not even one.
var (
	sealedSizes = []int{4 << 10, 18 << 10, 72 << 10, 264 << 10}
	sealed      = buffer.NewPool(sealedSizes...)
)

// errLate ends a tunnel whose peer has crypto/tls answer again and again.
var errLate = errors.New("too many KeyUpdates")

// tlsSocket is the socket below a tls.Conn. In the handshake it is just that. Then Read
// never waits: it hands over what fill has read. Nor does Write: what the tls.Conn writes
// between gather and gathered is left to flush, and what it writes by itself goes as far as
// the socket takes it, then with the next flush.
type tlsSocket struct {
	net.Conn
	raw     syscall.RawConn // nil: a net.Conn that blocks
	written atomic.Uint64   // bytes that the socket took

	// The reader's.
	begun  bool           // the handshake is over
	in     *buffer.Buffer // what was read and not handed over: [r:w); nil: nothing
	r, w   int
	reads  buffer.Fit
	err    error // why nothing more comes
	readFn func(uintptr) bool
	got    int // of readFn
	gotErr error

	// Whoever writes waits for the socket without mu. One flush is under way at a time.
	mu        sync.Mutex
	gathering bool
	out       *buffer.Buffer // what was gathered and not written: [o:n); nil: nothing
	o, n      int
	late      []byte    // behind out
	answers   rate.Left // of answerRate
	beyond    error     // why the peer gets no more of them
	closed    bool      // close_notify was said: nothing follows
	lateFn    func(uintptr) bool

	// flush's alone.
	writeFn, tryFn func(uintptr) bool
	full           bool // the socket took no more
	writeErr       error
}

// begin ends the handshake.
func (s *tlsSocket) begin() {
	s.Conn = s.NetConn()
	s.begun = true
	s.readFn, s.writeFn = s.readSome, s.writeSome
	s.tryFn = func(fd uintptr) bool { s.writeSome(fd); return true }
	s.lateFn = s.writeLate
	if c, ok := s.Conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
}

// NetConn is the socket below, for a caller that has shaken hands.
func (s *tlsSocket) NetConn() net.Conn {
	if wrapped, ok := s.Conn.(interface{ NetConn() net.Conn }); ok {
		return wrapped.NetConn()
	}
	return s.Conn
}

// errWouldWait does not stick to a tls.Conn: it is a net.Error that goes by.
var errWouldWait error = wouldWait{}

type wouldWait struct{}

func (wouldWait) Error() string   { return "would wait" }
func (wouldWait) Timeout() bool   { return true }
func (wouldWait) Temporary() bool { return true }

func (s *tlsSocket) Read(p []byte) (int, error) {
	switch {
	case !s.begun:
		return s.Conn.Read(p)
	case s.in != nil:
		n := copy(p, s.in.Bytes[s.r:s.w])
		if s.r += n; s.r == s.w {
			s.dropInput()
		}
		return n, nil
	case errors.Is(s.err, io.EOF):
		return 0, io.EOF // crypto/tls knows whether that is the end of a record
	}
	return 0, errWouldWait
}

// inHand is the bytes that Read has for crypto/tls.
func (s *tlsSocket) inHand() int { return s.w - s.r }

// idle reports whether a wait for the socket misses nothing.
func (s *tlsSocket) idle() bool { return s.raw != nil && s.in == nil && s.err == nil }

func (s *tlsSocket) dropInput() {
	s.in.Release()
	s.in, s.r, s.w = nil, 0, 0
}

// fill waits for bytes and reads what there is; nothing may be in hand. The end of the
// stream is Read's to tell. Only after os.ErrDeadlineExceeded it may be called again.
func (s *tlsSocket) fill() error {
	if s.err != nil {
		return s.err
	}
	var err error
	if s.raw == nil {
		s.in = sealed.Take(s.reads.Size(sealedSizes))
		s.got, err = s.Conn.Read(s.in.Bytes)
	} else if err = s.raw.Read(s.readFn); err == nil {
		err = s.gotErr
	}
	switch {
	case s.got > 0:
		s.reads.Learn(sealedSizes, s.got, len(s.in.Bytes))
		s.w, s.got = s.got, 0
		return nil
	case s.in != nil:
		s.dropInput()
	}
	if err == nil || err == io.EOF {
		s.err = io.EOF
		return nil
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		s.err = err
	}
	return err
}

// readSome reads what there is, or has RawConn.Read wait without a buffer.
func (s *tlsSocket) readSome(fd uintptr) bool {
	s.in = sealed.Take(s.reads.Size(sealedSizes))
	s.got, s.gotErr = socket.Read(fd, s.in.Bytes)
	if s.gotErr == syscall.EAGAIN {
		s.dropInput()
		return false
	}
	if s.gotErr != nil {
		s.got, s.gotErr = 0, os.NewSyscallError("read", s.gotErr)
	}
	return true
}

// Write is the tls.Conn's, which calls it in the sequence of its records. The reader's
// calls, for answers to KeyUpdates, may come in the middle of a batch, or behind it.
func (s *tlsSocket) Write(p []byte) (int, error) {
	if !s.begun {
		n, err := s.Conn.Write(p)
		s.written.Add(uint64(n))
		return n, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed: // crypto/tls would not read on if this failed
		return len(p), nil
	case s.gathering && len(s.late) == 0 && len(p) <= len(s.out.Bytes)-s.n:
		s.n += copy(s.out.Bytes[s.n:], p)
		return len(p), nil
	case s.gathering:
		s.late = append(s.late, p...) // the last records of a batch, if answers went before it
		return len(p), nil
	}
	return s.answer(p)
}

// answer sends what the reader's tls.Conn says by itself, or keeps it; mu is held.
func (s *tlsSocket) answer(p []byte) (int, error) {
	if len(s.late)+len(p) > mostLate || !s.answers.Spend(answerRate) {
		s.beyond = errLate
		return 0, errLate
	}
	s.late = append(s.late, p...)
	if s.raw != nil && s.out == nil { // no flush is under way, or it ends without mu
		_ = s.raw.Write(s.lateFn) // a socket that fails is found by the next batch
	}
	return len(p), nil
}

// writeLate writes what the socket takes of late; mu is held.
func (s *tlsSocket) writeLate(fd uintptr) bool {
	n, err := socket.Write(fd, s.late)
	if err == nil {
		s.written.Add(uint64(n))
		if s.late = s.late[n:]; len(s.late) == 0 {
			s.late = nil
		}
	}
	return true
}

// overrun is why the peer is left, if it had crypto/tls answer too often.
func (s *tlsSocket) overrun() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beyond
}

// gather has what is written, some n bytes, wait for flush, behind what waits already.
func (s *tlsSocket) gather(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gathering, s.out = true, sealed.Take(n+len(s.late))
	s.o, s.n = 0, copy(s.out.Bytes, s.late)
	s.late = s.late[s.n:]
}

// held is the bytes of memory that wait for the socket.
func (s *tlsSocket) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		return 0
	}
	return len(s.out.Bytes)
}

// close has nothing follow what was gathered.
func (s *tlsSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// gathered ends gather.
func (s *tlsSocket) gathered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gathering = false
}

// flush writes what was gathered. Unless it waits, it writes what the socket takes at once,
// and reports whether that was all; so it does with an error, after which nothing is sent.
func (s *tlsSocket) flush(waits bool) (done bool, err error) {
	if s.raw == nil {
		return waits, s.flushBlocking(waits)
	}
	fn := s.tryFn
	if waits {
		fn = s.writeFn
	}
	if err := s.raw.Write(fn); err != nil {
		return true, err
	}
	return !s.full, s.writeErr
}

// writeSome writes what there is room for, and has RawConn.Write wait for more.
func (s *tlsSocket) writeSome(fd uintptr) bool {
	s.full, s.writeErr = false, nil
	for p := s.unsent(); p != nil; p = s.unsent() {
		n, err := socket.Write(fd, p)
		if s.full = err == syscall.EAGAIN; s.full {
			return false
		}
		if err != nil {
			s.writeErr = os.NewSyscallError("write", err)
			return true
		}
		s.took(n)
	}
	return true
}

func (s *tlsSocket) flushBlocking(waits bool) error {
	for p := s.unsent(); waits && p != nil; p = s.unsent() {
		n, err := s.Conn.Write(p)
		s.took(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// unsent is what flush is to write next; nil: it is done, and holds no buffer.
func (s *tlsSocket) unsent() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.out == nil:
		return nil
	case s.o < s.n:
		return s.out.Bytes[s.o:s.n]
	case len(s.late) > 0:
		return s.late
	}
	s.out.Release()
	s.out, s.late = nil, nil
	return nil
}

// took notes how much of unsent the socket took.
func (s *tlsSocket) took(n int) {
	s.written.Add(uint64(n))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o < s.n {
		s.o += n
	} else {
		s.late = s.late[n:]
	}
}
