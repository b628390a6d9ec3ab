// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// AtSource says what becomes of a connection in a tunnel whose peer proves an identity that
// the registry does not have at the peer's address: its certificate may be stolen.
type AtSource int

// The modes.
const (
	AtSourceWarn    AtSource = iota // it goes on; the record and the metrics say it
	AtSourceEnforce                 // it is refused; but it goes on while the registry may be old
	AtSourceOff                     // nobody asks
)

func (a AtSource) String() string { return [...]string{"warn", "enforce", "off"}[a] }

// MarshalText is for /config_dump.
func (a AtSource) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Origins is how peers' identities are compared with their addresses. The zero one warns.
type Origins struct {
	Mode   AtSource
	Exempt []netip.Prefix // addresses from which any identity may come: gateways, and networks that translate addresses
	// Current reports whether the source can say who is where. default nil: it can
	Current func() bool
}

// admitOrigin asks whether the peer's identity comes from where the registry has it. A pod
// that the registry does not know yet is waited for, if its connection would be refused. A peer
// of another trust domain may come from any address outside the mesh's CIDRs that nobody has.
func (p *Pod) admitOrigin(c *connection, peer spiffeid.ID) error {
	addr := c.src.addr.Addr().Unmap()
	if p.Origins.Mode == AtSourceOff || slices.ContainsFunc(p.Origins.Exempt, func(cidr netip.Prefix) bool { return cidr.Contains(addr) }) {
		return nil
	}
	origin := p.Registry.OriginOf(peer, addr)
	if origin == workload.Home || origin == workload.Unknown && c.foreign(peer) && !p.Registry.Inside(addr) {
		return nil
	}
	mode := p.Origins.Mode
	if mode == AtSourceEnforce && (p.Origins.Current != nil && !p.Origins.Current() || p.Registry.All().Stored) {
		mode = AtSourceWarn
	}
	if mode == AtSourceEnforce {
		var err error
		if origin, err = p.awaitOrigin(c, peer, addr); err != nil || origin == workload.Home {
			return err
		}
	}
	why := fmt.Errorf("id-not-at-source: %v comes from %v, which %s", peer, addr, p.whoHas(origin, addr))
	p.Metrics.NotAtSource(mode.String(), origin == workload.Foreign)
	if mode == AtSourceEnforce {
		return fail(NotAtSource, why)
	}
	c.warn(fieldSourceWarn, why.Error())
	return nil
}

// foreign reports whether the peer is of another trust domain: no registry of ours says where
// its identity runs.
func (c *connection) foreign(peer spiffeid.ID) bool {
	return c.dst.workload != nil && peer.TrustDomain() != c.dst.workload.ID.TrustDomain()
}

// awaitOrigin asks again with each snapshot, for a while. An error says that too many wait:
// see awaitSource.
func (p *Pod) awaitOrigin(c *connection, peer spiffeid.ID, addr netip.Addr) (workload.Origin, error) {
	if err := c.take(p.Share.waiting()); err != nil {
		return workload.Unknown, err
	}
	defer c.give(p.Share.waiting())
	c.endTurn()
	deadline := time.NewTimer(sourceWithin)
	defer deadline.Stop()
	for {
		changed := p.Registry.Changed()
		origin := p.Registry.OriginOf(peer, addr)
		if origin == workload.Home {
			return origin, nil
		}
		select {
		case <-changed:
		case <-deadline.C:
			return origin, nil
		case <-c.ctx.Done():
			return origin, nil
		}
	}
}

// whoHas says who is at an address, for people.
func (p *Pod) whoHas(origin workload.Origin, addr netip.Addr) string {
	if origin == workload.Unknown {
		return "nobody known has"
	}
	if w, known := p.Registry.ByAddr(addr); known {
		return fmt.Sprintf("pod %v has", w)
	}
	return "is of node " + p.Registry.NodeAt(addr) + ", where no pod of it runs"
}
