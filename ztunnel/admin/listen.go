// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// limit lets n connections of ln be open at a time: these endpoints must not
// use up the file descriptors that the pods' connections need.
func limit(ln net.Listener, n int) net.Listener {
	return &limited{Listener: ln, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	slots  chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: conn, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// slotted frees its slot when it is closed.
type slotted struct {
	net.Conn
	free func()
}

func (s *slotted) Close() error {
	defer s.free()
	return s.Conn.Close()
}

// rootListener accepts connections on a unix socket from root only, or from
// its own user where that is not root.
type rootListener struct {
	path string

	mu     sync.Mutex // guards what follows
	ln     *net.UnixListener
	file   os.FileInfo // what path leads to while nobody else changes it
	closed bool
}

// listenRoot opens a unix socket of mode 0600 at path. A socket already there
// is replaced in one step, so that an upgrade always leaves one to connect to.
func listenRoot(path string) (*rootListener, error) {
	l := &rootListener{path: path}
	return l, l.publish()
}

// publish requires that l.mu is held, or that nobody else has l.
func (l *rootListener) publish() error {
	dir := filepath.Dir(l.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Not repaired: a directory that others can write to may not be ours.
	if stat, err := os.Stat(dir); err != nil {
		return err
	} else if stat.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("directory %s has mode %#o; its owner alone may have access: chmod 0700 %s", dir, stat.Mode().Perm(), dir)
	}
	young := filepath.Join(dir, ".admin-"+strconv.Itoa(os.Getpid()))
	os.Remove(young)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: young, Net: "unix"})
	if err != nil {
		return err
	}
	ln.SetUnlinkOnClose(false) // Close removes it under its later name
	var file os.FileInfo
	err = os.Chmod(young, 0o600)
	if err == nil {
		file, err = os.Lstat(young)
	}
	if err == nil {
		err = os.Rename(young, l.path)
	}
	if err != nil {
		ln.Close()
		os.Remove(young)
		return err
	}
	l.ln, l.file = ln, file
	return nil
}

// keep opens the socket anew if another hand removed or replaced it, and
// reports whether one did.
func (l *rootListener) keep() (replaced bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if there, err := os.Lstat(l.path); l.closed || err == nil && os.SameFile(there, l.file) {
		return false, nil
	}
	former := l.ln
	if err := l.publish(); err != nil {
		return true, err
	}
	return true, former.Close() // Accept goes on with the next
}

func (l *rootListener) now() *net.UnixListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ln
}

// Accept drops the connections of other users.
func (l *rootListener) Accept() (net.Conn, error) {
	for {
		ln := l.now()
		conn, err := ln.AcceptUnix()
		switch {
		case err != nil && ln != l.now():
			continue
		case err != nil:
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && (uid == 0 || uid == os.Geteuid()) {
			return conn, nil
		}
		conn.Close()
	}
}

func (l *rootListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close removes the socket, unless a younger process has replaced it.
func (l *rootListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	err := l.ln.Close()
	if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.file) {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

// peerUID is the uid of the process that connected.
func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}
