// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/why"
)

// Words of nodes.
const (
	pathLocal     = "local"
	protocolHBONE = "HBONE" // both ends proved themselves
)

func step(name string, state why.State, by *fleet.Node, format string, args ...any) why.Step {
	s := why.Step{Step: name, State: state, Says: fmt.Sprintf(format, args...)}
	if by != nil {
		s.By = by.Name
	}
	return s
}

// connection is whether there was one, and the mark arrived.
func (t *trial) connection() why.Step {
	n := t.near.node
	unknown := func(format string, args ...any) why.Step {
		return step(StepConnection, why.Unknown, n, format, args...)
	}
	ended := ""
	if t.near.saw != nil && t.near.saw.Ended != "" {
		ended = ": " + t.near.saw.Ended
	}
	switch {
	case t.sendErr != nil:
		return unknown("%v on %s did not send the mark: %v", t.Source, t.Source.Node, t.sendErr)
	case t.sent.Error != "":
		s := step(StepConnection, why.Fault, n, "%v was refused at %v: %s", t.Source, t.Target, t.sent.Error)
		s.Change = "what culvert why " + t.Source.String() + " " + t.Target.String() + " names"
		return s
	case t.arriveErr != nil:
		return unknown("whether the mark arrived is not known: %v", t.arriveErr)
	case t.Peer == nil:
		return unknown("%v is no pod that is known: nobody can say whether the mark arrived%s", t.Target, ended)
	case !t.arrived:
		s := step(StepConnection, why.Fault, n, "the mark did not reach %v in 5s%s", t.Peer, ended)
		s.Change = "what culvert why " + t.Source.String() + " " + t.Target.String() + " names"
		return s
	}
	return step(StepConnection, why.OK, n, "%v sent the mark to %v, and it reached %v", t.Source, t.Target, t.Peer)
}

// side is what one step is about.
func (t *trial) side(name string) (e *end, node string) {
	if name == StepSourceWire || name == StepSourceCert {
		return &t.near, t.Source.Node
	}
	if t.Peer == nil {
		return &t.far, t.Source.Node
	}
	return &t.far, t.Peer.Node
}

// wire judges what the devices of one end's node and pod saw.
func (t *trial) wire(name string) why.Step {
	e, node := t.side(name)
	if e.saw == nil {
		return step(name, why.Unknown, e.node, "nobody watched on %s: %v", node, e.err)
	}
	all := []named{{"node", &e.saw.Node, node}, {"pod", e.saw.Pod, "the pod"}}
	s := step(name, why.OK, e.node, "%s", counted(all))
	for _, in := range all {
		if in.seen != nil {
			s.Evidence = append(s.Evidence, evidence(in)...)
		}
	}
	for _, in := range all {
		if d := in.plaintext(); d != nil {
			s.State = why.Fault
			s.Says = fmt.Sprintf("the mark was in plaintext on %s of %s: %s", d.Name, in.of, first(d))
			s.Change = "why it is plaintext: culvert why " + t.Source.String() + " " + t.Target.String() + " -o wide"
			return s
		}
	}
	if problem := t.unproved(all); problem != "" {
		s.State, s.Says = why.Unknown, problem
	}
	return s
}

// named is what was seen in one network namespace.
type named struct {
	netns string // node or pod
	seen  *fleet.Seen
	of    string // the node's name, or the pod
}

// plaintext is a device on which the mark was and may not be: a pod's loopback is between
// its app and ztunnel.
func (n named) plaintext() *fleet.Device {
	if n.seen == nil {
		return nil
	}
	for i := range n.seen.Devices {
		if d := &n.seen.Devices[i]; d.Marked > 0 && !(d.Loopback && n.netns == "pod") {
			return d
		}
	}
	return nil
}

// unproved is why watches that saw no plaintext prove nothing; empty: they prove it.
func (t *trial) unproved(all []named) string {
	for _, in := range all {
		switch {
		case in.seen == nil:
			return "no pod was watched: its own plaintext is what shows that the mark was there to be seen"
		case in.seen.Problem != "":
			return fmt.Sprintf("the watch on %s did not see all: %s", in.of, in.seen.Problem)
		case in.seen.Dropped > 0:
			return fmt.Sprintf("the watch on %s missed %d packets, which came too fast", in.of, in.seen.Dropped)
		case !in.seen.Control:
			return fmt.Sprintf("the watch on %s did not see the plaintext that it sent itself", in.of)
		case in.netns == "pod" && !arrivedOnLoopback(in.seen):
			return "the mark was not seen where it is plaintext, between the pod and ztunnel: nothing seen elsewhere proves nothing"
		case in.netns == "node" && packets(in.seen) == 0 && t.path() != pathLocal:
			return fmt.Sprintf("no packet between %v and %v was seen on %s: nothing seen proves nothing", t.From, t.Target.Addr(), in.of)
		}
	}
	return ""
}

func arrivedOnLoopback(s *fleet.Seen) bool {
	for _, d := range s.Devices {
		if d.Loopback && d.Marked > 0 {
			return true
		}
	}
	return false
}

func packets(s *fleet.Seen) (n int) {
	for _, d := range s.Devices {
		n += d.Packets
	}
	return n
}

// counted says how much was seen without the mark.
func counted(all []named) string {
	var parts []string
	for _, in := range all {
		if in.seen == nil {
			continue
		}
		total, tunnel := 0, 0
		var names []string
		for _, d := range in.seen.Devices {
			if d.Loopback {
				continue
			}
			total, tunnel, names = total+d.Packets, tunnel+d.Tunnel, append(names, d.Name)
		}
		on := "no device"
		if len(names) > 0 {
			on = strings.Join(names, ", ")
		}
		parts = append(parts, fmt.Sprintf("%s: %d packets on %s, %d of them on port 15008", in.of, total, on, tunnel))
	}
	return strings.Join(parts, "; ") + "; none had the mark"
}

// evidence is a line for each device.
func evidence(in named) (lines []string) {
	lines = append(lines, fmt.Sprintf("%s: watched %d devices; it saw its own plaintext: %v", in.of, in.seen.Watched, in.seen.Control))
	for _, d := range in.seen.Devices {
		line := fmt.Sprintf("%s of %s: %d packets, %d on port 15008, %d with the mark", d.Name, in.of, d.Packets, d.Tunnel, d.Marked)
		if d.Encapsulated > 0 {
			line += fmt.Sprintf(", %d encapsulated", d.Encapsulated)
		}
		if d.Loopback && d.Marked > 0 && in.netns == "pod" {
			line += ", as it must be between the app and ztunnel"
		}
		lines = append(lines, line)
	}
	return lines
}

func first(d *fleet.Device) string {
	if d.First == nil {
		return fmt.Sprintf("%d packets", d.Marked)
	}
	return fmt.Sprintf("a packet of %d bytes from %v to %v at %s", d.First.Bytes, d.First.From, d.First.To, d.First.Time.UTC().Format("15:04:05.000"))
}

// tunnel is what both nodes say of how it was carried.
func (t *trial) tunnel() why.Step {
	out := t.outbound()
	in := t.inbound()
	switch {
	case t.near.node == nil:
		return step(StepTunnel, why.Unknown, nil, "%s does not answer", t.Source.Node)
	case t.near.open.Problem != "":
		return step(StepTunnel, why.Unknown, t.near.node, "it did not answer while the connection was open: %s", t.near.open.Problem)
	case out == nil:
		return step(StepTunnel, why.Unknown, t.near.node, "%s shows no such connection of %v", t.Source.Node, t.Source)
	case out.Protocol != protocolHBONE:
		return step(StepTunnel, why.Fault, t.near.node, "%s carries it in plaintext: %s", t.Source.Node, cmp.Or(out.Plaintext, out.Path))
	case t.far.node == nil:
		return step(StepTunnel, why.Unknown, nil, "the node of the destination does not answer")
	case len(in) == 0:
		return step(StepTunnel, why.Unknown, t.far.node, "%s shows no such connection to %v", t.Peer.Node, t.Peer)
	}
	for _, c := range in {
		if c.Protocol != protocolHBONE {
			return step(StepTunnel, why.Fault, t.far.node, "%s has one from %v in plaintext: %s", t.Peer.Node, t.From, cmp.Or(c.Plaintext, c.Path))
		}
	}
	if out.Path == pathLocal {
		return step(StepTunnel, why.OK, t.near.node, "both pods are on %s: it crossed no wire, and a tunnel beside it proves both ends", t.Source.Node)
	}
	near := out.Tunnel
	if near == nil {
		return step(StepTunnel, why.Unknown, t.near.node, "%s does not say which tunnel carries it", t.Source.Node)
	}
	for _, c := range in {
		if c.Tunnel == nil || c.Tunnel.Cipher != near.Cipher || c.Tunnel.Group != near.Group {
			return step(StepTunnel, why.Unknown, t.far.node, "the nodes do not say the same of the tunnel: %s, and %s", described(near), described(c.Tunnel))
		}
	}
	return step(StepTunnel, why.OK, t.near.node, "both nodes say: mutual TLS, %s", described(near))
}

func described(t *fleet.Tunnel) string {
	if t == nil {
		return "no tunnel"
	}
	return t.Cipher + ", key exchange " + t.Group
}
