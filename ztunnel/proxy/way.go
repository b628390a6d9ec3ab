// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// way is how the bytes of a connection go once all questions about it are
// answered: inTunnel, inPlain or besideTunnel. A connection that is refused has
// no way, only the error that says why.
type way interface {
	// carry moves bytes until both directions have ended, closes the sockets, and calls
	// over: before it returns, or later in another goroutine. With an error, it has reset
	// them. It is called once.
	carry(c *connection, over func(error))
}

// inTunnel is the way by a stream of a tunnel, whose engine owns app and counts.
type inTunnel struct {
	app    *net.TCPConn
	stream *hbone.Stream
}

// carry and its callers have small frames: until a stream is parked, it waits here.
func (w inTunnel) carry(c *connection, over func(error)) {
	c.stream.Store(w.stream)
	c.cutIfOver() // c may have ended before it had a stream
	w.stream.Carry(w.app, func(_ hbone.Totals, err error) {
		if err = explained(err); err != nil && c.direction == outbound {
			err = fmt.Errorf("stream to %v at %v: %w", c.dst.identity, c.dst.addr, err)
		}
		over(err)
	})
}

// inPlain is the way from socket to socket, to or from a peer outside the mesh
// or inside the pod. The end of c.ctx resets both.
type inPlain struct{ app, far *net.TCPConn }

func (w inPlain) carry(c *connection, over func(error)) {
	c.far.Store(w.far)
	relay(c.ctx, w.app, w.far, &c.bytes, c.pod.Share, func(err error) { over(fail(Reset, err)) })
}
