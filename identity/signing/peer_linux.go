// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// trusted says why the process at the other end is not to be asked, or nil.
func trusted(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if peerErr != nil {
		return peerErr
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("the process there is the user %d's, want root's or that of the user %d", peer.Uid, os.Geteuid())
	}
	return nil
}
