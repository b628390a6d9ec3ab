// SPDX-License-Identifier: Apache-2.0

// Package netns works inside other network namespaces: it names them by their
// cookie, runs functions in them, opens sockets that live in them, and asks the
// kernel for their tables.
//
// It is the only place that locks an OS thread. A thread that cannot be
// brought home is never unlocked, so that it dies with its goroutine instead
// of running somebody else's code in a pod.
package netns

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cookie is the kernel-unique id of a network namespace. It is never reused
// until reboot, unlike its inode number.
type Cookie uint64

// NS is an open network namespace. The namespace lives at least as long as
// the NS: Close it, or the pod's devices outlive the pod.
type NS struct {
	cookie Cookie
	inode  uint64

	mu     sync.RWMutex // held for reading while a thread is on its way in or out
	closed bool
	there  *os.File
	home   *os.File // the netns this process was in when it opened there
}

// Open opens the network namespace at path, such as /proc/1/ns/net.
func Open(path string) (*NS, error) {
	there, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return fromFile(there)
}

// New makes a network namespace with nothing in it but a loopback device that
// is down. It is gone with its last socket, once closed.
func New() (*NS, error) {
	var there *os.File
	err := onThread(func() error {
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare(CLONE_NEWNET): %w", err)
		}
		there, err = os.Open("/proc/thread-self/ns/net")
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			return &strandedError{back}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a netns: %w", err)
	}
	return fromFile(there)
}

func fromFile(there *os.File) (*NS, error) {
	kind, err := unix.IoctlRetInt(int(there.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		there.Close()
		return nil, fmt.Errorf("%s is not a network namespace", there.Name())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(there.Fd()), &st); err != nil {
		there.Close()
		return nil, fmt.Errorf("stat %s: %w", there.Name(), err)
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		there.Close()
		return nil, err
	}
	ns := &NS{inode: st.Ino, there: there, home: home}
	if err := ns.Do(ns.readCookie); err != nil {
		ns.Close()
		return nil, fmt.Errorf("cookie of %s: %w", there.Name(), err)
	}
	return ns, nil
}

// readCookie asks a socket made here: SO_NETNS_COOKIE, since Linux 5.14.
func (ns *NS) readCookie() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket(AF_INET): %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return fmt.Errorf("getsockopt(SO_NETNS_COOKIE): %w", err)
	}
	ns.cookie = Cookie(cookie)
	return nil
}

// Cookie returns the netns cookie.
func (ns *NS) Cookie() Cookie { return ns.cookie }

// Inode returns the inode number, which is what `ip netns` and lsns show.
func (ns *NS) Inode() uint64 { return ns.inode }

// Fd calls f with the descriptor of the namespace, valid until f returns.
func (ns *NS) Fd(f func(fd int) error) error {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	if ns.closed {
		return os.ErrClosed
	}
	return f(int(ns.there.Fd()))
}

// Close lets go of the namespace. Sockets opened in it stay.
func (ns *NS) Close() error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return os.ErrClosed
	}
	ns.closed = true
	ns.home.Close()
	return ns.there.Close()
}

// Do runs f on a thread inside the namespace and returns its error. What f
// starts on other goroutines is outside.
func (ns *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := ns.enter(); err != nil {
			return err
		}
		err := f()
		if back := ns.leave(); back != nil {
			return back
		}
		return err
	})
}

var stranded atomic.Bool

// Stranded reports whether a thread of this process ever stayed in a namespace that it should
// have left. Its goroutine is locked to it, and the thread ends with that: so whoever keeps
// goroutines for others' work should not, any more.
func Stranded() bool { return stranded.Load() }

// strandedError says that a thread is in a namespace it should have left.
type strandedError struct{ cause error }

func (e *strandedError) Error() string { return fmt.Sprintf("setns(home): %v", e.cause) }

// enter puts the calling thread, locked, into the namespace. The lock on mu
// is kept until leave, so that Close cannot take the way home away.
func (ns *NS) enter() error {
	ns.mu.RLock()
	if ns.closed {
		ns.mu.RUnlock()
		return os.ErrClosed
	}
	if err := setns(ns.there); err != nil {
		ns.mu.RUnlock()
		return fmt.Errorf("setns(%d): %w", ns.cookie, err)
	}
	return nil
}

// setns is setns(2) of a network namespace: it waits for nothing (see package socket).
func setns(to *os.File) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_SETNS, to.Fd(), unix.CLONE_NEWNET, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (ns *NS) leave() error {
	defer ns.mu.RUnlock()
	if err := setns(ns.home); err != nil {
		stranded.Store(true)
		return &strandedError{err}
	}
	return nil
}

// onThread runs f on a goroutine with a thread of its own. If f could not
// bring the thread home, both end here.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := f()
		if _, stranded := err.(*strandedError); !stranded {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
