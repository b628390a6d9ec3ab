// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// await waits for the socket, and returns what is closed when that is over.
func await(t *testing.T, raw syscall.RawConn) (over chan struct{}, ticket Ticket) {
	t.Helper()
	over = make(chan struct{})
	ticket, err := Wait(raw, func() { close(over) }) // twice would panic
	if err != nil {
		t.Fatal(err)
	}
	return over, ticket
}

func wantWaiting(t *testing.T, over chan struct{}) {
	t.Helper()
	select {
	case <-over:
		t.Error("called, and nothing came")
	case <-time.After(20 * time.Millisecond):
	}
}

func send(t *testing.T, raw syscall.RawConn) {
	t.Helper()
	raw.Control(func(fd uintptr) {
		if _, err := Write(fd, []byte("x")); err != nil {
			t.Error(err)
		}
	})
}

func receive(t *testing.T, raw syscall.RawConn) {
	t.Helper()
	raw.Control(func(fd uintptr) {
		if n, err := Read(fd, make([]byte, 2)); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

func TestWaitEndsWhenSomethingComes(t *testing.T) {
	a, b, _ := pair(t)
	for range 3 {
		over, _ := await(t, b)
		wantWaiting(t, over)
		send(t, a)
		<-over
		receive(t, b)
	}
}

func TestWaitIsOverForWhatHasCome(t *testing.T) {
	a, b, _ := pair(t)
	send(t, a)
	for range 3 {
		over, _ := await(t, b)
		<-over
	}
}

func TestWaitEndsWithTheConnection(t *testing.T) {
	_, b, end := pair(t)
	over, _ := await(t, b)
	end()
	<-over
}

func TestWakeEndsItsWaitAndNoOther(t *testing.T) {
	a, b, _ := pair(t)
	first, ticket := await(t, b)
	Wake(ticket)
	<-first
	second, _ := await(t, b)
	Wake(ticket)
	Wake(0)
	wantWaiting(t, second)
	send(t, a)
	<-second
}

func TestClosedSocketIsWoken(t *testing.T) {
	_, b, end := pair(t)
	over, ticket := await(t, b)
	end()
	<-over
	Wake(ticket)
	closed, _, shut := pair(t)
	shut()
	if _, err := Wait(closed, nil); err == nil {
		t.Error("a closed socket is waited for")
	}
}

// stands reports that the poller is there.
func (w *waiters) stands() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.poll != nil
}

func TestManyWaitAtOnce(t *testing.T) {
	const many = 200
	var over atomic.Int32
	done := make(chan struct{})
	var far []syscall.RawConn
	for range many {
		a, b, _ := pair(t)
		far = append(far, a)
		if _, err := Wait(b, func() {
			if over.Add(1) == many {
				close(done)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range far {
		go send(t, a)
	}
	<-done
}

func TestPollerEndsSomeTimeAfterTheLastAndComesBack(t *testing.T) {
	a, b, _ := pair(t)
	for range 2 {
		over, _ := await(t, b)
		send(t, a)
		<-over
		receive(t, b)
		gone := func() bool {
			for i := range waiting {
				if waiting[i].stands() {
					return false
				}
			}
			return true
		}
		again := time.NewTicker(time.Millisecond)
		for deadline := time.After(10 * time.Second); !gone(); {
			select {
			case <-again.C:
			case <-deadline:
				t.Fatal("the poller stays")
			}
		}
		again.Stop()
	}
}

func TestWaitBrokenIsCalledForABreakAndForNoByteAndNoFIN(t *testing.T) {
	a, b, conn, _ := connected(t)
	over := make(chan struct{})
	if _, err := WaitBroken(b, func() { close(over) }); err != nil {
		t.Fatal(err)
	}
	send(t, a)
	left := conn.(*net.TCPConn)
	left.CloseWrite()
	wantWaiting(t, over)
	left.SetLinger(0)
	left.Close()
	<-over
}
