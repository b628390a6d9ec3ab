// SPDX-License-Identifier: Apache-2.0

// Package verify proves of one connection that what it said was on no wire in plaintext,
// and by which certificates both ends proved themselves. A node opens the connection from
// the source's pod, with a mark in it; the nodes of both ends watch their devices meanwhile.
//
// A proof that is not there is none: a watch that saw no packet, or not its own plaintext,
// has proved nothing.
package verify

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/why"
)

// Verdict is what was proved.
type Verdict string

// The verdicts.
const (
	Verified    Verdict = "verified"
	NotVerified Verdict = "not verified" // a step faults, or is not known
)

// The steps.
const (
	StepConnection = "connection"              // it is opened as an app opens it, and the mark arrives
	StepSourceWire = "source-wire"             // on the devices of the source's node and pod
	StepDestWire   = "destination-wire"        // likewise
	StepTunnel     = "tunnel"                  // both nodes say that mutual TLS carried it, or proves both ends
	StepSourceCert = "source-certificate"      // by which the source proved itself to the destination
	StepDestCert   = "destination-certificate" // and the destination to the source
)

// Answer is a connection that was tried.
type Answer struct {
	Verdict     Verdict         `json:"verdict"`
	Source      string          `json:"source"`
	Destination string          `json:"destination"`
	Path        string          `json:"path,omitempty"` // tunnel, local or passthrough, as the source's node says
	Mark        string          `json:"mark"`
	Time        time.Time       `json:"time"`
	Steps       []why.Step      `json:"steps"`
	Near        *fleet.Findings `json:"sourceNode,omitempty"`
	Far         *fleet.Findings `json:"destinationNode,omitempty"`
	Unanswered  []why.Silence   `json:"unanswered"`
}

// Faults reports whether a step does: else what is not verified is not known.
func (a Answer) Faults() bool {
	for _, s := range a.Steps {
		if s.State == why.Fault {
			return true
		}
	}
	return false
}

// trial is one connection that is tried, and what was heard of it.
type trial struct {
	why.Between
	now       time.Time
	near, far end
	sent      fleet.Sent
	sendErr   error
	arrived   bool
	arriveErr error
}

// end is one side: its node, while the connection was open, and what it saw.
type end struct {
	node  *fleet.Node // as it was asked before; nil: nobody answers for it
	open  fleet.Node  // as it was asked while the connection was open
	begun *fleet.Trial
	err   error // why it did not watch, or not say what it saw
	saw   *fleet.Findings
}

// Run tries a connection between two ends, and judges it.
func Run(ctx context.Context, b why.Between, now time.Time) Answer {
	t := &trial{Between: b, now: now, near: end{node: b.Near}, far: end{node: b.Far}}
	if t.Peer == nil {
		t.far.node = b.Near // there is no other to watch
	}
	a := Answer{Source: b.Source.String(), Destination: b.Text, Mark: newMark(), Time: now.UTC(), Unanswered: []why.Silence{}}
	t.try(ctx, a.Mark)
	a.Near, a.Far, a.Path = t.near.saw, t.far.saw, t.path()
	a.Steps = []why.Step{t.connection(), t.wire(StepSourceWire), t.wire(StepDestWire), t.tunnel(), t.certificate(StepSourceCert), t.certificate(StepDestCert)}
	a.Verdict = Verified
	for _, s := range a.Steps {
		if s.State != why.OK {
			a.Verdict = NotVerified
		}
	}
	return a
}

// newMark is text that no other connection has in it.
func newMark() string {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // it never fails
	return "culvert-verify-" + hex.EncodeToString(random)
}

// try watches at both ends, sends the mark, and asks both nodes while the connection is open.
func (t *trial) try(ctx context.Context, mark string) {
	far := ""
	if t.Peer != nil {
		far = t.Peer.UID
	}
	t.far.begin(ctx, far, t.From, t.Target.Addr(), mark)
	t.near.begin(ctx, t.Source.UID, t.From, t.Target.Addr(), mark)
	if t.near.begun == nil {
		t.sendErr = t.near.err
	} else if t.sent, t.sendErr = t.near.begun.Send(ctx, t.Target); t.sendErr == nil && t.sent.Error == "" {
		if t.far.begun == nil {
			t.arriveErr = t.far.err
		} else {
			t.arrived, t.arriveErr = t.far.begun.Await(ctx)
		}
	}
	t.ask(ctx)
	t.near.finish(ctx)
	t.far.finish(ctx)
}

const (
	asks     = 20 // at most, of a node
	askEvery = 100 * time.Millisecond
)

// ask asks both nodes for their dumps while the connection is open. A tunnel is shown once it
// has answered, which may be after the mark has come.
func (t *trial) ask(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for range asks {
		for _, e := range []*end{&t.near, &t.far} {
			if e.node != nil {
				e.open = e.node.Ask(ctx)
			}
		}
		if !t.arrived || t.shown() {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// shown reports whether both nodes say how they carry the connection, or one does not answer.
func (t *trial) shown() bool {
	out, in := t.outbound(), t.inbound()
	if t.near.open.Problem != "" || t.far.open.Problem != "" || out != nil && (out.Protocol != protocolHBONE || out.Path == pathLocal) {
		return true
	}
	return out != nil && out.Tunnel != nil && len(in) > 0
}

func (e *end) begin(ctx context.Context, pod string, one, other netip.Addr, mark string) {
	if e.node == nil {
		e.err = fmt.Errorf("its node does not answer")
		return
	}
	e.begun, e.err = e.node.Begin(ctx, pod, one, other, mark)
}

func (e *end) finish(ctx context.Context) {
	if e.begun == nil {
		return
	}
	saw, err := e.begun.End(ctx)
	if e.err = err; err == nil {
		e.saw = &saw
	}
}

// path is how the source's node carries it; empty: it does not say.
func (t *trial) path() string {
	if c := t.outbound(); c != nil {
		return c.Path
	}
	return ""
}

// outbound is the connection as the source's node has it; nil: it has not.
func (t *trial) outbound() *fleet.Connection {
	if t.near.node == nil || t.near.open.Problem != "" || !t.sent.From.IsValid() {
		return nil
	}
	for _, c := range t.near.open.Dump.Pods[t.Source.UID].Connections.Outbound {
		if c.Src == t.sent.From.String() {
			return &c
		}
	}
	return nil
}

// inbound are those that may be the connection, as the destination's node has them: it sees
// the source at another port.
func (t *trial) inbound() (all []fleet.Connection) {
	if t.Peer == nil || t.far.node == nil || t.far.open.Problem != "" {
		return nil
	}
	for _, c := range t.far.open.Dump.Pods[t.Peer.UID].Connections.Inbound {
		src, err := netip.ParseAddrPort(c.Src)
		if err == nil && src.Addr() == t.From && c.Dst == t.Target.String() {
			all = append(all, c)
		}
	}
	return all
}
