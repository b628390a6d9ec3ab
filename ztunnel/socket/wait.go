// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ticket is for a Wait under way. The zero Ticket is for none.
type Ticket uint64

// Wait has ready called, once and in a goroutine of its own, when Read would
// return something else than EAGAIN, or at Wake. Who waits for a long time so needs
// no goroutine, whose stack is the most of an idle connection. A socket that is
// closed meanwhile calls nobody: Wake does.
func Wait(raw syscall.RawConn, ready func()) (Ticket, error) { return waiting.add(raw, ready) }

// Wake ends a Wait now. It does nothing if that has ended.
func Wake(t Ticket) {
	if ready := waiting.take(t); ready != nil {
		go ready()
	}
}

var waiting waiters

// linger is for how long the poller outlives those who wait.
const linger = time.Second

// waiters are sockets in an epoll instance, which the Go runtime polls like any
// other descriptor. A socket stays there after its event, disarmed by EPOLLONESHOT;
// an event with a Ticket of the past is nobody's.
type waiters struct {
	mu    sync.Mutex
	poll  *os.File // nil: nobody waits, or has waited lately
	fd    int      // of poll
	last  Ticket
	ready map[Ticket]func()
}

func (w *waiters) add(raw syscall.RawConn, ready func()) (Ticket, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.poll == nil {
		if err := w.open(); err != nil {
			return 0, err
		}
	}
	w.last++
	if err := w.arm(raw, w.last); err != nil {
		w.lingerIfEmpty()
		return 0, err
	}
	w.ready[w.last] = ready
	return w.last, nil
}

// open starts the poller; mu is held.
func (w *waiters) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or package os would not poll it
		unix.Close(fd)
		return fmt.Errorf("epoll: %w", err)
	}
	poll := os.NewFile(uintptr(fd), "epoll")
	raw, err := poll.SyscallConn()
	if err != nil {
		poll.Close()
		return err
	}
	w.poll, w.fd, w.ready = poll, fd, make(map[Ticket]func())
	go w.run(raw)
	return nil
}

// arm asks for one event; mu is held.
func (w *waiters) arm(raw syscall.RawConn, t Ticket) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(t), Pad: int32(t >> 32)}
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(fd), &event)
		if err == unix.EEXIST { // it has waited before
			err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_MOD, int(fd), &event)
		}
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (w *waiters) take(t Ticket) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	ready := w.ready[t]
	if ready != nil {
		delete(w.ready, t)
		w.lingerIfEmpty()
	}
	return ready
}

// lingerIfEmpty has run look after a while whether somebody waits; mu is held.
func (w *waiters) lingerIfEmpty() {
	if len(w.ready) == 0 {
		w.poll.SetReadDeadline(time.Now().Add(linger))
	}
}

// run calls those whose sockets have something, until nobody waits.
func (w *waiters) run(poll syscall.RawConn) {
	var events [64]unix.EpollEvent
	for {
		n := 0
		err := poll.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil
		})
		if err != nil && w.close(err) {
			return
		}
		for _, e := range events[:max(n, 0)] {
			Wake(Ticket(uint32(e.Fd)) | Ticket(uint32(e.Pad))<<32)
		}
	}
}

// close ends the poller, unless there is somebody again.
func (w *waiters) close(why error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.ready) > 0 && errors.Is(why, os.ErrDeadlineExceeded) {
		w.poll.SetReadDeadline(time.Time{})
		return false
	}
	w.poll.Close()
	w.poll, w.ready = nil, nil
	return true
}
