// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// carrier is the running proxies of one pod sandbox: its listeners, its pool
// of tunnels, and every connection that it carries.
type carrier struct {
	pod       *proxy.Pod
	neighbour *proxy.Neighbour
	pool      *hbone.Pool
	tunnels   []*hbone.Listener
	outbound  []*net.TCPListener
	plain     []*net.TCPListener

	share *proxy.Share
	cut   context.CancelFunc // ends every connection at once
	done  chan struct{}      // closed when all of them have ended
}

// newCarrier builds the proxies of m. The pool and the listeners are m's alone
// and can obtain no other identity than m's.
func (p *Pods) newCarrier(m *member) *carrier {
	records := hbone.OwnRecords
	if p.StdTLSRecords {
		records = hbone.StdRecords
	}
	direct, share, door := p.Datapath.DialOut(m.ns), p.Budget.Share(m.Namespace+"/"+m.Name), p.gate.Door()
	memory := hbone.NewMemory()
	c := &carrier{share: share, done: make(chan struct{})}
	c.pool = hbone.NewPool(hbone.PoolConfig{
		Share:   share.Descriptors,
		Door:    door,
		Memory:  memory,
		Records: records,
		Workers: p.workers,
		Dial:    direct,
		Credential: func(ctx context.Context, key hbone.Key) (hbone.Credential, error) {
			return p.toPeer(ctx, m.id, key)
		},
		TrustDomain: m.id.TrustDomain(),
	})
	c.pod = &proxy.Pod{
		Self:            func() (workload.Workload, bool) { return p.workload(m.sandbox) },
		Cluster:         p.Cluster,
		Registry:        p.Registry,
		Policy:          p.Policy,
		NetworkPolicies: p.NetworkPolicies,
		Origins:         p.Origins,
		Peers:           p.Peers,
		Tunnels:         c.pool,
		OriginalDst:     p.Datapath.OriginalDst,
		Bound:           p.Datapath.Bound,
		Direct:          direct,
		Dead:            p.refuseAgain(m),
		Inner:           p.Datapath.DialInner(m.ns),
		IsInner:         p.Datapath.IsInner,
		IsOwn:           func(addr netip.Addr) bool { return p.Datapath.IsOwn(m.Cookie, addr) },
		Local:           p.local(),
		Share:           share,
		Workers:         p.workers,
		Log:             p.Access,
		GoodOneOf:       p.GoodOneOf,
		Metrics:         p.Metrics,
		Edges:           p.Edges,
		Events:          p.Events,
	}
	l := m.listeners
	c.outbound = present(l.Outbound4, l.Outbound6)
	c.plain = present(l.Inbound4, l.Inbound6)
	inbound, census := present(l.HBONE4, l.HBONE6), hbone.NewCensus()
	for _, ln := range inbound {
		c.tunnels = append(c.tunnels, hbone.NewListener(ln, hbone.ListenerConfig{
			TrustDomain: m.id.TrustDomain(),
			Awaited:     p.awaited(m.sandbox),

			Share:   share.Descriptors,
			Door:    door,
			Memory:  memory,
			Census:  census,
			Records: records,
			Workers: p.workers,
			Refused: proxy.Inbound{Pod: c.pod}.Refused,
			Credential: func(ctx context.Context) (hbone.Credential, error) {
				return credential(p.Certs.ServerPair(ctx, m.id))
			},
		}))
	}
	c.neighbour = proxy.NewNeighbour(c.pod, c.tunnelsTo)
	return c
}

// awaited asks whether a policy of the pod of s, as they are then, names a trust domain.
func (p *Pods) awaited(s sandbox) func(spiffeid.TrustDomain) bool {
	return func(domain spiffeid.TrustDomain) bool {
		w, known := p.workload(s)
		return known && p.Policy.Concern(w).MayLetIn(domain)
	}
}

// againAfter is how long a destination at which nobody answered is refused when
// it is tried again: an app that has another address for the same name tries
// that meanwhile (RFC 8305).
const againAfter = time.Second

// refuseAgain has connects of m to a dead destination refused for a while.
func (p *Pods) refuseAgain(m *member) func(netip.AddrPort) {
	return func(dst netip.AddrPort) {
		if err := p.Datapath.RefuseFor(m.Cookie, dst, againAfter); err != nil {
			p.Log.Debug("the next connect to a dead destination is reset, not refused", logPod, m.sandbox.String(), logError, err)
		}
	}
}

// tunnelsTo is the listener of addr's family; nil if the pod has none.
func (c *carrier) tunnelsTo(addr netip.Addr) *hbone.Listener {
	for _, ln := range c.tunnels {
		if ln.Addr().Addr().Is4() == addr.Is4() {
			return ln
		}
	}
	return nil
}

// present drops the listeners of a family that the pod does not have.
func present(lns ...*net.TCPListener) (found []*net.TCPListener) {
	for _, ln := range lns {
		if ln != nil {
			found = append(found, ln)
		}
	}
	return found
}

// start serves until finish, or until base ends.
func (c *carrier) start(base context.Context, failed func(error)) {
	ctx, cut := context.WithCancel(base)
	c.cut = cut
	var proxies sync.WaitGroup
	run := func(serve func() error) {
		proxies.Go(func() {
			if err := serve(); err != nil && ctx.Err() == nil {
				failed(err)
			}
		})
	}
	for _, ln := range c.outbound {
		run(func() error { return proxy.Outbound{Pod: c.pod}.Serve(ctx, ln) })
	}
	for _, ln := range c.plain {
		run(func() error { return proxy.Passthrough{Pod: c.pod}.Serve(ctx, ln) })
	}
	for _, ln := range c.tunnels {
		run(func() error { return ln.Run(ctx) })
		run(func() error { return proxy.Inbound{Pod: c.pod}.Serve(ctx, ln) })
	}
	run(func() error { return c.neighbour.Serve(ctx) })
	stop := c.share.Descriptors.Yield(c.yield)
	go func() {
		proxies.Wait()
		stop()
		close(c.done)
	}()
}

// finish closes the listeners, asks peers for no more streams, and waits for
// open connections to end by themselves until ctx is done; then it ends them.
func (c *carrier) finish(ctx context.Context) {
	for _, ln := range slices.Concat(c.outbound, c.plain) {
		ln.Close()
	}
	c.neighbour.Close()
	var draining sync.WaitGroup
	for _, ln := range c.tunnels {
		draining.Go(func() { ln.Drain(ctx) })
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	c.cut()
	draining.Wait()
	<-c.done
	c.pool.Close()
}

// yield has an idle tunnel give its descriptor back, and reports whether there was
// one: of a peer that has several, else of the pod's own, else of any peer.
func (c *carrier) yield() bool {
	return c.yieldInbound(spared) || c.pool.Yield() || c.yieldInbound(0)
}

// spared is how many tunnels a peer keeps as long as the pod has idle ones of its own.
const spared = 2

func (c *carrier) yieldInbound(spared int) bool {
	for _, ln := range c.tunnels {
		if ln.Yield(spared) {
			return true
		}
	}
	return false
}

// counts is what its tunnels carry and carried.
func (c *carrier) counts() (outbound, inbound metrics.TunnelCounts) {
	pool := c.pool.Stats()
	outbound = metrics.TunnelCounts{
		Tunnels: pool.Tunnels, Streams: pool.Streams, StreamsEver: pool.Opened,
		Handshakes: pool.Dials, Failed: pool.DialErrors, Retries: pool.Retries,
	}
	for _, ln := range c.tunnels {
		stats := ln.Stats()
		inbound.Add(metrics.TunnelCounts{
			Tunnels: stats.Tunnels, Streams: stats.Streams, StreamsEver: stats.Accepted,
			Handshakes: stats.Handshakes, Failed: stats.Failed, Shed: stats.Shed,
		})
	}
	return outbound, inbound
}

// told are its tunnels, those that it made first.
func (c *carrier) told() []hbone.Tunnel {
	tunnels := c.pool.Tunnels()
	for _, ln := range c.tunnels {
		tunnels = append(tunnels, ln.Tunnels()...)
	}
	return tunnels
}

// reprove ends every tunnel that the present roots do not vouch for.
func (c *carrier) reprove() {
	c.pool.Reprove()
	for _, ln := range c.tunnels {
		ln.Reprove()
	}
}

// restOn is how many tunnels would end with a root; see hbone.Pool.RestOn.
func (c *carrier) restOn(root [sha256.Size]byte) int {
	n := c.pool.RestOn(root)
	for _, ln := range c.tunnels {
		n += ln.RestOn(root)
	}
	return n
}

// credential is how the certificates of a pair of workloads make a tunnel.
func credential(pair certs.Pair, err error) (hbone.Credential, error) {
	return hbone.Credential{Config: pair.Config, Until: pair.Until, Without: pair.Without, Denied: pair.Denied}, err
}

// retire replaces every tunnel by one with the present certificate, before new streams open.
func (c *carrier) retire() { c.retireFor(hbone.Rotated) }

// move is retire that does not wait for new streams.
func (c *carrier) move() { c.retireFor(hbone.Tainted) }

func (c *carrier) retireFor(why hbone.Reason) {
	c.pool.Retire(why)
	for _, ln := range c.tunnels {
		ln.Retire(why)
	}
}
