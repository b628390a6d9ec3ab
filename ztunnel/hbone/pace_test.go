// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slowly has the link's tunnels go through a path that moves little at a time,
// and returns the bytes that it moved from the Pool so far.
func (l *link) slowly() *atomic.Int64 {
	l.t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10) })
	}}
	ln, err := config.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	var moved atomic.Int64
	var paths sync.WaitGroup
	paths.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := dialTCP(context.Background(), l.key.Addr)
			if err != nil {
				near.Close()
				continue
			}
			paths.Go(func() {
				defer near.Close()
				io.Copy(near, far)
			})
			paths.Go(func() {
				defer far.Close()
				for buf := make([]byte, 4<<10); ; time.Sleep(20 * time.Millisecond) {
					n, err := near.Read(buf)
					if err != nil {
						return
					}
					moved.Add(int64(n))
					far.Write(buf[:n])
				}
			})
		}
	})
	l.pool.cfg.Dial = func(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
		return dialTCP(ctx, ln.Addr().(*net.TCPAddr).AddrPort())
	}
	l.t.Cleanup(func() {
		ln.Close()
		l.pool.Close()
		paths.Wait()
	})
	return &moved
}

// A CONNECT waits for what is before it: on a path that moves 200 KB a second at
// most, that is not half a megabyte.
func TestOnASlowPathLittleStandsBeforeAConnect(t *testing.T) {
	if testing.Short() {
		t.Skip("a slow path takes its time")
	}
	const streams = 12
	arrived := make(chan struct{}, streams+1)
	l := newLink(t, func(s *Stream) {
		arrived <- struct{}{}
		s.Accept()
		near, far := socketPair(t)
		defer far.Close()
		go io.Copy(io.Discard, far)
		carryAll(s, near)
	})
	moved := l.slowly()
	for range streams {
		bulk := l.open()
		<-arrived
		go io.Copy(bulk, zeroes{})
	}
	c := l.pool.all()[0]
	waitUntil(t, func() bool {
		c.writer.mu.Lock()
		defer c.writer.mu.Unlock()
		return c.writer.ahead < unsentLimit/2
	})
	before := moved.Load()
	waitUntil(t, func() bool { return moved.Load() > before+unsentLimit }) // what the kernel had of before is gone

	before = moved.Load()
	go l.pool.Open(context.Background(), l.key, l.target(l.key))
	<-arrived
	if ahead := moved.Load() - before; ahead > 160<<10 {
		t.Errorf("%d bytes went before the CONNECT", ahead)
	}
}

// zeroes is a source without end.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { return len(b), nil }
