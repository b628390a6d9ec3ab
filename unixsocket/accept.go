// SPDX-License-Identifier: Apache-2.0

package unixsocket

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Accept accepts from trusted users, and hangs up on others, even should the
// directory have been opened to them.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		ln := l.now()
		conn, err := ln.AcceptUnix()
		switch {
		case err != nil && ln != l.now():
			continue
		case err != nil:
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && Trusted(uid) {
			return conn, nil
		}
		conn.Close()
	}
}

// Trusted reports whether uid is root or ourselves, which is one and the same for
// a process that runs as root.
func Trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

// peerUID is the user of the process that connected.
func peerUID(conn *net.UnixConn) (uint32, error) {
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
	return cred.Uid, nil
}
