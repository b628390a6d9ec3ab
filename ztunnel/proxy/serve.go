// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// carry has a connection begin and run until it calls over. Its context ends when it must.
type carry func(ctx context.Context, over func())

// serve carries the connections that next returns, each from a goroutine of its own, until
// next fails. It waits for them to end.
func (p *Pod) serve(ctx context.Context, next func() (carry, error)) error {
	// Not a child of ctx, whose end starts the drain and not the end.
	base, force := context.WithCancelCause(context.WithoutCancel(ctx))
	defer force(nil)
	var connections sync.WaitGroup
	var broken error
	for {
		carry, err := next()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, hbone.ErrDrained) {
				broken = err
			}
			break
		}
		connections.Add(1)
		p.Workers.Go(func() { carry(base, connections.Done) })
	}
	p.await(ctx, &connections, force)
	return broken
}

// await waits for connections to end: for as long as they like while ctx
// lives, p.Drain after that; then they are forced to.
func (p *Pod) await(ctx context.Context, connections *sync.WaitGroup, force context.CancelCauseFunc) {
	ended := make(chan struct{})
	go func() {
		connections.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	drain := time.NewTimer(p.Drain)
	defer drain.Stop()
	select {
	case <-ended:
	case <-drain.C:
		force(errDrained)
		for c := range p.live.all(inbound, outbound) {
			c.cutIfOver()
		}
		<-ended
	}
}

// serveTCP carries the connections that ln accepts, each by the way that open
// returns, and closes ln. It resets what open refuses.
func (p *Pod) serveTCP(ctx context.Context, ln *net.TCPListener, d direction, open func(*connection, *net.TCPConn) (way, error)) error {
	defer ln.Close() // resets connections that wait to be accepted: of those nothing was read
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	a := &acceptor{ln: ln, refused: func(src netip.AddrPort, err error) {
		p.begin(ctx, d, src).finish(fail(Limit, err))
	}}
	defer a.spare.close()
	return p.serve(ctx, func() (carry, error) {
		conn, err := a.accept(ctx)
		if err != nil {
			return nil, err
		}
		turn := p.Share.beginning().take(ctx) // the others wait in the kernel's queue
		return func(ctx context.Context, over func()) {
			c := p.begin(ctx, d, socket.AddrPort(conn.RemoteAddr()))
			c.turn = turn
			c.run(func() (way, error) { return c.openOrReset(conn, open) }, over)
		}, nil
	})
}

// openOrReset opens the way of an accepted connection within the pod's share.
// If it is refused, no app may take that for an end of data.
func (c *connection) openOrReset(conn *net.TCPConn, open func(*connection, *net.TCPConn) (way, error)) (w way, err error) {
	if err = c.hold(); err == nil {
		w, err = open(c, conn)
	}
	if err != nil {
		reset(conn) // to which nothing was sent
	}
	return w, err
}
