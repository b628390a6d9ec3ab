// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Neighbour carries what arrives for a pod from other pods of its node. Both are
// this process's, which holds their keys: to seal bytes only to open them again
// would protect nothing. So they go from socket to socket, after the questions
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

// local carries app to another pod of this node. It returns
// hbone.ErrElsewhere, and has done nothing, if only a tunnel leads there.
func (o Outbound) local(ctx context.Context, c *connection, app *net.TCPConn, neighbour *Neighbour, key hbone.Key, d *workload.Destination) error {
	far := neighbour.far(key.Addr.Addr())
	if far == nil {
		return hbone.ErrElsewhere
	}
	lost := func(err error) { c.cancel(&guardLost{err}) }
	var guard *hbone.Guard
	err := o.patiently(ctx, &d.Peer, func() (err error) {
		guard, err = o.Tunnels.Guard(ctx, key, far, lost)
		return err
	})
	if err != nil {
		return fmt.Errorf("tunnel to %v at %v: %w", key.Dst, key.Addr, explained(err))
	}
	defer guard.Release()
	c.proven(key.Dst.String())
	if err := neighbour.carry(c, app, guard, d); err != nil {
		return fmt.Errorf("%v at %v on this node: %w", key.Dst, d.Target, explained(err))
	}
	return nil
}

// guardLost ends both ends' connection for the same reason.
type guardLost struct{ error }

func (g *guardLost) Unwrap() error { return g.error }

// carry is the destination's part of a connection from another pod of the
// node. What it returns is for the record of the source, which is told no more
// than by a tunnel.
func (n *Neighbour) carry(from *connection, app *net.TCPConn, guard *hbone.Guard, d *workload.Destination) error {
	base := n.enter()
	if base == nil { // it is leaving the mesh just now
		return fail(Dial, errors.New("the pod takes no new connections"))
	}
	defer n.connections.Done()
	// As in a tunnel, the source that the app sees is the tunnel's TCP peer.
	c := n.begin(base, inbound, netip.AddrPortFrom(guard.Addr(), from.src.addr.Port()))
	defer n.Metrics.Socket(inbound.reporter())()
	c.path, c.guarded, c.dst.addr, c.src.identity, c.twin = pathLocal, true, d.Target, guard.Client().String(), from
	stop := context.AfterFunc(from.ctx, func() { c.cancel(leftBySource(context.Cause(from.ctx))) })
	defer stop()

	host := ""
	if d.Service != nil {
		host = d.Service.Hostname()
	}
	server, status, err := n.admitted(c.ctx, c, guard.Client(), d.Target, host)
	if err != nil {
		c.finish(err)
		return &hbone.StatusError{Code: status}
	}
	c.count()
	err = from.relay(c.ctx, app, server)
	if c.ctx.Err() != nil {
		defer c.finish(err)
		return fail(Reset, errors.New("broken off by the destination")) // unless from knows better
	}
	c.finish(err)
	return err
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
