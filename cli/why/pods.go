// SPDX-License-Identifier: Apache-2.0

package why

import (
	"fmt"
	"net/netip"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Between is a connection from a pod to an app, as nodes know both ends.
type Between struct {
	Source *workload.Workload
	From   netip.Addr  // of the source
	Near   *fleet.Node // the source's, which answered; nil: it did not

	Peer   *workload.Workload // whose app it is; nil: no pod that is known
	Target netip.AddrPort     // of the app
	Far    *fleet.Node        // the peer's, which answered; nil: it did not, or there is no peer
	Text   string             // the destination, as it was named
}

// Between reads both ends, as Explain does. A Service stands for the first of its endpoints.
func (w *World) Between(from, to string) (b Between, err error) {
	src, err := w.source(from)
	switch {
	case err != nil:
		return b, err
	case src.pod == nil:
		return b, fmt.Errorf("%s is no pod that is known: want a pod as the source, as shop/web-1", from)
	}
	dst, err := w.destination(src, to)
	if err != nil {
		return b, err
	}
	b = Between{Source: src.pod, From: dst.from, Target: dst.addr, Peer: dst.pod, Text: dst.text}
	if src.own {
		b.Near = src.view
	}
	if dst.service != nil {
		ways := w.ways(src, dst)
		if len(ways) == 0 {
			return b, fmt.Errorf("%s leads to nobody from %v: culvert why %s %s says why", dst.text, src.pod, from, to)
		}
		b.Target = ways[0].target
		b.Peer = w.at(b.Target.Addr())
	}
	switch {
	case !b.From.IsValid():
		return b, fmt.Errorf("%v has no address of the family of %v", src.pod, b.Target.Addr())
	case b.Peer != nil && b.Peer.UID == b.Source.UID:
		return b, fmt.Errorf("%v is both ends: what a pod says to itself is on no wire", src.pod)
	}
	if b.Peer != nil {
		if n := w.node(b.Peer.Node); n != nil && n.Problem == "" {
			b.Far = n
		}
	}
	return b, nil
}
