// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// Passthrough carries what arrives for a pod in plaintext, as far as policy
// allows that. bpf/inbound.bpf.c steers it here without touching its
// addresses, so that the accepted socket's own address is where it was going.
type Passthrough struct{ *Pod }

// Serve carries what ln accepts, and closes ln when ctx is done. It returns
// once all connections have ended: by themselves, or p.Drain after ctx.
func (p Passthrough) Serve(ctx context.Context, ln *net.TCPListener) error {
	return p.serveTCP(ctx, ln, inbound, p.open)
}

// open connects a client to the pod's app, or says why it is refused.
func (p Passthrough) open(c *connection, client *net.TCPConn) (way, error) {
	dst := socket.AddrPort(client.LocalAddr())
	c.path, c.plain, c.dst.addr = pathPassthrough, permissive, dst
	if p.isSelf(dst) || p.IsInner(client) {
		return nil, errSelfCall
	}
	self, err := p.self(c.ctx, c.endTurn)
	if err != nil {
		return nil, err
	}
	c.dst.workload = self
	if w := p.Registry.SharedByAddr(c.src.addr.Addr()); w != nil {
		c.src.workload = w
	}

	if err := p.admitTo(self, c, spiffeid.ID{}, dst); err != nil {
		return nil, err
	}
	app, err := p.inner(c, dst)
	if err != nil {
		return nil, err
	}
	p.Metrics.Plaintext(string(inbound), c.plain.String())
	return inPlain{app, client}, nil
}
