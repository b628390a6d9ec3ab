// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Neighbour carries what arrives for a pod from other pods of its node. This
// process holds the keys of both: to seal bytes only to open them again would
// protect nothing. So the bytes go from socket to socket, after the questions
// that Outbound and Inbound ask, and only while the tunnel that would carry them
// proves both ends and that the network lets the two pods talk.
type Neighbour struct {
	*Pod // the destination
	far  func(netip.Addr) *hbone.Listener

	closing chan struct{}
	close   func() // once

	mu          sync.Mutex      // guards what follows
	base        context.Context // of connections; nil: none are taken
	connections sync.WaitGroup  // added to only while they are
}

// NewNeighbour returns the Neighbour of a pod, where far tells which Listener takes the
// tunnels to an address of the pod.
func NewNeighbour(destination *Pod, far func(netip.Addr) *hbone.Listener) *Neighbour {
	n := &Neighbour{Pod: destination, far: far, closing: make(chan struct{})}
	n.close = sync.OnceFunc(func() { close(n.closing) })
	return n
}

// Serve lets connections in until ctx is done, or Close is called. It returns
// once all have ended: by themselves, or n.Drain after ctx.
func (n *Neighbour) Serve(ctx context.Context) error {
	base, force := context.WithCancelCause(context.WithoutCancel(ctx))
	defer force(nil)
	n.letIn(base)
	select {
	case <-n.closing:
	case <-ctx.Done():
	}
	n.keepOut()
	n.await(ctx, &n.connections, force)
	return nil
}

// Close takes no new connections. Open ones go on.
func (n *Neighbour) Close() { n.close() }

func (n *Neighbour) letIn(base context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.base = base
}

func (n *Neighbour) keepOut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.base = nil
}

// enter counts a connection in; nil if none are taken.
func (n *Neighbour) enter() context.Context {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.base != nil {
		n.connections.Add(1)
	}
	return n.base
}

// neighbour returns the Neighbour of the destination if that is another pod of this
// node, nil if only a tunnel leads there.
func (o Outbound) neighbour(self *workload.Workload, d *workload.Destination) *Neighbour {
	if o.Local == nil || d.Peer.UID == self.UID {
		return nil
	}
	return o.Local(d)
}

// beside opens the way to another pod of this node. It returns
// hbone.ErrElsewhere, and has done nothing, if only a tunnel leads there.
func (o Outbound) beside(c *connection, app *net.TCPConn, neighbour *Neighbour, key hbone.Key, d *workload.Destination) (way, error) {
	far := neighbour.far(key.Addr.Addr())
	if far == nil {
		return nil, hbone.ErrElsewhere
	}
	lost := func(err error) { c.cancel(&guardLost{err}) }
	var guard *hbone.Guard
	err := o.patiently(c.ctx, d.Peer, func() (err error) {
		guard, err = o.Tunnels.Guard(c.ctx, key, far, lost)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tunnel to %v at %v: %w", key.Dst, key.Addr, explained(err))
	}
	c.proven(key.Dst.String())
	w, err := neighbour.open(c, app, guard, d)
	if err != nil {
		guard.Release()
		return nil, onThisNode(c, err)
	}
	return w, nil
}

// guardLost ends both ends' connection for the same reason.
type guardLost struct{ error }

func (g *guardLost) Unwrap() error { return g.error }

// onThisNode names the destination of c in the error of the way beside a tunnel.
func onThisNode(c *connection, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%v at %v on this node: %w", c.dst.identity, c.dst.addr, explained(err))
}

// open asks the destination's questions about a connection from another pod of
// the node, and connects it to the app. The destination writes a record of its
// own; the source is told no more than by a tunnel.
func (n *Neighbour) open(from *connection, app *net.TCPConn, guard *hbone.Guard, d *workload.Destination) (way, error) {
	base := n.enter()
	if base == nil { // it is leaving the mesh just now
		return nil, fail(Dial, errors.New("the pod takes no new connections"))
	}
	// As in a tunnel, the source that the app sees is the tunnel's TCP peer.
	c := n.begin(base, inbound, netip.AddrPortFrom(guard.Addr(), from.src.addr.Port()))
	c.path, c.guarded, c.dst.addr, c.src.identity, c.twin = pathLocal, true, d.Target, guard.Client().String(), from
	closed := n.Metrics.Socket(inbound.reporter())
	stop := context.AfterFunc(from.ctx, func() { c.cancel(leftBySource(context.Cause(from.ctx))) })
	w := &besideTunnel{app: app, guard: guard, to: c}
	w.finish = func(err error) {
		c.finish(err)
		stop()
		closed()
		n.connections.Done()
	}
	host := ""
	if d.Service != nil {
		host = d.Service.Hostname()
	}
	server, status, err := n.admitted(c, guard.Client(), d.Target, host)
	if err != nil {
		w.finish(err)
		return nil, &hbone.StatusError{Code: status}
	}
	c.count()
	c.tellOpen()
	w.server = server
	return w, nil
}

// besideTunnel is the way from socket to socket between two pods of the node,
// for as long as guard proves what a tunnel would. It ends the destination's
// connection too.
type besideTunnel struct {
	app, server *net.TCPConn // of the source and the destination
	guard       *hbone.Guard
	to          *connection // of the destination
	finish      func(error) // writes its record and lets its Neighbour go
}

// carry resets both sockets if w.to ends, which the end of from ends too.
func (w *besideTunnel) carry(from *connection, over func(error)) {
	began := time.Now()
	relay(w.to.ctx, w.app, w.server, &from.bytes, from.pod.Share, func(err error) {
		over(w.over(from, began, fail(Reset, err)))
	})
}

// over ends the destination's connection, and returns how that of from ended.
func (w *besideTunnel) over(from *connection, began time.Time, err error) error {
	broken := w.to.ctx.Err() != nil // before finish, which ends it
	w.to.brake(err, began)
	w.finish(err)
	if broken && err != nil {
		err = fail(Reset, errors.New("broken off by the destination")) // unless from knows better
	}
	w.guard.Release()
	return onThisNode(from, err)
}

// leftBySource is how a connection ends for the destination that the source's
// end has ended.
func leftBySource(cause error) error {
	var lost *guardLost
	if errors.As(cause, &lost) {
		return explained(lost)
	}
	return fail(Reset, fmt.Errorf("broken off by the source: %v", cause))
}
