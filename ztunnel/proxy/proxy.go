// SPDX-License-Identifier: Apache-2.0

// Package proxy carries the connections of enrolled pods.
//
//	Outbound     what a pod's app opens: into a tunnel, or plainly out of the mesh
//	Inbound      what arrives for it in tunnels
//	Neighbour    what arrives for it from another pod of the same node
//	Passthrough  what arrives for it in plaintext
//
// Each has one function, open, that asks its questions in order and returns the
// way by which the connection's bytes go, or why it is refused. The way carries
// them until the connection ends. A connection that cannot be recorded, resolved,
// allowed or authenticated is refused; none to a workload of the mesh is ever
// tried in plaintext. However it ends, one access record says so.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/edges"
	"github.com/culvert-mesh/culvert/ztunnel/events"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workers"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Pod is one pod sandbox as its proxies see it, and the connections that it
// has open. Its fields are set before it is first used.
type Pod struct {
	// Self is the workload of the sandbox, false while the registry does not
	// know it. required
	Self     func() (workload.Workload, bool)
	Registry *workload.Registry // required
	Policy   *policy.Set        // required
	// NetworkPolicies are asked about connections inside the mesh. default nil: there are none
	NetworkPolicies *networkpolicy.Set
	// Origins says whether identities in tunnels are compared with addresses. default: warn
	Origins Origins
	Peers   *Peers      // required; one for all pods of the process
	Tunnels *hbone.Pool // the pod's own: its netns, address and identity; required
	// Local finds the Neighbour of a destination that is verified to be on this
	// node, nil for others. default nil: all are reached by tunnels
	Local func(*workload.Destination) *Neighbour

	OriginalDst func(*net.TCPConn) (netip.AddrPort, error) // where an app wanted to go; required
	// Bound returns the source address of an app's connection if the app chose
	// it, else the zero Addr. default nil: none did
	Bound func(*net.TCPConn) netip.Addr
	// Direct dials out of the pod past our own steering; if from is
	// the zero Addr, from the one that the kernel chooses. required
	Direct func(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error)
	// Dead is told of a destination at which nobody answers, as the pod's app
	// named it: for a second, further connects of the pod to it shall be refused
	// before they are steered. default nil: the app sees a reset each time
	Dead func(dst netip.AddrPort)
	// Inner dials the pod's app with a client's address as source, and another
	// port than the client's. required
	Inner func(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error)
	// IsInner reports whether a connection that arrived is an inner leg of
	// ours, steered back to us. required
	IsInner func(*net.TCPConn) bool
	// IsOwn reports whether the pod's netns holds an address. The registry's word
	// is not enough to do without a tunnel: the address of a sandbox of before is
	// somebody else's by now. required
	IsOwn func(netip.Addr) bool
	// Share is what the pod's connections may use of the process. Its tunnels
	// have the same. default nil: no bound
	Share *Share
	// Workers run the connections. default nil: each has a new goroutine
	Workers *workers.Pool

	Cluster string        // cluster id in metrics and baggage; default "Kubernetes"
	Drain   time.Duration // how long connections may go on once Serve's context is done; default 0
	Log     *slog.Logger  // gets the access records; required
	// GoodOneOf is of how many connections that end well one has an access record. default 0: each has
	GoodOneOf uint64
	Metrics   *metrics.Metrics // required
	Edges     *edges.Table     // counts who talks to whom; default nil: nobody asks
	Events    *events.Stream   // tells of connections; default nil: nobody listens

	live     live
	samples  samples
	goods    atomic.Uint64 // good ends that count for GoodOneOf
	refusals refusals
	brake    brake
	known    atomic.Pointer[sandbox]
}

const (
	dialTimeout = 10 * time.Second // of a TCP connect
	selfTimeout = 5 * time.Second  // for the registry to learn of the pod
)

// whoWeAre is the workload of the sandbox, or nil while the registry does not
// know it. It is asked once per snapshot.
func (p *Pod) whoWeAre() *workload.Workload {
	changed := p.Registry.Changed()
	if s := p.known.Load(); s != nil && s.changed == changed {
		return &s.workload
	}
	return p.learn(changed)
}

// learn is apart, since its big frame would have the stack of each connection grow.
func (p *Pod) learn(changed <-chan struct{}) *workload.Workload {
	w, ok := p.Self()
	if !ok {
		return nil
	}
	s := &sandbox{changed: changed, workload: w, baggage: baggage(p.cluster(), &w)}
	p.known.Store(s)
	return &s.workload
}

// sandbox is what we are in one snapshot.
type sandbox struct {
	changed  <-chan struct{} // by the next one
	workload workload.Workload
	baggage  string
}

// self waits a while for the workload of the sandbox: the first connection of
// a pod may be faster than the registry.
func (p *Pod) self(ctx context.Context, waits func()) (*workload.Workload, error) {
	if w := p.whoWeAre(); w != nil {
		return w, nil
	}
	waits()
	deadline := time.NewTimer(selfTimeout)
	defer deadline.Stop()
	for {
		changed := p.Registry.Changed()
		if w := p.whoWeAre(); w != nil {
			return w, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-deadline.C:
			return nil, errUnknownSelf
		}
	}
}

var errUnknownSelf = fail(Identity, errors.New("failed to fetch information about local workload: the registry does not know this pod"))

// isSelf reports whether dst, an address of the pod, leads to ztunnel instead
// of to an app.
func (p *Pod) isSelf(dst netip.AddrPort) bool {
	return dst.Port() == workload.HBONEPort
}

func (p *Pod) cluster() string {
	if p.Cluster == "" {
		return "Kubernetes" // Istio's name for a cluster without one
	}
	return p.Cluster
}

// dial connects c to what is behind it, within the pod's share: it bounds the
// time, and names what was dialled. The end of c gives the descriptor back.
func (p *Pod) dial(c *connection, to netip.AddrPort, connect func(context.Context) (*net.TCPConn, error)) (*net.TCPConn, error) {
	if err := c.take(p.Share.dialing()); err != nil {
		return nil, err
	}
	defer c.give(p.Share.dialing())
	if err := c.hold(); err != nil {
		return nil, err
	}
	conn, err := connect(until{c.ctx, time.Now().Add(dialTimeout)})
	if err != nil {
		return nil, fail(Dial, fmt.Errorf("dial %v: %w", to, err))
	}
	if isLast(conn) {
		reset(conn) // to which nothing was sent
		return nil, fail(Limit, fmt.Errorf("dial %v: %w", to, errScarce))
	}
	return conn, nil
}

// until is a context that names a deadline and does not end with it. Package net
// asks for the deadline and ends the dial by its poller, without a timer.
type until struct {
	context.Context
	deadline time.Time
}

// Deadline is when a dial must have ended.
func (u until) Deadline() (time.Time, bool) { return u.deadline, true }

// inner connects to the pod's app, as if from c's client. The source port is not
// the client's, which would give the app's socket the very addresses of the
// connection that we hold; Inner chooses it by the client's.
func (p *Pod) inner(c *connection, to netip.AddrPort) (*net.TCPConn, error) {
	return p.dial(c, to, func(ctx context.Context) (*net.TCPConn, error) {
		if c.spoke != nil && c.spoke() {
			ctx = socket.WritesAtOnce(ctx)
		}
		c.spoke = nil // an open connection does not hold its stream by it
		return p.Inner(ctx, c.src.addr, to)
	})
}
