// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"io"
	"net"
	"sync"
)

// relay carries connections to this machine's loopback, where ln listens, to the API
// server in our own netns. A socket belongs to the netns it was made in, and ln was
// made by Up.
func relay(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go relayOne(conn)
	}
}

func relayOne(conn net.Conn) {
	defer conn.Close()
	server, err := net.Dial("tcp", net.JoinHostPort(controlPlane[0].Addr().String(), "6443"))
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { pass(server, conn) })
	both.Go(func() { pass(conn, server) })
	both.Wait()
}

// pass passes on what from says, and that it has said all.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}
