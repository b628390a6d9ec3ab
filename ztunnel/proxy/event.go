// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/events"
)

// tellOpen tells whoever listens that the connection begins to carry.
func (c *connection) tellOpen() {
	c.wasOpen = true
	if c.pod.Events.Heard() {
		c.pod.Events.Tell(c.event(events.Open))
	}
}

// tellEnd tells whoever listens how the connection ended.
func (c *connection) tellEnd(o *outcome) {
	if !c.pod.Events.Heard() {
		return
	}
	e := c.event(events.Refused)
	if c.wasOpen {
		e.Kind = events.Close
	}
	e.Time, e.Result, e.Policy, e.BytesSent, e.BytesRecv = o.at, string(o.word), o.policy, o.sent, o.received
	e.Duration = o.at.Sub(c.start).Round(time.Millisecond).String()
	if o.err != nil {
		e.Error = o.err.Error()
	}
	c.pod.Events.Tell(e)
}

// event is what all events say of the connection.
func (c *connection) event(kind events.Kind) *events.Event {
	e := &events.Event{
		Kind: kind, Direction: string(c.direction), Path: c.path, Secured: c.isSecured(), Plaintext: c.plain.String(),
		Source: c.src.told(), Destination: c.dst.told(),
	}
	e.Destination.Address = c.target()
	if c.service != nil {
		e.Service = c.service.Namespace + "/" + c.service.Name
	}
	return e
}

func (e *end) told() events.End {
	w := e.known()
	return events.End{Address: e.addr, Namespace: w.Namespace, Pod: w.Name, Workload: w.Owner, Identity: e.identity}
}
