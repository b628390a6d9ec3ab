// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Outbound carries the connections that a pod's app opens.
// bpf/outbound.bpf.c steers them here; each is asked, in order: where was it
// going, who are we, who is there, may we talk to them, and how to get there.
type Outbound struct{ *Pod }

// Serve carries what ln accepts, and closes ln when ctx is done. It returns
// once all connections have ended: by themselves, or p.Drain after ctx.
func (o Outbound) Serve(ctx context.Context, ln *net.TCPListener) error {
	return o.serveTCP(ctx, ln, outbound, o.open)
}

// open finds out where an accepted connection goes and opens the way there, or
// says why it is refused.
func (o Outbound) open(c *connection, app *net.TCPConn) (way, error) {
	dst, err := o.OriginalDst(app)
	if err != nil {
		return nil, fail(NoOriginalDst, fmt.Errorf("original destination of %v: %w", app.RemoteAddr(), err))
	}
	c.dst.addr, c.asked = dst, dst
	self, err := o.self(c.ctx, c.endTurn)
	if err != nil {
		return nil, err
	}
	c.src.workload = self
	if o.isOurs(self, dst) {
		return nil, errSelfCall
	}
	found, err := o.Registry.Resolve(c.src.addr.Addr(), dst)
	d := &found
	if err != nil {
		o.tellDead(c, dst, d, err)
		return nil, err // unknown, yet inside the mesh CIDRs: refused, never plaintext
	}
	c.service, c.dst.workload = d.Service, d.Peer
	w, err := o.openTo(c, app, self, d)
	if err != nil {
		o.tellDead(c, dst, d, err)
	}
	return w, err
}

// openTo opens the way to d: through the mesh if d is in it, and only else in
// plaintext.
func (o Outbound) openTo(c *connection, app *net.TCPConn, self *workload.Workload, d *workload.Destination) (way, error) {
	switch {
	case d.Peer.UID == self.UID && o.IsOwn(d.Target.Addr()):
		return o.itself(c, app, self, d)
	case d.Peer.Meshed:
		return o.mesh(c, app, self, d)
	}
	return o.plain(c, app, self, d)
}

// isOurs reports whether an app dialled one of ztunnel's listeners in its pod.
func (o Outbound) isOurs(self *workload.Workload, dst netip.AddrPort) bool {
	addr := dst.Addr()
	return addr.IsLoopback() || addr.IsUnspecified() || slices.Contains(self.Addrs, addr) && o.isSelf(dst)
}

// mesh opens the way to a workload of the mesh: in a tunnel, on the same node
// beside it, or not at all.
func (o Outbound) mesh(c *connection, app *net.TCPConn, self *workload.Workload, d *workload.Destination) (way, error) {
	key := hbone.Key{Dst: d.Peer.ID, Addr: d.Peer.HBONE(d.Target.Addr())}
	c.src.identity = self.ID.String()
	neighbour := o.neighbour(self, d)
	if neighbour != nil {
		c.path, c.guarded, c.dst.addr = pathLocal, true, d.Target
	} else {
		c.tunnelled(key.Addr, d.Target)
	}
	c.leaves(self, d)
	if err := c.admit(func() error { return o.Policy.AllowOutbound(*self, *d) }); err != nil {
		return nil, err
	}
	if err := o.admitNetwork(c); err != nil {
		return nil, err
	}
	if neighbour != nil {
		if w, err := o.beside(c, app, neighbour, key, d); !errors.Is(err, hbone.ErrElsewhere) {
			return w, err
		}
		c.tunnelled(key.Addr, d.Target)
	}
	return o.tunnel(c, app, self, key, d)
}

// tunnel opens a stream in a tunnel of key.
func (o Outbound) tunnel(c *connection, app *net.TCPConn, self *workload.Workload, key hbone.Key, d *workload.Destination) (way, error) {
	target := hbone.Target{Authority: d.Target, Header: header(o.baggage(self), c.src.addr, d.Service)}
	var stream *hbone.Stream
	c.endTurn()
	err := o.patiently(c.ctx, d.Peer, func() (err error) {
		stream, err = o.Tunnels.OpenFor(c.ctx, key, target, app)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tunnel to %v at %v: %w", key.Dst, key.Addr, o.unreached(self, d, err))
	}
	// From here on the peer's certificate was verified to be this identity's.
	c.proven(stream.Peer().String())
	return inTunnel{app, stream}, nil
}

// patiently dials, and while the peer has only just joined the mesh again and
// again where nobody answers: its own node may not know yet. A peer that
// answers and cannot prove its identity is not asked twice.
func (o Outbound) patiently(ctx context.Context, peer *workload.Workload, dial func() error) error {
	if err := o.Share.dialing().Take(); err != nil {
		return err
	}
	defer o.Share.dialing().Give()
	start, pause := time.Now(), 50*time.Millisecond
	deadline := start.Add(o.Peers.patience(peer, start))
	for {
		err := dial()
		if err == nil || !unanswered(err) || time.Until(deadline) < pause {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, maxBackoff)
	}
}

// unanswered reports whether nobody took a tunnel's TCP connection.
func unanswered(err error) bool {
	var status *hbone.StatusError
	var silence *hbone.NoAnswerError
	return errors.Is(err, hbone.ErrDial) && !errors.As(err, &status) && !errors.As(err, &silence)
}

// itself opens the way from the pod's app to its own pod, of which a Service made
// it an endpoint. It stays inside, as if the app had dialled the pod's address:
// what a pod sends to itself is not steered, so that no tunnel could arrive.
func (o Outbound) itself(c *connection, app *net.TCPConn, self *workload.Workload, d *workload.Destination) (way, error) {
	c.path, c.plain, c.dst.addr = pathLocal, ownPod, d.Target
	c.src.identity, c.dst.identity = self.ID.String(), self.ID.String()
	if o.isSelf(d.Target) {
		return nil, errSelfCall
	}
	far, err := o.direct(c, app, self, d)
	if err != nil {
		return nil, err
	}
	return inPlain{app, far}, nil
}

// plain opens the way to a destination outside the mesh.
func (o Outbound) plain(c *connection, app *net.TCPConn, self *workload.Workload, d *workload.Destination) (way, error) {
	c.path, c.plain, c.dst.addr = pathPassthrough, whyPlain(d), d.Target
	far, err := o.direct(c, app, self, d)
	if err != nil {
		return nil, err
	}
	o.Metrics.Plaintext(string(outbound), c.plain.String())
	return inPlain{app, far}, nil
}

// direct connects without a tunnel: from the address to which the app bound its
// socket, or from the one that the kernel chooses for this destination.
func (o Outbound) direct(c *connection, app *net.TCPConn, self *workload.Workload, d *workload.Destination) (*net.TCPConn, error) {
	if err := c.admit(func() error { return o.Policy.AllowOutbound(*self, *d) }); err != nil {
		return nil, err
	}
	var from netip.Addr
	if o.Bound != nil {
		from = o.Bound(app)
	}
	c.endTurn()
	return o.dial(c, d.Target, func(ctx context.Context) (*net.TCPConn, error) {
		return o.Direct(ctx, from, d.Target)
	})
}

// whyPlain is the reason under which plaintext out of the pod is counted.
func whyPlain(d *workload.Destination) plain {
	switch {
	case d.Peer.UID != "":
		return notMeshed // a pod without the label
	case d.Node && isNodePort(d.Target.Port()):
		return nodePort // of no service that is known
	case d.Node:
		return nodeItself // the kubelet, the API server, what runs in the node's own network
	}
	return outsideMesh
}

// isNodePort reports that a port is in the range from which Kubernetes gives
// node ports, unless its API server was told another.
func isNodePort(port uint16) bool { return port >= 30000 && port <= 32767 }
