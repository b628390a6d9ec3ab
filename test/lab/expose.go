// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
)

var adminOfNode = netip.MustParseAddrPort("127.0.0.1:15000")

// ExposeAdmin has a port of this machine's loopback lead to the node's own /config_dump
// and /events, and returns its address, so that one process can ask all nodes. It ends with
// ctx.
func (n *Node) ExposeAdmin(ctx context.Context) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go n.relay(ctx, conn)
		}
	}()
	return ln.Addr().String(), nil
}

// relay ends when either side does: HTTP needs no half-closed connections.
func (n *Node) relay(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ztunnel, err := n.Host.DialUnsteered(ctx, adminOfNode)
	if err != nil {
		return
	}
	defer ztunnel.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); ztunnel.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, ztunnel}, {ztunnel, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1]) // whoever breaks off is done
			done <- struct{}{}
		}()
	}
	<-done
}
