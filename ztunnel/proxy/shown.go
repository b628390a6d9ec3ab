// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
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
}

// Connections returns the connections that are open, the oldest first.
func (p *Pod) Connections() (in, out []Connection) {
	p.live.mu.Lock()
	defer p.live.mu.Unlock()
	return p.live.shown(inbound), p.live.shown(outbound)
}

// shown is those of a direction; mu is held.
func (l *live) shown(d direction) []Connection {
	list := make([]*connection, 0, len(l.conns[d]))
	for c := range l.conns[d] {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *connection) int {
		return cmp.Or(a.start.Compare(b.start), a.src.addr.Compare(b.src.addr))
	})
	conns := make([]Connection, len(list))
	for i, c := range list {
		conns[i] = c.shown()
	}
	return conns
}

// shown is c as the configuration dump has it; live.mu is held.
func (c *connection) shown() Connection {
	sent, received := c.carried()
	shown := Connection{
		Src: c.src.addr, OriginalDst: c.asked, ActualDst: c.dst.addr, Protocol: "TCP",
		Direction: string(c.direction), Path: c.path,
		SrcIdentity: c.src.identity, Dst: c.target().String(), DstIdentity: c.dst.identity,
		Since: c.start.UTC().Format(time.RFC3339), BytesSent: sent, BytesRecv: received,
	}
	if c.direction == inbound {
		shown.OriginalDst, shown.ActualDst = c.dst.addr, c.target()
	}
	if c.mutualTLS() {
		shown.Protocol = "HBONE"
	}
	return shown
}
