// SPDX-License-Identifier: Apache-2.0

// Package unixsocket listens on a unix socket for root alone. The socket is put in
// place in one step, and again when another hand removes it.
package unixsocket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Listener is a socket that only root may use, or its own user where that is
// another.
type Listener struct {
	path string

	mu     sync.Mutex // guards what follows
	ln     *net.UnixListener
	file   os.FileInfo // what path leads to while nobody else changes it
	closed bool
}

// Listen opens a socket at path, mode 0600, in a directory that it makes with
// mode 0700 and refuses to use with a wider one. It takes over from an older
// listener by rename, so that nobody finds the socket missing.
func Listen(path string) (*Listener, error) {
	ln, file, err := publish(path)
	if err != nil {
		return nil, err
	}
	return &Listener{path: path, ln: ln, file: file}, nil
}

func publish(path string) (*net.UnixListener, os.FileInfo, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	// Not repaired: a directory that others can write to may not be ours.
	if err := onlyOurs(dir); err != nil {
		return nil, nil, err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	ln.SetUnlinkOnClose(false) // by then the name is another's
	var file os.FileInfo
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		file, err = os.Lstat(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		ln.Close()
		os.Remove(fresh)
		return nil, nil, fmt.Errorf("put %s in place: %w", path, err)
	}
	return ln, file, nil
}

// onlyOurs refuses a directory that anyone but its owner, root or us, enters.
func onlyOurs(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("stat %s: %v", dir, err)
	}
	switch mode := st.Mode & 0o777; {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", dir)
	case !Trusted(st.Uid):
		return fmt.Errorf("%s belongs to uid %d, want root", dir, st.Uid)
	case mode&0o077 != 0:
		return fmt.Errorf("%s has mode %#o, want 0700: chmod 0700 %s", dir, mode, dir)
	}
	return nil
}

// Keep opens the socket anew if another hand removed or replaced it, and reports
// whether one did. Open connections go on, and so does Accept.
func (l *Listener) Keep() (replaced bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if there, err := os.Lstat(l.path); l.closed || err == nil && os.SameFile(there, l.file) {
		return false, nil
	}
	ln, file, err := publish(l.path)
	if err != nil {
		return true, err
	}
	former := l.ln
	l.ln, l.file = ln, file
	return true, former.Close() // Accept goes on with the next
}

func (l *Listener) now() *net.UnixListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ln
}

// Addr returns the address of the socket.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening, for good. It leaves the file, which may be a younger
// process's by now: a dead socket and none at all mean the same.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.ln.Close()
}
