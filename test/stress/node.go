// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// node is one pod with the parts of a ztunnel that carry its connections, all
// but what steers: apps connect to the proxy's listener, and say beside where to.
type node struct {
	name     string
	id       spiffeid.ID
	prefixes []netip.Prefix // v4 and v6
	ns       *netns.NS
	store    *certs.Store
	registry *workload.Registry
	peers    *proxy.Peers
	other    *node
	records  hbone.Records
	ledger   *ledger
	metrics  *metrics.Metrics

	apps     *net.TCPListener // where the inner legs lead
	outbound netip.AddrPort   // where apps connect to, from the first start on
	base     context.Context
	always   sync.WaitGroup // what survives a restart

	mu      sync.Mutex
	started *serving // nil: down

	again    atomic.Bool // its next handshake brings another rotation
	going    sync.Map    // netip.AddrPort of an app's socket -> *talk, outbound
	arriving sync.Map    // netip.AddrPort of an inner leg -> *talk
	talks    *talks
}

// serving is what one life of the node runs.
type serving struct {
	pool      *hbone.Pool
	tunnels   []*hbone.Listener
	neighbour *proxy.Neighbour
	stop      context.CancelFunc
	done      chan struct{}
}

// tunnelsTo is the listener at addr.
func (s *serving) tunnelsTo(addr netip.Addr) *hbone.Listener {
	for _, l := range s.tunnels {
		if l.Addr().Addr() == addr {
			return l
		}
	}
	return nil
}

var loopback = netip.MustParseAddr("127.0.0.1")

func (n *node) addr(v6 bool) netip.Addr {
	if v6 {
		return n.prefixes[1].Addr()
	}
	return n.prefixes[0].Addr()
}

// pool makes the node's pool.
func (n *node) pool() *hbone.Pool {
	return hbone.NewPool(hbone.PoolConfig{
		From: []netip.Addr{n.addr(false), n.addr(true)},
		Dial: n.direct, Records: n.records,
		Credential: func(ctx context.Context, key hbone.Key) (hbone.Credential, error) {
			defer n.retireAgain()
			config, until, err := n.store.Client(ctx, n.id, key.Dst)
			return hbone.Credential{Config: config, Until: until}, err
		},
	})
}

// direct dials out of the pod.
func (n *node) direct(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	return n.ns.Dial(ctx, to, nil)
}

// pod is the node's pod for the proxies.
func (n *node) pod(pool *hbone.Pool) *proxy.Pod {
	return &proxy.Pod{
		Self:     func() (workload.Workload, bool) { return n.registry.ByUID(n.name) },
		Registry: n.registry, Policy: policy.NewSet(), Peers: n.peers, Tunnels: pool,
		OriginalDst: n.originalDst,
		Local:       n.local,
		Direct:      n.direct,
		Inner:       n.inner,
		IsInner:     func(*net.TCPConn) bool { return false },
		IsOwn:       func(a netip.Addr) bool { return a == n.addr(false) || a == n.addr(true) },
		Drain:       drainTime,
		Log:         slog.New(n.ledger.of(n.name)),
		Metrics:     n.metrics,
	}
}

// drainTime is how long a node that is restarted lets streams finish.
const drainTime = 2 * time.Second

// start begins a life.
func (n *node) start() error {
	pool := n.pool()
	pod := n.pod(pool)
	ctx, stop := context.WithCancel(n.base)
	s := &serving{pool: pool, stop: stop, done: make(chan struct{})}
	var all sync.WaitGroup
	at := n.outbound
	if !at.IsValid() {
		at = netip.AddrPortFrom(loopback, 0)
	}
	out, err := n.ns.Listen(ctx, at, nil)
	if err != nil {
		stop()
		return err
	}
	if !n.outbound.IsValid() { // once: talks read it while a node starts anew
		n.outbound = addrPort(out.Addr())
	}
	all.Go(func() { n.report(proxy.Outbound{Pod: pod}.Serve(ctx, out)) })
	for _, v6 := range []bool{false, true} {
		ln, err := n.ns.Listen(ctx, netip.AddrPortFrom(n.addr(v6), workload.HBONEPort), nil)
		if err != nil {
			stop()
			return err
		}
		l := hbone.NewListener(ln, hbone.ListenerConfig{
			Refused: proxy.Inbound{Pod: pod}.Refused, Records: n.records,
			Credential: func(ctx context.Context) (hbone.Credential, error) {
				defer n.retireAgain()
				config, until, err := n.store.Server(ctx, n.id)
				return hbone.Credential{Config: config, Until: until}, err
			},
		})
		s.tunnels = append(s.tunnels, l)
		// As pods' carrier does: Drain ends Run, and ctx would end the streams.
		all.Go(func() { n.report(l.Run(context.WithoutCancel(ctx))) })
		all.Go(func() { n.report(proxy.Inbound{Pod: pod}.Serve(ctx, l)) })
	}
	s.neighbour = proxy.NewNeighbour(pod, s.tunnelsTo)
	all.Go(func() { n.report(s.neighbour.Serve(ctx)) })
	go func() {
		all.Wait()
		close(s.done)
	}()
	n.mu.Lock()
	n.started = s
	n.mu.Unlock()
	return nil
}

func (n *node) report(err error) {
	if err != nil && n.base.Err() == nil {
		n.talks.fault("a proxy ended", "%s: %v", n.name, err)
	}
}

// halt ends a life as an upgrade does: what is open may finish for a while.
func (n *node) halt() {
	n.mu.Lock()
	s := n.started
	n.started = nil
	n.mu.Unlock()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	s.stop()
	var draining sync.WaitGroup
	for _, l := range s.tunnels {
		draining.Go(func() { l.Drain(ctx) })
	}
	draining.Wait()
	<-s.done
	s.pool.Close()
	if left := s.pool.Stats(); left.Tunnels != 0 || left.Streams != 0 {
		n.talks.fault("left in the pool after its end", "%s: %+v", n.name, left)
	}
	for _, l := range s.tunnels {
		if left := l.Stats(); left.Tunnels != 0 || left.Streams != 0 {
			n.talks.fault("left in the listener after its end", "%s: %+v", n.name, left)
		}
	}
}

// retire makes the node use new tunnels, as a rotation does: those that it opens, those
// that it accepts, or both.
func (n *node) retire(opened, accepted bool) {
	n.mu.Lock()
	s := n.started
	n.mu.Unlock()
	if s == nil {
		return
	}
	if opened {
		s.pool.Retire(hbone.Rotated)
	}
	for _, l := range s.tunnels {
		if accepted {
			l.Retire(hbone.Rotated)
		}
	}
}

// reprove has all tunnels be held against the bundle that has just changed.
func (n *node) reprove() {
	n.mu.Lock()
	s := n.started
	n.mu.Unlock()
	if s == nil {
		return
	}
	s.pool.Reprove()
	for _, l := range s.tunnels {
		l.Reprove()
	}
}

// retireAgain is a rotation during a handshake, if there is to be one: the tunnel that a
// rotation brought is hit by the next.
func (n *node) retireAgain() {
	if n.again.CompareAndSwap(true, false) {
		n.talks.weather.note("%s retires all tunnels during a handshake", n.name)
		n.retire(true, true)
	}
}

// local takes the two pods to be on one node for some talks: their bytes go beside the
// tunnel, which goes over the path nevertheless. Nil: the other is down, or only a tunnel
// leads there.
func (n *node) local(d *workload.Destination) *proxy.Neighbour {
	t := n.talks.at(d.Target)
	if t == nil || !t.beside {
		return nil
	}
	n.other.mu.Lock()
	defer n.other.mu.Unlock()
	if n.other.started == nil {
		return nil
	}
	return n.other.started.neighbour
}

func (n *node) originalDst(conn *net.TCPConn) (netip.AddrPort, error) {
	t, ok := n.going.LoadAndDelete(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	if !ok {
		return netip.AddrPort{}, errors.New("of no talk")
	}
	return t.(*talk).dst, nil
}

// inner dials the app that a talk is with. Its number is the port.
func (n *node) inner(ctx context.Context, _, to netip.AddrPort) (*net.TCPConn, error) {
	t := n.talks.at(to)
	if t == nil {
		return nil, fmt.Errorf("%s: no talk with %v", n.name, to)
	}
	return n.ns.Dial(ctx, addrPort(n.apps.Addr()), bound(func(local netip.AddrPort) { n.arriving.Store(local, t) }))
}

// serveApps takes the inner legs.
func (n *node) serveApps() {
	for {
		conn, err := n.apps.AcceptTCP()
		if err != nil {
			return
		}
		t, ok := n.arriving.LoadAndDelete(addrPort(conn.RemoteAddr()))
		if !ok {
			n.talks.fault("a connection of no talk", "%s", n.name)
			conn.Close()
			continue
		}
		n.always.Go(func() { t.(*talk).serve(conn) })
	}
}

// call opens the connection of a talk.
func (n *node) call(t *talk) (*net.TCPConn, error) {
	return n.ns.Dial(n.base, n.outbound, bound(func(local netip.AddrPort) { n.going.Store(local, t) }))
}
