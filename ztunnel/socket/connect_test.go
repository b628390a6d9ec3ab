// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestConnectReachesAListenerOfEachFamily(t *testing.T) {
	for network, family := range map[string]int{"tcp4": unix.AF_INET, "tcp6": unix.AF_INET6} {
		at := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
		ln, err := net.Listen(network, at)
		if err != nil {
			t.Logf("%s: %v", network, err) // a machine without IPv6
			continue
		}
		defer ln.Close()
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := Connect(uintptr(fd), AddrPort(ln.Addr())); err != syscall.EINPROGRESS {
			t.Errorf("%s: %v, want EINPROGRESS", network, err)
		}
		ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := ln.Accept()
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		conn.Close()
	}
}

func TestConnectTellsWhyNot(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := Connect(1<<30, AddrPort(ln.Addr())); err != syscall.EBADF {
		t.Errorf("%v of what is no descriptor", err)
	}
}

func TestCloseWriteEndsOneDirection(t *testing.T) {
	a, b, end := pair(t)
	if err := CloseWrite(a); err != nil {
		t.Fatal(err)
	}
	b.Read(func(fd uintptr) bool {
		n, err := Read(fd, make([]byte, 1))
		if err == syscall.EAGAIN {
			return false
		}
		if n != 0 || err != nil {
			t.Errorf("%d, %v, want the end of data", n, err)
		}
		return true
	})
	send(t, b)
	a.Read(func(fd uintptr) bool {
		n, err := Read(fd, make([]byte, 1))
		if err == syscall.EAGAIN {
			return false
		}
		if n != 1 || err != nil {
			t.Errorf("%d, %v, want the other direction's byte", n, err)
		}
		return true
	})
	b.Control(func(fd uintptr) { Reset(fd) })
	for deadline := time.Now().Add(10 * time.Second); CloseWrite(a) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a connection that broke says its end of data")
		}
	}
	end()
	if err := CloseWrite(a); err == nil {
		t.Error("a socket that was closed says its end of data")
	}
}

// A socket takes a part at a time; what is no socket takes all by its own Write.
func TestWriteAllWaitsForRoom(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	for from, to := range map[net.Conn]net.Conn{dialled: accepted, near: far} {
		from.SetDeadline(time.Now().Add(30 * time.Second))
		to.SetDeadline(time.Now().Add(30 * time.Second))
		wrote := make(chan error, 1)
		go func() {
			n, err := WriteAll(from, sent)
			if err == nil && n != len(sent) {
				err = io.ErrShortWrite
			}
			wrote <- err
		}()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(to, got); err != nil {
			t.Fatal(err)
		}
		if err := <-wrote; err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%T: %v, or other bytes", from, err)
		}
		from.Close()
		if _, err := WriteAll(from, sent); err == nil {
			t.Errorf("%T: written after it was closed", from)
		}
	}
	dialled, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	dialled.SetDeadline(time.Now().Add(-time.Second))
	if _, err := WriteAll(dialled, sent); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want that the deadline is over", err)
	}
	gone, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	gone.(*net.TCPConn).SetLinger(0)
	gone.Close()
	dialled.SetDeadline(time.Now().Add(30 * time.Second))
	if n, err := WriteAll(dialled, sent); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v, want that the connection broke", n, err)
	}
}
