// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// serve carries, each in a goroutine of its own, the connections that next
// returns, until next fails. It waits for them to end.
func (p *Pod) serve(ctx context.Context, next func() (carry func(context.Context), err error)) error {
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
		connections.Go(func() { carry(base) })
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
		for c := range p.open.all() {
			c.cutIfOver()
		}
		<-ended
	}
}

// serveTCP serves the connections that ln accepts, and closes ln.
func (p *Pod) serveTCP(ctx context.Context, ln *net.TCPListener, d direction, carry func(context.Context, *connection, *net.TCPConn) error) error {
	defer ln.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	a := &acceptor{ln: ln, refused: func(src netip.AddrPort, err error) {
		p.begin(ctx, d, src).finish(fail(Limit, err))
	}}
	defer a.spare.close()
	return p.serve(ctx, func() (func(context.Context), error) {
		conn, err := a.accept(ctx)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) {
			c := p.begin(ctx, d, addrOf(conn.RemoteAddr()))
			defer p.Metrics.Socket(d.reporter())()
			err := c.hold()
			if err == nil {
				err = carry(c.ctx, c, conn)
			}
			if err == nil && c.stream.Load() != nil {
				if err = c.carryStream(conn); err != nil {
					err = fmt.Errorf("stream to %v at %v: %w", c.dst.identity, c.dst.addr, err)
				}
			}
			if err != nil {
				reset(conn) // refused or broken: no app may take it for an end of data
			}
			conn.Close()
			c.finish(err)
		}, nil
	})
}

// acceptor accepts from a listener past whatever is wrong for a while.
type acceptor struct {
	ln      *net.TCPListener
	refused func(src netip.AddrPort, err error)
	spare   spare
	backoff time.Duration
}

const maxBackoff = time.Second

// accept returns the next connection. It fails only once the listener is
// closed. When descriptors run out it refuses connections, which would else
// hang until their clients give up.
func (a *acceptor) accept(ctx context.Context) (*net.TCPConn, error) {
	for {
		a.spare.take()
		conn, err := a.ln.AcceptTCP()
		if short(err) && a.spare.close() {
			conn, err = a.acceptOnSpare(err)
		}
		switch {
		case conn != nil && isLast(conn):
			reset(conn)
			a.refused(addrOf(conn.RemoteAddr()), errScarce)
			continue
		case conn != nil:
			a.backoff = 0
			return conn, nil
		case err == nil:
			continue
		case errors.Is(err, net.ErrClosed):
			return nil, err
		}
		// A network error of a connection that is gone already, or descriptors
		// ran out and there is none to spare: do not spin.
		a.backoff = min(max(5*time.Millisecond, 2*a.backoff), maxBackoff)
		select {
		case <-time.After(a.backoff):
		case <-ctx.Done():
		}
	}
}

// acceptOnSpare waits a while for a connection, with the place of the spare
// descriptor. It returns it if there are others by now, else refuses it. accept(2)
// fails for want of a descriptor before it looks whether anybody is waiting.
func (a *acceptor) acceptOnSpare(why error) (*net.TCPConn, error) {
	a.ln.SetDeadline(time.Now().Add(maxBackoff))
	conn, err := a.ln.AcceptTCP()
	a.ln.SetDeadline(time.Time{})
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return nil, err
	}
	if a.spare.take() {
		return conn, nil
	}
	reset(conn)
	a.refused(addrOf(conn.RemoteAddr()), why)
	return nil, nil
}

// The last descriptors are not for apps' connections: these may use up their
// own share, but tunnels, which carry many, must find room, and so must calls to
// the CA and the plugin's requests.
const (
	reserveShare = 16   // one in so many of what this process may have
	reserveMost  = 1024 // of them
)

var errScarce = fmt.Errorf("%w: the last descriptors are not for connections of apps", syscall.EMFILE)

// isLast reports that a new connection of an app has one of the last
// descriptors. The kernel gives the lowest number that is free.
func isLast(conn *net.TCPConn) (last bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) { last = isReserved(uint64(fd)) })
	return last
}

func isReserved(fd uint64) bool {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return false
	}
	return fd >= limit.Cur-reserved(limit.Cur)
}

func reserved(limit uint64) uint64 { return min(limit/reserveShare, reserveMost) }

// scarce reports that the next descriptor would be one of the last.
func scarce() bool {
	next, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return true
	}
	unix.Close(next)
	return isReserved(uint64(next))
}

// spare is a descriptor held back for the moment when there are no others.
type spare struct{ file *os.File }

// take reports whether there is one now.
func (s *spare) take() bool {
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull)
	}
	return s.file != nil
}

// close reports whether there was one.
func (s *spare) close() bool {
	if s.file == nil {
		return false
	}
	s.file.Close()
	s.file = nil
	return true
}
