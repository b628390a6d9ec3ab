// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ticket is for a Wait under way. The zero Ticket is for none.
type Ticket uint64

// Wait has ready called, once and in a goroutine of its own, when Read would
// return something else than EAGAIN, or at Wake. Who waits for a long time so needs
// no goroutine, whose stack is the most of an idle connection. A socket that is
// closed meanwhile calls nobody: Wake does.
//
// The poller is chosen by the descriptor: a socket that waits again finds the one in
// which it already stands.
func Wait(raw syscall.RawConn, ready func()) (Ticket, error) {
	return wait(raw, unix.EPOLLIN|unix.EPOLLRDHUP, ready)
}

// WaitBroken is Wait for both directions of a connection to be closed, whether it broke
// or ended in good order. What there is to read, and its end, call nobody.
func WaitBroken(raw syscall.RawConn, ready func()) (Ticket, error) {
	return wait(raw, 0, ready) // errors and hang-ups are always reported
}

func wait(raw syscall.RawConn, events uint32, ready func()) (t Ticket, err error) {
	if cerr := raw.Control(func(fd uintptr) {
		t, err = waiting[fd%shards].add(int(fd), events, ready)
	}); cerr != nil {
		return 0, cerr
	}
	return t, err
}

// Wake ends a Wait now. It does nothing if that has ended.
func Wake(t Ticket) {
	if ready := shardOf(t).take(t); ready != nil {
		go ready()
	}
}

// linger is for how long a poller outlives those who wait.
const linger = time.Second

// shards are so many pollers: the sockets of one wait for no lock of another.
const shards = 8

var waiting [shards]waiters

// shardOf is where a Ticket was given: its last digit says so.
func shardOf(t Ticket) *waiters { return &waiting[t%shards] }

// waiters are sockets in an epoll instance, which the Go runtime polls like any
// other descriptor. A socket stays there after its event, disarmed by EPOLLONESHOT,
// until it is closed.
//
// No event is lost: EPOLLONESHOT without EPOLLET reports what is there when the socket
// is armed as well as what comes later, and whoever takes the event finds its function,
// for add arms the socket and notes the function in one hold of mu. No event reaches
// another socket: a Ticket is given once, and one of the past is nobody's, also if the
// number of the descriptor is used again.
type waiters struct {
	mu    sync.Mutex
	poll  *os.File // nil: nobody waits, or has waited lately
	fd    int      // of poll
	given uint64   // Tickets
	ready map[Ticket]func()
}

// add arms a socket, which is not closed meanwhile.
func (w *waiters) add(fd int, events uint32, ready func()) (Ticket, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.poll == nil {
		if err := w.open(); err != nil {
			return 0, err
		}
	}
	w.given++
	t := Ticket(w.given*shards + uint64(fd%shards))
	if err := w.arm(fd, events, t); err != nil {
		w.lingerIfEmpty()
		return 0, fmt.Errorf("epoll_ctl: %w", err)
	}
	w.ready[t] = ready
	return t, nil
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

// arm asks for one of the events; mu is held.
func (w *waiters) arm(fd int, events uint32, t Ticket) error {
	event := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(t), Pad: int32(t >> 32)}
	err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd, &event)
	if err == unix.EEXIST { // it has waited before
		err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_MOD, fd, &event)
	}
	return err
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
			n, err = arrived(fd, events[:])
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

// arrived is epoll_wait(2) that does not wait, and so tells Go's scheduler nothing.
func arrived(fd uintptr, events []unix.EpollEvent) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
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
