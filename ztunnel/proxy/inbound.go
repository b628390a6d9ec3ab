// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/http"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Inbound carries what arrives for a pod in tunnels. The tunnel has proven who
// the peer is; each stream is asked, in order: is it meant for an app, do we
// know the pod, may the peer talk to it, does the peer come from where its
// identity runs, and does the app answer. Only then is it accepted.
type Inbound struct{ *Pod }

// Serve carries the streams that ln, which somebody else runs, accepts until
// ctx is done or ln has drained. It returns once all streams have ended: by
// themselves, or p.Drain after ctx.
func (i Inbound) Serve(ctx context.Context, ln *hbone.Listener) error {
	return i.serve(ctx, func() (carry, error) {
		stream, err := ln.Accept(ctx)
		if err != nil {
			return nil, err
		}
		return func(base context.Context, over func()) {
			turn := i.Share.beginning().take(ctx) // ln's queue is for all peers: nobody waits in it
			c := i.begin(base, inbound, stream.RemoteAddr())
			c.turn = turn
			c.run(func() (way, error) { return i.open(c, stream) }, over)
		}, nil
	})
}

// Refused records a tunnel from src that ended before it was one, for instance
// because the peer could not prove an identity of the mesh.
func (i Inbound) Refused(src netip.AddrPort, err error) {
	c := i.begin(context.Background(), inbound, src)
	c.path = pathTunnel
	c.finish(explained(err))
}

// open answers a stream: it connects the stream to its app and accepts it, or
// rejects it and says why. The status codes are what Istio's ztunnel answers.
func (i Inbound) open(c *connection, stream *hbone.Stream) (way, error) {
	target, peer := stream.Target(), stream.Peer()
	c.path, c.src.identity, c.dst.addr, c.hbone = pathTunnel, peer.String(), stream.LocalAddr(), target
	c.spoke = stream.Spoke
	app, status, err := i.admitted(c, peer, target, forwardedHost(stream.Header().Forwarded))
	if err != nil {
		return nil, refuse(stream, status, err)
	}
	if err := stream.Accept(); err != nil {
		stream.Reset()
		reset(app) // which was sent nothing; the other end is told by a reset too
		return nil, explained(err)
	}
	return inTunnel{app, stream}, nil
}

// admitted asks what every connection is asked whose peer has proved itself,
// and connects it to the app. If it is refused, status is the tunnel's answer.
func (p *Pod) admitted(c *connection, peer spiffeid.ID, target netip.AddrPort, host string) (app *net.TCPConn, status int, err error) {
	if p.isSelf(target) {
		return nil, http.StatusServiceUnavailable, errSelfCall
	}
	self := p.whoWeAre()
	if self == nil {
		return nil, http.StatusServiceUnavailable, errUnknownSelf
	}
	c.dst.workload, c.dst.identity = self, self.ID.String()
	c.service = p.Peers.service(host, target)
	// The address tells a name only if the certificate agrees.
	if w := p.Registry.SharedByAddr(c.src.addr.Addr()); w != nil && w.ID == peer {
		c.src.workload = w
	}
	c.arrives(self, peer, target)
	if err := p.admitTo(self, c, peer, target); err != nil {
		return nil, http.StatusUnauthorized, err
	}
	if c.path == pathTunnel { // the kernel knows the pods of this node
		if err := p.admitOrigin(c, peer); err != nil {
			return nil, unauthorized(err), err
		}
	}
	if err := p.admitNetwork(c); err != nil {
		return nil, unauthorized(err), err
	}
	app, err = p.braked(c, target)
	return app, statusOf(err), err
}

// unauthorized is the status of a connection that is not let in, or that found no place to
// wait for its source.
func unauthorized(err error) int {
	if wordOf(err) == Limit {
		return http.StatusTooManyRequests
	}
	return http.StatusUnauthorized
}

// admitTo admits c to dst, an address of the pod, which is self. The zero peer has not
// proved to be anybody.
func (p *Pod) admitTo(self *workload.Workload, c *connection, peer spiffeid.ID, dst netip.AddrPort) error {
	c.register(func() error {
		r := c.request(self, peer, dst)
		return p.concern(self).AllowInbound(&r)
	})
	r := c.request(self, peer, dst)
	for {
		concern := p.concern(self)
		err := concern.AllowInbound(&r)
		if p.live.judgedBy(concern) || p.concern(self) == concern {
			c.warn(fieldPolicyDryRun, concern.DryRun(&r, err))
			return denied(err)
		}
	}
}

// request is what policies are asked of a connection that arrives.
func (c *connection) request(self *workload.Workload, peer spiffeid.ID, dst netip.AddrPort) policy.Request {
	return policy.Request{Src: c.src.addr.Addr(), Peer: peer, Dst: *self, Addr: dst.Addr(), Port: dst.Port()}
}

// braked connects to the app, unless the peer's connections came to nothing too often.
func (p *Pod) braked(c *connection, target netip.AddrPort) (*net.TCPConn, error) {
	if err := p.brake.wait(c.ctx, c.peer(), c.endTurn); err != nil {
		return nil, err
	}
	to := approach{c.peer(), target}
	if err := p.brake.refusal(to); err != nil {
		return nil, err
	}
	// The source that the app sees is the tunnel's TCP peer, never a header.
	app, err := p.inner(c, target)
	p.brake.dialled(to, err)
	return app, err
}

// statusOf is the tunnel's answer when the app was not reached. A shortage of
// ours says nothing of the app.
func statusOf(err error) int {
	if wordOf(err) == Limit {
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// refuse answers with a status, and returns why.
func refuse(stream *hbone.Stream, status int, why error) error {
	stream.Reject(status) // a peer that has gone needs no answer
	return why
}
