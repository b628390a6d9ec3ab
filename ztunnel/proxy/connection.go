// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/edges"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// connection is one app connection from its acceptance to its record.
type connection struct {
	pod    *Pod
	ctx    context.Context // ends with a cause that is a failure
	cancel context.CancelCauseFunc
	record
	held    int   // descriptors of the pod's share
	turn    *turn // of the pod's, until the connection waits for somebody
	payer   peer  // that they are taken for, if the connection arrives
	bytes   tally
	stream  atomic.Pointer[hbone.Stream] // of the way inTunnel, whose engine counts, instead of bytes
	far     atomic.Pointer[net.TCPConn]  // of the way inPlain: to the other end
	twin    *connection                  // of the source, which counts for both if the way is besideTunnel
	counted *metrics.Connection          // nil until both ends are named
	edge    *edges.Row                   // nil until it counts
	inMesh  inMesh                       // what NetworkPolicies are asked
	spoke   func() bool                  // whether the client said something, which goes to the app as it is reached; nil: not known
}

// begin starts the record of a connection from src, which names the pod
// however early it ends.
func (p *Pod) begin(ctx context.Context, d direction, src netip.AddrPort) *connection {
	c := &connection{pod: p, record: record{direction: d, start: time.Now()}}
	c.src.addr = src
	if d == outbound {
		c.src.workload = p.whoWeAre()
	} else {
		c.dst.workload = p.whoWeAre()
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

// hold takes a descriptor of the pod's share, which finish gives back.
func (c *connection) hold() error {
	err := c.take(c.pod.Share.descriptors())
	if err == nil {
		c.held++
	}
	return err
}

// admit registers the connection with Recheck, then asks whether it is allowed.
// In that order, a policy that changes in between is seen by one of the two.
func (c *connection) admit(allowed func() error) error {
	c.register(allowed)
	return denied(allowed())
}

// register has Recheck ask whether the connection is allowed still. After register,
// only proven and tunnelled change the record's names.
func (c *connection) register(allowed func() error) {
	c.named = true
	c.pod.live.add(c, allowed)
}

// denied explains the answer of a policy; nil stays nil.
func denied(err error) error {
	if err != nil {
		return fail(Denied, fmt.Errorf("connection closed due to policy rejection: %w", err))
	}
	return nil
}

// proven names the peer that the connection reached.
func (c *connection) proven(identity string) {
	c.pod.live.mu.Lock()
	defer c.pod.live.mu.Unlock()
	c.dst.identity = identity
}

// tunnelled names the tunnel by which the connection goes.
func (c *connection) tunnelled(to, target netip.AddrPort) {
	c.pod.live.mu.Lock()
	defer c.pod.live.mu.Unlock()
	c.path, c.guarded, c.dst.addr, c.hbone = pathTunnel, false, to, target
}

// count opens the connection in the metrics, once: as soon as all is known of
// it, which is when it begins to carry or when it has failed.
func (c *connection) count() {
	if c.named && c.counted == nil {
		var flow metrics.Flow
		c.describe(&flow, c.pod.cluster(), c.pod.Registry)
		c.counted = c.pod.Metrics.Open(&flow, c.metricBytes)
		c.onEdge()
		c.opened(c.pod.Log, c.pod.cluster())
	}
}

// run carries the connection by the way that open returns, and records how it
// ended: by that, or because open refused it. Then it calls over, perhaps after it has
// returned and in another goroutine: an idle connection has none.
func (c *connection) run(open func() (way, error), over func()) {
	closed := c.pod.Metrics.Socket(c.direction.reporter())
	w, err := open()
	c.endTurn()
	if err != nil {
		c.finish(err)
		closed()
		over()
		return
	}
	c.count()
	c.tellOpen()
	began := time.Now()
	w.carry(c, func(err error) {
		c.brake(err, began)
		c.finish(err)
		closed()
		over()
	})
}

// endTurn has another connection begin: this one waits from here on, or is open. What
// arrives beside a tunnel waits in the turn of its source.
func (c *connection) endTurn() {
	if c.twin != nil {
		c.twin.endTurn()
	}
	c.turn.end()
	c.turn = nil // an idle connection holds nothing that it does not need
}

// cutIfOver ends the stream of a connection whose context has ended. Whoever
// ends contexts calls it, which costs less than to have each stream wait for that.
func (c *connection) cutIfOver() {
	if s := c.stream.Load(); s != nil && c.ctx.Err() != nil {
		s.Close(context.Cause(c.ctx))
	}
}

// carried is what went through so far.
func (c *connection) carried() (sent, received uint64) {
	if s := c.stream.Load(); s != nil {
		totals := s.Totals()
		return totals.Sent, totals.Received
	}
	if c.twin != nil {
		return c.twin.bytes.received.Load(), c.twin.bytes.sent.Load()
	}
	return c.bytes.sent.Load(), c.bytes.received.Load()
}

// metricBytes is the view of the metrics: received is what the client sent.
func (c *connection) metricBytes() metrics.Bytes {
	sent, received := c.carried()
	if c.direction == outbound {
		return metrics.Bytes{Received: sent, Sent: received}
	}
	return metrics.Bytes{Received: received, Sent: sent}
}

// finish writes the access record of a connection that ended by err, or counts it
// among those of which only samples are written.
func (c *connection) finish(err error) {
	if err != nil && c.ctx.Err() != nil {
		err = context.Cause(c.ctx) // what came of it on the sockets is not the reason
	}
	c.cancel(nil)
	e := outcome{word: wordOf(err), err: err, at: time.Now()}
	if s := c.stream.Load(); s != nil {
		e.at = s.Ended() // that all has arrived was known later
	}
	for ; c.held > 0; c.held-- {
		c.give(c.pod.Share.descriptors())
	}
	c.pod.live.remove(c)
	var denied *policy.Denied
	if errors.As(err, &denied) {
		e.policy = denied.Policy
	}
	e.sent, e.received = c.carried()
	c.count()
	c.tell(&e)
}

// tell has metrics and log know how the connection ended.
func (c *connection) tell(e *outcome) {
	if c.counted != nil {
		c.counted.Close(Words[e.word])
	}
	refused := ""
	if e.word != OK && e.word != Reset { // a reset is what apps do to each other
		refused = string(e.word)
		c.pod.Metrics.Refused(string(c.direction), refused)
		c.pod.refusals.add(c, e)
	}
	if c.edge == nil { // its ends are not both known
		c.onEdge()
	}
	c.edge.Close(refused, e.sent, e.received, e.at)
	c.tellEnd(e)
	if kind, sampled := c.kindOf(e); sampled {
		var ok bool
		c.pod.samples.name(c.pod.whoWeAre())
		if e.omitted, ok = c.pod.samples.take(kind, c.pod.Share.logging(), c.pod.Log); !ok {
			return
		}
	} else if !c.recorded(e) {
		return
	}
	c.write(c.pod.Log, c.pod.cluster(), e)
}
