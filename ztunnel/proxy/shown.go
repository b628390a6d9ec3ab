// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// Connection is an open connection in the configuration dump. Src, OriginalDst, ActualDst
// and Protocol are what Istio's ztunnel says of one.
type Connection struct {
	Src         netip.AddrPort `json:"src"`         // as it was accepted
	OriginalDst netip.AddrPort `json:"originalDst"` // what the app, or the peer, connected to
	ActualDst   netip.AddrPort `json:"actualDst"`   // where it leads from here: the peer's port of tunnels, or the app
	Protocol    string         `json:"protocol"`    // HBONE: both ends proved themselves; TCP: plaintext

	Direction   string `json:"direction"`
	Path        string `json:"path"` // tunnel, local or passthrough
	SrcIdentity string `json:"srcIdentity,omitempty"`
	Dst         string `json:"dst"` // the app that it is for
	DstIdentity string `json:"dstIdentity,omitempty"`
	Since       string `json:"since"`
	BytesSent   uint64 `json:"bytesSent"`
	BytesRecv   uint64 `json:"bytesRecv"`
	Age         string `json:"age"`                 // as 1m30s
	Service     string `json:"service,omitempty"`   // NAMESPACE/NAME that was asked for
	Plaintext   string `json:"plaintext,omitempty"` // why it is
	// Tunnel carries it. Of a connection beside its tunnel, see the tunnels of the pod.
	Tunnel *hbone.Tunnel `json:"tunnel,omitempty"`
	TCP    socket.TCP    `json:"tcp,omitzero"` // of the socket to the other end, if no tunnel carries it
}

// most is how many connections of a pod and a direction are shown, the oldest.
const most = 1000

// Connections returns the connections that are open, the oldest first, and how many more
// there are. It asks the kernel about each, with no lock held.
func (p *Pod) Connections() (in, out []Connection, omitted int) {
	in, without := p.shown(inbound)
	out, more := p.shown(outbound)
	return in, out, without + more
}

func (p *Pod) shown(d direction) (conns []Connection, omitted int) {
	list := slices.SortedFunc(maps.Keys(p.live.all(d)), func(a, b *connection) int {
		return cmp.Or(a.start.Compare(b.start), a.src.addr.Compare(b.src.addr))
	})
	omitted = max(0, len(list)-most)
	list = list[:len(list)-omitted]
	conns = make([]Connection, len(list))
	p.live.mu.Lock()
	for i, c := range list {
		conns[i] = c.shown()
	}
	p.live.mu.Unlock()
	for i, c := range list {
		c.measure(&conns[i])
	}
	return conns, omitted
}

// measure adds what tunnel and kernel say.
func (c *connection) measure(shown *Connection) {
	if s := c.stream.Load(); s != nil {
		tunnel := s.Tunnel()
		shown.Tunnel = &tunnel
		return
	}
	if far := c.far.Load(); far != nil {
		if raw, err := far.SyscallConn(); err == nil {
			shown.TCP = socket.Measure(raw)
		}
	}
}

// shown is c as the configuration dump has it; live.mu is held.
func (c *connection) shown() Connection {
	sent, received := c.carried()
	shown := Connection{
		Src: c.src.addr, OriginalDst: c.asked, ActualDst: c.dst.addr, Protocol: "TCP",
		Direction: string(c.direction), Path: c.path,
		SrcIdentity: c.src.identity, Dst: c.target().String(), DstIdentity: c.dst.identity,
		Since: c.start.UTC().Format(time.RFC3339), BytesSent: sent, BytesRecv: received,
		Age: time.Since(c.start).Round(time.Millisecond).String(), Plaintext: c.plain.String(),
	}
	if c.service != nil {
		shown.Service = c.service.Namespace + "/" + c.service.Name
	}
	if c.direction == inbound {
		shown.OriginalDst, shown.ActualDst = c.dst.addr, c.target()
	}
	if c.mutualTLS() {
		shown.Protocol = "HBONE"
	}
	return shown
}
