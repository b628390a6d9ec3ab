// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workers"
)

// ListenerConfig says how a Listener meets its peers.
type ListenerConfig struct {
	// Credential proves the pod's identity and lets the peers of the mesh pass. Required.
	Credential func(ctx context.Context) (Credential, error)
	// Refused is told of connections that did not become a tunnel, and of
	// requests that Accept does not return: not meant for us, over a limit, or
	// over before they were accepted. So somebody records them. Default: nobody does.
	Refused func(from netip.AddrPort, err error)

	// TrustDomain is the pod's. The peers of another share among them what one peer of it
	// may have. Default: each peer has that for itself.
	TrustDomain spiffeid.TrustDomain
	// Awaited reports whether any peer of another trust domain may be let in. All peers of
	// domains of which none may be have 16 tunnels in the Census. Default: some may be.
	Awaited func(spiffeid.TrustDomain) bool

	Share            Share         // of sockets; default: no bound
	Door             *Door         // of the process's Gate, the pod's; default: of one of its own
	Memory           *Memory       // for apps that do not read; default: a share of its own
	Census           *Census       // of the pod's tunnels; default: one of its own
	Workers          *workers.Pool // shakes hands and ends streams; default: each in a new goroutine
	Records          Records       // default OwnRecords
	MaxStreams       int           // that a peer may have open in one tunnel; default 200
	MaxTunnels       int           // in the Census, default 4096; one peer may have an eighth of them from one address
	IdleTimeout      time.Duration // after which an unused tunnel is closed; default 10 minutes, twice a Pool's
	HandshakeTimeout time.Duration // default 10 s
}

// Listener takes the tunnels that arrive at one pod sandbox and hands over
// their streams. A request that is not a CONNECT to the tunnel's own address is
// answered here, with 400.
type Listener struct {
	ln       *net.TCPListener
	cfg      ListenerConfig
	places   *places
	hooks    hooks
	incoming chan *Stream
	draining chan struct{} // closed: no new tunnels
	done     chan struct{} // closed: no new streams
	work     sync.WaitGroup

	mu      sync.Mutex
	ctx     context.Context // of handshakes under way
	cancel  context.CancelCauseFunc
	epoch   uint64 // of credentials
	denials uint64 // how often Retire(Denied) was called
	// provings is how often Reprove was called.
	provings uint64
	drained  bool
	closed   bool

	accepted, handshakes, failed, shed atomic.Uint64
}

// NewListener makes a Listener that Run starts. It owns ln.
func NewListener(ln *net.TCPListener, cfg ListenerConfig) *Listener {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = serverStreams
	}
	if cfg.MaxTunnels == 0 {
		cfg.MaxTunnels = tunnelLimit
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 10 * time.Minute
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 10 * time.Second
	}
	cfg.Door = doorOr(cfg.Door)
	cfg.Memory = memoryOr(cfg.Memory)
	if cfg.Census == nil {
		cfg.Census = NewCensus()
	}
	l := &Listener{
		ln: ln, cfg: cfg,
		incoming: make(chan *Stream, acceptLimit),
		draining: make(chan struct{}),
		done:     make(chan struct{}),
	}
	l.places = newPlaces(cfg.Share, func() bool { return l.dismissIdlest(0) })
	l.hooks = hooks{work: &l.work, workers: cfg.Workers, incoming: l.take, refused: l.turnedAway, gone: l.gone}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// Addr is where the Listener listens.
func (l *Listener) Addr() netip.AddrPort { return socket.AddrPort(l.ln.Addr()) }

// Run accepts tunnels until ctx is done, which ends all streams at once, or
// until Drain or Close; then it returns nil.
func (l *Listener) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.shut)()
	var pause time.Duration
	for {
		socket, err := l.ln.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			l.begin(socket)
			continue
		case errors.Is(err, net.ErrClosed):
			l.stop() // if not we closed it, there is no going on either
			<-l.done
			l.windUp()
			return nil
		}
		// Out of descriptors, most likely: what is open goes on.
		l.shed.Add(1)
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-l.draining:
		}
	}
}

// begin serves a connection, which it owns, unless the Listener was closed: who closes it
// waits for those that began before.
func (l *Listener) begin(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close() // nothing was read or written
		return
	}
	l.work.Add(1)
	l.cfg.Workers.Go(func() {
		defer l.work.Done()
		l.serve(conn)
	})
}

// join adds a tunnel whose handshake began in an epoch, and makes room for it.
func (l *Listener) join(c *conn, epoch, denials uint64) error {
	l.mu.Lock()
	switch {
	case l.drained:
		l.mu.Unlock()
		return ErrDrained
	case denials != l.denials:
		l.mu.Unlock()
		return errDenied
	}
	ce := l.cfg.Census
	ce.mu.Lock()
	makeRoom, err := ce.place(c, l.cfg.MaxTunnels)
	if err == nil {
		c.stale = epoch != l.epoch
		c.greet() // before Retire can find it, whose GOAWAY must not come first (RFC 9113 §3.4)
		ce.add(c)
	}
	ce.mu.Unlock()
	l.mu.Unlock()
	if makeRoom != nil {
		makeRoom()
	}
	return err
}

// extendOlder lets the open streams of older tunnels live on that the same
// peer made from the same address. The younger one was proven after a count of provings.
func (l *Listener) extendOlder(younger *conn, provings uint64) {
	older := slices.DeleteFunc(l.all(), func(c *conn) bool {
		return c == younger || c.peer != younger.peer || c.remote.Addr() != younger.remote.Addr()
	})
	if len(older) == 0 {
		return
	}
	asked := l.provingsNow()
	until, again := younger.proven()
	if asked != provings {
		until, again = younger.holdsUntil() // which parses the certificates anew
	}
	for _, c := range older {
		c.extendTo(until, again)
	}
	if l.since(asked) { // until is by roots of before
		for _, c := range older {
			c.reprove()
		}
	}
}

// take queues a stream for Accept.
func (l *Listener) take(s *Stream) bool {
	select {
	case l.incoming <- s:
		return true
	default:
		return false
	}
}

func (l *Listener) gone(c *conn) {
	if !c.unawaited {
		l.cfg.Door.parted(c.remote.Addr())
	}
	l.cfg.Census.mu.Lock()
	l.cfg.Census.remove(c)
	l.cfg.Census.mu.Unlock()
	l.places.give()
}

func (l *Listener) all() []*conn {
	l.cfg.Census.mu.Lock()
	defer l.cfg.Census.mu.Unlock()
	return slices.AppendSeq(make([]*conn, 0, l.cfg.Census.size), l.cfg.Census.of(l))
}

// Accept waits for the next request. After Drain or Close it returns
// ErrDrained when there are none left.
func (l *Listener) Accept(ctx context.Context) (*Stream, error) {
	for {
		select {
		case s := <-l.incoming:
			select {
			case <-s.done: // the peer gave up
				l.forgo(s)
				continue
			default:
			}
			l.accepted.Add(1)
			return s, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-l.done:
			return nil, ErrDrained
		}
	}
}

// Retire makes every peer dial a new tunnel, with the credentials that are valid from
// now on, before it opens more streams.
func (l *Listener) Retire(why Reason) {
	l.mu.Lock()
	l.epoch++
	if why == Denied {
		l.denials++
	}
	l.mu.Unlock()
	for _, c := range l.all() {
		c.leaveFor(why)
	}
}

// Drain takes no new tunnels, asks all peers to open no new streams, and returns
// when the last stream has ended. When ctx is done, the rest end with ErrDrained.
func (l *Listener) Drain(ctx context.Context) {
	l.stop()
	for _, c := range l.all() {
		c.retire()
	}
	finished := make(chan struct{})
	go func() {
		for _, c := range l.all() {
			c.ended.Wait()
		}
		close(finished)
	}()
	select {
	case <-finished:
	case <-ctx.Done():
	}
	l.Close()
}

// Close ends all tunnels and streams now and returns when nothing is left of them.
func (l *Listener) Close() {
	l.shut()
	l.windUp()
}

// windUp waits for what is under way and records the streams that nobody accepted.
func (l *Listener) windUp() {
	l.work.Wait()
	for {
		select {
		case s := <-l.incoming:
			<-s.done
			l.forgo(s)
		default:
			return
		}
	}
}

// forgo lets a stream go that ended before anybody accepted it.
func (l *Listener) forgo(s *Stream) {
	s.letGo()
	l.turnedAway(s.c, s.result())
}

func (l *Listener) turnedAway(c *conn, err error) {
	if l.cfg.Refused != nil {
		l.cfg.Refused(c.remote, err)
	}
}

// stop takes no new tunnels.
func (l *Listener) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.drained {
		l.drained = true
		close(l.draining)
		l.ln.Close() // resets connections that wait to be accepted: they carried nothing of an app
	}
}

func (l *Listener) shut() {
	l.stop()
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
		l.cancel(ErrDrained)
	}
	l.mu.Unlock()
	for _, c := range l.all() {
		c.abort(fmt.Errorf("%w: listener is closed", ErrDrained))
	}
}

// ListenerStats is a Listener at a moment.
type ListenerStats struct {
	Tunnels int
	Streams int // open now

	Accepted   uint64 // streams, ever
	Handshakes uint64 // begun, ever
	Failed     uint64 // of them
	Shed       uint64 // connections turned away for want of room
}

// Stats is the state of the Listener now.
func (l *Listener) Stats() ListenerStats {
	list := l.all()
	stats := ListenerStats{
		Tunnels: len(list), Accepted: l.accepted.Load(), Handshakes: l.handshakes.Load(),
		Failed: l.failed.Load(), Shed: l.shed.Load(),
	}
	for _, c := range list {
		stats.Streams += c.count()
	}
	return stats
}
