// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is the two ends of a TCP connection.
func pair(t *testing.T) (a, b syscall.RawConn, close func()) {
	t.Helper()
	a, b, left, _ := connected(t)
	return a, b, func() { left.Close() }
}

// connected is pair with the connections.
func connected(t *testing.T) (a, b syscall.RawConn, left, right net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	left, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { left.Close() })
	right, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { right.Close() })
	for _, conn := range []net.Conn{left, right} {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
	}
	a, _ = left.(*net.TCPConn).SyscallConn()
	b, _ = right.(*net.TCPConn).SyscallConn()
	return a, b, left, right
}

func TestAnEmptySocketSaysEAGAINAndAnEndedOneNothing(t *testing.T) {
	a, b, end := pair(t)
	for _, read := range []func(uintptr) (int, error){
		func(fd uintptr) (int, error) { return Read(fd, make([]byte, 10)) },
		func(fd uintptr) (int, error) { return Readv(fd, [][]byte{make([]byte, 1), make([]byte, 1)}) },
	} {
		b.Control(func(fd uintptr) {
			if n, err := read(fd); n != 0 || err != syscall.EAGAIN {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	_ = a
	end()
	b.Read(func(fd uintptr) bool {
		n, err := Read(fd, make([]byte, 10))
		if err == syscall.EAGAIN {
			return false
		}
		if n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		return true
	})
}

func TestAFullSocketTakesNoMore(t *testing.T) {
	a, _, _ := pair(t)
	a.Control(func(fd uintptr) {
		for chunk := make([]byte, 1<<20); ; {
			n, err := Writev(fd, [][]byte{chunk, chunk})
			if err == syscall.EAGAIN {
				return
			}
			if n == 0 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
	})
}

// TestScatteredBytesArriveInOrder moves bytes from segments into segments of
// other sizes, more of both than one call takes.
func TestScatteredBytesArriveInOrder(t *testing.T) {
	a, b, _ := pair(t)
	sent := make([]byte, 300000)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go func() {
		for rest := sent; len(rest) > 0; {
			a.Write(func(fd uintptr) bool {
				n, err := Writev(fd, cut(rest, 777))
				rest = rest[n:]
				return err != syscall.EAGAIN
			})
		}
	}()
	got := make([]byte, len(sent))
	for rest := got; len(rest) > 0; {
		err := b.Read(func(fd uintptr) bool {
			n, err := Readv(fd, cut(rest, 1234))
			rest = rest[n:]
			return err != syscall.EAGAIN
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes arrived")
	}
}

// cut makes segments of n bytes.
func cut(p []byte, n int) (v [][]byte) {
	for ; len(p) > n; p = p[n:] {
		v = append(v, p[:n])
	}
	return append(v, p)
}

func TestAClosedDescriptorIsAnError(t *testing.T) {
	const none = 1 << 30
	if _, err := Read(none, make([]byte, 1)); err != syscall.EBADF {
		t.Error(err)
	}
	if _, err := Write(none, []byte{1}); err != syscall.EBADF {
		t.Error(err)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	a, b, _ := pair(t)
	from, into := [][]byte{make([]byte, 10), make([]byte, 20)}, [][]byte{make([]byte, 15), make([]byte, 15)}
	sent := func(fd uintptr) bool { _, err := Writev(fd, from); return err != syscall.EAGAIN }
	got := func(fd uintptr) bool { _, err := Readv(fd, into); return err != syscall.EAGAIN }
	if n := testing.AllocsPerRun(100, func() {
		a.Write(sent)
		b.Read(got)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestResetReachesThePeerWhileTheSocketIsInUse(t *testing.T) {
	a, b, _ := pair(t)
	a.Control(func(fd uintptr) {
		if err := Reset(fd); err != nil {
			t.Fatal(err)
		}
		b.Read(func(fd uintptr) bool {
			_, err := Read(fd, make([]byte, 1))
			if err == syscall.EAGAIN {
				return false
			}
			if err != syscall.ECONNRESET {
				t.Errorf("%v, want a reset", err)
			}
			return true
		})
	})
}

func TestUnackedAreTheBytesThatTheOtherEndHasNot(t *testing.T) {
	a, b, _ := pair(t)
	unacked := func() (n int) {
		a.Control(func(fd uintptr) {
			var err error
			if n, err = Unacked(fd); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	full := func(conn syscall.RawConn) {
		conn.Control(func(fd uintptr) {
			for err := error(nil); err == nil; {
				_, err = Write(fd, make([]byte, 1<<20))
			}
		})
	}
	gone := func() (gone bool) {
		a.Control(func(fd uintptr) { _, gone = Unheard(fd) })
		return gone
	}
	full(a)
	left := unacked()
	if left == 0 {
		t.Error("all is acknowledged of what the other end has no room for")
	}
	if gone() {
		t.Error("the other end is there, and may read")
	}
	b.Control(func(fd uintptr) { Reset(fd) })
	if n := unacked(); n == 0 || n > left {
		t.Errorf("%d bytes were lost, and %d are told", left, n)
	}
	if !gone() {
		t.Error("nobody will acknowledge them, and that is not told")
	}
}

// What a read would find, Readable sees before: bytes, an urgent byte, an end, a reset.
func TestReadableIsWhatAReadWouldFind(t *testing.T) {
	far, near, _ := pair(t)
	readable := func() (ok bool) {
		near.Control(func(fd uintptr) { ok = Readable(fd) })
		return ok
	}
	comes := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !readable(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not readable with %s", what)
			}
		}
	}
	read := func() (n int, err error) {
		near.Control(func(fd uintptr) { n, err = Read(fd, make([]byte, 8)) })
		return n, err
	}
	if readable() {
		t.Error("readable with nothing to read")
	}
	send := func(flags int) {
		far.Control(func(fd uintptr) {
			if err := unix.Sendto(int(fd), []byte{1}, flags, nil); err != nil {
				t.Error(err)
			}
		})
	}
	send(0)
	comes("a byte")
	read()
	if readable() {
		t.Error("readable after all was read")
	}
	near.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
			t.Error(err)
		}
	})
	send(unix.MSG_OOB)
	comes("an urgent byte")
	read()
	far.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	comes("the end of data")
	if n, err := read(); n != 0 || err != nil {
		t.Errorf("read %d, %v at the end", n, err)
	}
}

func TestAConnectionIsBrokenWhenBothSidesHaveEndedOrEitherResets(t *testing.T) {
	broke := func(c syscall.RawConn) (is bool) {
		if err := c.Control(func(fd uintptr) { is = Broke(fd) }); err != nil {
			t.Fatal(err)
		}
		return is
	}
	for name, end := range map[string]func(a, b syscall.RawConn) error{
		"reset": func(_, b syscall.RawConn) (err error) {
			if failed := b.Control(func(fd uintptr) { err = Reset(fd) }); failed != nil {
				return failed
			}
			return err
		},
		"two ends": func(a, b syscall.RawConn) error { return errors.Join(CloseWrite(b), CloseWrite(a)) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, closeBoth := pair(t)
			defer closeBoth()
			if broke(a) {
				t.Error("broken before anything ended")
			}
			if err := CloseWrite(b); err != nil || broke(a) {
				t.Errorf("broken by one end, %v", err)
			}
			if err := end(a, b); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); !broke(a); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("not broken")
				}
			}
		})
	}
	if !Broke(^uintptr(0)) {
		t.Error("no descriptor is a connection")
	}
}
