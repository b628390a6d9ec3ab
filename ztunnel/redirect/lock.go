// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/flock"
)

// ErrLocked says that another process holds a Lock. The error that wraps it
// names the process.
var ErrLocked = errors.New("in use by another ztunnel")

// Lock keeps a directory to this process: two ztunnels with one state
// directory or one bpffs directory would undo each other's work. The kernel
// releases it with the process, however that ends.
//
// The lock is on the directory itself, because a bpffs has no files to lock.
type Lock struct {
	dir  string
	file *os.File
}

// LockDir makes the directory, for its owner only, unless it is there, and
// takes its lock. It changes nothing else, and never waits: whoever holds the
// lock keeps it for as long as it runs.
func LockDir(dir string) (*Lock, error) {
	for {
		file, err := lock(dir)
		if err != nil {
			return nil, err
		}
		l := &Lock{dir, file}
		if l.current() {
			return l, nil
		}
		l.Close() // while it was opened, another hand replaced it
	}
}

func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory %s: %w", dir, err)
	}
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", dir, err)
	}
	if err = flock.Try(file); err == nil {
		return file, nil
	}
	defer file.Close()
	if errors.Is(err, flock.ErrHeld) {
		return nil, fmt.Errorf("%s is %w, %s", dir, ErrLocked, flock.Holder(file))
	}
	return nil, fmt.Errorf("lock directory %s: %w", dir, err)
}

// Keep takes the lock again if the directory was replaced or its file system
// unmounted: another process may have locked what is there now. Before the
// former directory is let go, move may take from it what is still there, by a
// path that leads there.
func (l *Lock) Keep(move func(former string) error) error {
	if l.current() {
		return nil
	}
	next, err := LockDir(l.dir)
	if err != nil {
		return err
	}
	if l.file == nil {
		l.file = next.file
		return nil
	}
	// On the same descriptor: whoever has the path of Held goes on in the next
	// directory. The former one's lock goes with its last descriptor.
	err = move(l.Held())
	return errors.Join(err, os.NewSyscallError("dup3", unix.Dup3(int(next.file.Fd()), int(l.file.Fd()), unix.O_CLOEXEC)), next.Close())
}

// Held is a path that leads to the directory which is locked, whatever has its name
// by now. What is written by it lands in no directory of another process, not even
// when the name passes to that between two steps of a write.
func (l *Lock) Held() string { return fmt.Sprintf("/proc/self/fd/%d", l.file.Fd()) }

// current reports whether what is locked is what the path leads to.
func (l *Lock) current() bool {
	if l.file == nil {
		return false
	}
	there, err := os.Stat(l.dir)
	if err != nil {
		return false
	}
	ours, err := l.file.Stat()
	return err == nil && os.SameFile(ours, there)
}

// Close releases the lock. Closed again, it does nothing.
func (l *Lock) Close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
