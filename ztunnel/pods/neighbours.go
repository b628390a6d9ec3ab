// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// neighbours is the members that other pods of this node may reach without a
// tunnel, by address: those that are served here and that the kernel says are
// steered. The registry's word that a pod is on this node is not enough.
type neighbours struct{ byAddr sync.Map } // netip.Addr -> *member; read with every connection

// add makes m known by its present addresses, while they do not change.
func (n *neighbours) add(m *member) {
	m.addresses.mu.Lock()
	defer m.addresses.mu.Unlock()
	for _, addr := range m.addresses.steered {
		n.byAddr.Store(addr, m)
	}
}

func (n *neighbours) remove(m *member) {
	m.addresses.mu.Lock()
	defer m.addresses.mu.Unlock()
	n.forget(m, func(netip.Addr) bool { return true })
}

// forget removes the addresses of m that have left. It leaves alone what is
// another member's by now: addresses are reused. m.addresses.mu is held.
func (n *neighbours) forget(m *member, left func(netip.Addr) bool) {
	for _, addr := range m.addresses.steered {
		if left(addr) {
			n.byAddr.CompareAndDelete(addr, m)
		}
	}
}

// find returns the member at an address, which must be the sandbox of the pod
// and of the identity that are expected there.
func (n *neighbours) find(d workload.Destination) *member {
	found, _ := n.byAddr.Load(d.Target.Addr())
	m, _ := found.(*member)
	if m == nil || m.PodUID != d.Peer.UID || m.id != d.Peer.ID {
		return nil
	}
	return m
}

// local is how a pod finds others of this node; nil if only tunnels lead to them.
func (p *Pods) local() func(*workload.Destination) *proxy.Neighbour {
	if p.SameNodeTunnel {
		return nil
	}
	return func(d *workload.Destination) *proxy.Neighbour {
		if m := p.neighbours.find(*d); m != nil {
			return m.carrier.neighbour
		}
		return nil
	}
}

// makeKnown asks the kernel before it lets other pods do without a tunnel.
func (p *Pods) makeKnown(_ context.Context, m *member) error {
	if err := p.steered(m); err != nil {
		return err
	}
	p.neighbours.add(m)
	return nil
}

func (p *Pods) forgetAddrs(_ context.Context, m *member) error {
	p.neighbours.remove(m)
	return nil
}

// steered returns an error unless the kernel agrees that m is in the mesh.
func (p *Pods) steered(m *member) error {
	if inbound, outbound := p.Datapath.Steered(m.Cookie); !inbound || !outbound {
		return fmt.Errorf("the kernel does not steer netns %d", m.Cookie)
	}
	return nil
}
