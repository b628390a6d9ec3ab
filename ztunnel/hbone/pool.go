// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/workers"
)

// Key is what a tunnel leads to. It is compared whole, never hashed to
// something shorter: a collision would cross identities.
type Key struct {
	Dst  spiffeid.ID    // whom the peer must prove to be
	Addr netip.AddrPort // where it listens, port 15008 of a pod
}

// PoolConfig says how a Pool reaches its peers.
type PoolConfig struct {
	// From are the pod's own addresses; a tunnel leaves from the one of its
	// destination's family. Default: the kernel's choice.
	From []netip.Addr
	// Dial connects to a peer; from may be zero. Required.
	Dial func(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error)
	// Credential proves the pod's identity and lets nobody but Key.Dst pass. Required.
	// An error that is a Cause says what the streams that wait for the tunnel end with.
	Credential func(ctx context.Context, key Key) (Credential, error)
	// TrustDomain is the pod's own: all identities of another one count as one peer. Default:
	// each identity counts for itself.
	TrustDomain spiffeid.TrustDomain

	Share            Share         // of sockets; default: no bound
	Door             *Door         // of the process's Gate, the pod's; default: of one of its own
	Memory           *Memory       // for apps that do not read; default: a share of its own
	Workers          *workers.Pool // ends streams; default: each ends in a new goroutine
	Records          Records       // default OwnRecords
	MaxStreams       int           // streams in one tunnel, at most the peer's limit; default 100
	IdleTimeout      time.Duration // after which an unused tunnel is closed; default 5 minutes
	DialTimeout      time.Duration // default 10 s
	HandshakeTimeout time.Duration // default 10 s
	AnswerTimeout    time.Duration // for the answer to CONNECT, which comes when the peer reached its app; default 20 s
}

// Pool opens streams for one pod sandbox and holds its tunnels, by Key. Pods do
// not share one, even of the same identity: the peer shows the tunnel's address
// to its app.
type Pool struct {
	cfg     PoolConfig
	connect func(context.Context, Key) (net.Conn, error)
	places  *places
	ctx     context.Context // of dials under way
	cancel  context.CancelCauseFunc
	work    sync.WaitGroup // tunnels and dials

	mu     sync.Mutex
	keys   map[Key]*tunnels
	epoch  uint64 // of credentials: a dial that began in an older one is void
	closed bool
	// provings is how often Reprove was called.
	provings uint64

	opened, dials, dialErrors, retries atomic.Uint64
}

// tunnels are those of one key.
type tunnels struct {
	list  []*conn   // oldest first
	dial  *dial     // under way, or nil
	room  int       // streams that the peer allowed last in a new one; 0: not known, or none
	added time.Time // when one was made beside those that are busy
	again backoff   // of dials for what is open in those that are to be left
}

// NewPool makes a Pool without tunnels.
func NewPool(cfg PoolConfig) *Pool {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = clientStreams
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&cfg.IdleTimeout, 5 * time.Minute}, {&cfg.DialTimeout, 10 * time.Second},
		{&cfg.HandshakeTimeout, 10 * time.Second}, {&cfg.AnswerTimeout, 20 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	cfg.Door = doorOr(cfg.Door)
	cfg.Memory = memoryOr(cfg.Memory)
	p := &Pool{cfg: cfg, keys: make(map[Key]*tunnels)}
	p.places = newPlaces(cfg.Share, p.closeIdlest)
	p.connect = p.dialTCP
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	return p
}

// Open asks the peer at key to connect to target and returns the stream when
// it has, whose Carry the caller must call.
//
// The stream is tried again on another tunnel if the peer did nothing for it, or
// its tunnel broke or proved dead before a byte of the app was sent.
func (p *Pool) Open(ctx context.Context, key Key, target Target) (*Stream, error) {
	return p.OpenFor(ctx, key, target, nil)
}

// OpenFor is Open for an app whose first bytes need not wait for the answer.
// The caller still owns app, unless an error says that it broke off; after a
// NoAnswerError it must not be given to another OpenFor, as something of it was read.
func (p *Pool) OpenFor(ctx context.Context, key Key, target Target, app *net.TCPConn) (*Stream, error) {
	var tried []*conn
	first := newEarly(app)
	defer first.letGo()
	for {
		s, err := p.reserve(ctx, key, target, tried)
		if err != nil {
			return nil, first.last(target, err)
		}
		if err = s.await(ctx, p.cfg.AnswerTimeout, first); err == nil {
			p.opened.Add(1)
			return s, nil
		}
		var again *notTaken
		switch {
		case !errors.As(err, &again):
			return nil, err
		case again.room: // by now we know how much there is
		case len(tried) == maxRetries:
			return nil, first.last(target, err)
		default:
			tried = append(tried, s.c)
		}
		p.retries.Add(1)
	}
}

// maxRetries bounds how often one Open is tried again, unless that is for want of room.
const maxRetries = 3

// reserve opens a stream in the tunnel that has the fewest, or waits for a new
// one if none takes it, or until a peer that allows none allows some. The request is
// queued, and the caller flushes it. A retry wants a tunnel that is younger than all it
// tried.
func (p *Pool) reserve(ctx context.Context, key Key, target Target, tried []*conn) (*Stream, error) {
	d := new(dial)
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, fmt.Errorf("%w: pool is closed", ErrDrained)
		}
		t := p.of(key)
		if c, more := t.choose(tried); c != nil {
			if more {
				p.addTunnel(key, t)
			}
			p.mu.Unlock()
			if s := c.reserve(target); s != nil {
				return s, nil
			}
			continue // it takes none any more
		}
		if c := t.shut(); c != nil {
			p.mu.Unlock()
			if err := c.opens(ctx, p.cfg.AnswerTimeout); err != nil {
				return nil, err
			}
			continue
		}
		if err := d.stillborn(); err != nil {
			p.mu.Unlock()
			return nil, err // another dial would not fare better
		}
		d = p.dialLocked(key, t)
		p.mu.Unlock()
		if err := d.wait(ctx, key); err != nil {
			return nil, err
		}
	}
}

// of is the tunnels of a key; mu is held.
func (p *Pool) of(key Key) *tunnels {
	t := p.keys[key]
	if t == nil {
		t = new(tunnels)
		p.keys[key] = t
	}
	return t
}

// all is every tunnel.
func (p *Pool) all() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*conn
	for _, t := range p.keys {
		list = append(list, t.list...)
	}
	return list
}

// Reason says why tunnels are retired.
type Reason int

// The reasons.
const (
	// Rotated: there are newer certificates or roots. Open streams go on, as
	// long as a younger tunnel proves both ends anew before the old certificates end.
	Rotated Reason = iota
	// Denied: the identity is no longer allowed. All streams end now.
	Denied
	// Tainted is Rotated, and what vouched for the old certificates may go long before they
	// end: a Pool opens younger tunnels for open streams at once, as a peer's GOAWAY has it do.
	// It tries again until one proves both ends, ever more rarely.
	Tainted
)

// Retire makes new streams use new tunnels, with the credentials that are valid from
// now on.
func (p *Pool) Retire(why Reason) {
	p.mu.Lock()
	p.epoch++
	since := time.Now() // in the same hold: a dial that begins later goes by what is valid now
	p.mu.Unlock()
	all := p.all()
	for _, c := range all {
		c.leaveFor(why)
	}
	if why == Tainted {
		moveFrom(all, since)
	}
}

var errDenied = fmt.Errorf("%w: identity is not allowed any more", ErrDenied)

func (c *conn) leaveFor(why Reason) {
	switch why {
	case Denied:
		c.abort(errDenied)
	case Tainted:
		c.retireAgain()
	default:
		c.retire()
	}
}

// Drain opens no new streams and returns when the last has ended. When ctx is
// done, the rest end with ErrDrained.
func (p *Pool) Drain(ctx context.Context) {
	p.close()
	for _, c := range p.all() {
		c.retire()
	}
	finished := make(chan struct{})
	go func() {
		p.work.Wait()
		close(finished)
	}()
	select {
	case <-finished:
	case <-ctx.Done():
		p.Close()
		<-finished
	}
}

// Close ends all streams and tunnels now and returns when nothing is left of them.
func (p *Pool) Close() {
	p.close()
	for _, c := range p.all() {
		c.abort(fmt.Errorf("%w: pool is closed", ErrDrained))
	}
	p.work.Wait()
}

func (p *Pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(ErrDrained)
}

// PoolStats is a Pool at a moment.
type PoolStats struct {
	Tunnels int
	Streams int // open now

	Opened     uint64 // streams, ever
	Dials      uint64 // tunnels tried, ever
	DialErrors uint64
	Retries    uint64 // of streams that a tunnel did not take
}

// Stats is the state of the Pool now.
func (p *Pool) Stats() PoolStats {
	list := p.all()
	stats := PoolStats{
		Tunnels: len(list), Opened: p.opened.Load(), Dials: p.dials.Load(),
		DialErrors: p.dialErrors.Load(), Retries: p.retries.Load(),
	}
	for _, c := range list {
		stats.Streams += c.count()
	}
	return stats
}
