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
	*net.UnixListener
	path string
	file os.FileInfo
}

// listenRoot opens a unix socket of mode 0600 at path. A socket already there
// is replaced in one step, so that an upgrade always leaves one to connect to.
func listenRoot(path string) (*rootListener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// Not repaired: a directory that others can write to may not be ours.
	if stat, err := os.Stat(dir); err != nil {
		return nil, err
	} else if stat.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("directory %s has mode %#o; its owner alone may have access: chmod 0700 %s", dir, stat.Mode().Perm(), dir)
	}
	young := filepath.Join(dir, ".admin-"+strconv.Itoa(os.Getpid()))
	os.Remove(young)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: young, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // Close removes it under its later name
	l := &rootListener{UnixListener: ln, path: path}
	if err := l.publish(young); err != nil {
		ln.Close()
		os.Remove(young)
		return nil, err
	}
	return l, nil
}

func (l *rootListener) publish(young string) error {
	if err := os.Chmod(young, 0o600); err != nil {
		return err
	}
	if err := os.Rename(young, l.path); err != nil {
		return err
	}
	var err error
	l.file, err = os.Stat(l.path)
	return err
}

// Accept drops the connections of other users.
func (l *rootListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
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
	err := l.UnixListener.Close()
	if now, statErr := os.Stat(l.path); statErr == nil && os.SameFile(now, l.file) {
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
