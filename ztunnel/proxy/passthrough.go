// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// Passthrough carries what arrives for a pod in plaintext, as far as policy
// allows that. bpf/inbound.bpf.c steers it here without touching its
// addresses, so that the accepted socket's own address is where it was going.
type Passthrough struct{ *Pod }

// Serve carries what ln accepts, and closes ln when ctx is done. It returns
// once all connections have ended: by themselves, or p.Drain after ctx.
func (p Passthrough) Serve(ctx context.Context, ln *net.TCPListener) error {
	return p.serveTCP(ctx, ln, inbound, p.carry)
}

// carry serves one accepted connection and reports why it ended. Whatever it
// returns an error for, serveTCP resets towards the client.
func (p Passthrough) carry(ctx context.Context, c *connection, client *net.TCPConn) error {
	dst := addrOf(client.LocalAddr())
	c.path, c.dst.addr = pathPassthrough, dst
	if p.isSelf(dst) || p.IsInner(client) {
		return errSelfCall
	}
	self, err := p.self(ctx)
	if err != nil {
		return err
	}
	c.dst.workload = self
	if w, ok := p.Registry.ByAddr(c.src.addr.Addr()); ok {
		c.src.workload = &w
	}

	err = c.admit(func() error {
		dst := p.whoWeAre() // labels may change, and with them what is selected
		if dst == nil {
			dst = self
		}
		return p.Policy.AllowInbound(policy.Request{
			Src: c.src.addr.Addr(), Peer: spiffeid.ID{}, Dst: *dst, Port: c.dst.addr.Port(),
		})
	})
	if err != nil {
		return err
	}
	app, err := p.inner(ctx, c, dst)
	if err != nil {
		return err
	}
	p.Metrics.Plaintext(string(inbound), "permissive")
	return c.relay(ctx, app, client)
}
