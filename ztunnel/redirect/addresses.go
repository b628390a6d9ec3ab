// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// UpdateAddrs has steering follow the addresses of a sandbox that is steered,
// after Route. The primary one of a family comes first; a family without an
// address is refused until it has one again.
//
// What left goes first: the pod could still reach it as its own, unsteered,
// when it is another pod's already.
func (d *Datapath) UpdateAddrs(cookie netns.Cookie, addrs []netip.Addr) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.pods[cookie]
	if !ok {
		return fmt.Errorf("addresses of netns %d: not steered", cookie)
	}
	p.Addrs = slices.Clone(addrs)
	if err := d.updateAddrs(p); err != nil {
		return fmt.Errorf("addresses of netns %d: %w", cookie, err)
	}
	return nil
}

func (d *Datapath) updateAddrs(p *pod) error {
	if p.outbound {
		if err := d.dropOwnIPs(p.Sandbox); err != nil {
			return err
		}
	}
	if p.inbound {
		if err := d.fillPodIPs(p.Sandbox); err != nil {
			return err
		}
	}
	if p.outbound {
		return d.fillPod(p)
	}
	return nil
}

// fillPodIPs makes exactly the addresses of s those by which its netns is
// known: connections from any of them pass as the pod's own.
func (d *Datapath) fillPodIPs(s Sandbox) error {
	cookie := uint64(s.NS.Cookie())
	for _, addr := range s.Addrs {
		// Over an earlier pod's, if need be: the address is ours now.
		if err := d.mesh.PodIps.Put(wireAddr(addr), cookie); err != nil {
			return fmt.Errorf("add address %v: %w", addr, full(d.mesh.PodIps, err))
		}
	}
	return sweep(d.mesh.PodIps, func(addr meshAddr, owner *uint64) bool {
		return *owner == cookie && !slices.Contains(s.Addrs, goAddr(addr))
	})
}

// fillOwnIPs makes exactly the addresses of s those that its netns reaches
// unsteered.
func (d *Datapath) fillOwnIPs(s Sandbox) error {
	if err := d.dropOwnIPs(s); err != nil {
		return err
	}
	for _, addr := range s.Addrs {
		key := meshPodAddr{Netns: uint64(s.NS.Cookie()), Addr: wireAddr(addr)}
		if err := d.mesh.OwnIps.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("add own address %v: %w", addr, full(d.mesh.OwnIps, err))
		}
	}
	return nil
}

func (d *Datapath) dropOwnIPs(s Sandbox) error {
	return sweep(d.mesh.OwnIps, func(key meshPodAddr, _ *uint8) bool {
		return key.Netns == uint64(s.NS.Cookie()) && !slices.Contains(s.Addrs, goAddr(key.Addr))
	})
}

// PruneOwnIPs forgets the addresses that a netns of an earlier run does not hold any
// more. They may be another pod's by now, so connections to them are steered.
func (d *Datapath) PruneOwnIPs(cookie netns.Cookie, held []netip.Addr) error {
	return sweep(d.mesh.OwnIps, func(key meshPodAddr, _ *uint8) bool {
		return key.Netns == uint64(cookie) && !slices.Contains(held, goAddr(key.Addr))
	})
}

// VerifyRoute asks the kernel whether a netns is as Route left it, and makes it
// so. It says what was wrong if another hand must have done it: routes of
// stand-ins go with their devices, and without them connections are refused. excess is
// Routing.Excess.
//
// It stands beside Verify, as it takes the longer, the more routes a pod has:
// no other waits for it.
func (d *Datapath) VerifyRoute(ns *netns.NS, addrs []netip.Addr) (wrong string, excess int, err error) {
	found, err := d.CheckRoute(ns, addrs)
	if err != nil {
		return "", 0, err
	}
	// Sockets that are bound to a device are allowed again only after each device has
	// its route: without one, the kernel asks the wire for the stand-in.
	crowded := found.Excess > 0
	if crowded {
		err = d.setCrowded(ns.Cookie(), true)
	}
	if err == nil && len(found.Missing) > 0 {
		err = d.Route(ns, addrs)
	}
	if err == nil && !crowded {
		err = d.setCrowded(ns.Cookie(), false)
	}
	if err != nil {
		return "", found.Excess, err
	}
	missing := slices.DeleteFunc(found.Missing, isStandInNeed)
	if len(missing) == 0 {
		return "", found.Excess, nil
	}
	return fmt.Sprintf("routing of netns %d was changed: no %s", ns.Cookie(), strings.Join(missing, ", no ")), found.Excess, nil
}

// setCrowded has sockets of a pod that are bound to a device refused, or no more.
func (d *Datapath) setCrowded(cookie netns.Cookie, crowded bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.pods[cookie]
	if !ok || !p.outbound || p.crowded == crowded {
		return nil
	}
	p.crowded = crowded
	return d.fillPod(p)
}

// isStandInNeed knows what devices and addresses that come and go leave behind.
// Loopback stays.
func isStandInNeed(name string) bool {
	_, device, ok := strings.Cut(name, " route of stand-ins by ")
	return ok && device != "lo" || strings.HasPrefix(name, "removal of ")
}

// verifyAddrs makes the addresses of all pods what they should be, and returns
// what was wrong. It walks both maps once for all of them.
func (d *Datapath) verifyAddrs() (repaired []string, err error) {
	owners := make(map[netip.Addr]*pod)
	own := make(map[netns.Cookie]int)
	wrong := make(map[*pod]string)
	stray := func(p *pod, addr netip.Addr) bool {
		if p == nil || slices.Contains(p.Addrs, addr) { // nil: of an earlier run, and refused until it is enrolled again
			return false
		}
		wrong[p] = fmt.Sprintf("address %v of netns %d was added", addr, p.NS.Cookie())
		return true
	}
	if err := each(d.mesh.PodIps, func(addr meshAddr, owner uint64) {
		if p := d.pods[netns.Cookie(owner)]; !stray(p, goAddr(addr)) {
			owners[goAddr(addr)] = p
		}
	}); err != nil {
		return nil, err
	}
	if err := each(d.mesh.OwnIps, func(key meshPodAddr, _ uint8) {
		if p := d.pods[netns.Cookie(key.Netns)]; !stray(p, goAddr(key.Addr)) {
			own[netns.Cookie(key.Netns)]++
		}
	}); err != nil {
		return nil, err
	}
	for cookie, p := range d.pods {
		for _, addr := range p.Addrs {
			// An address that two pods have is the later one's.
			if p.inbound && owners[addr] == nil {
				wrong[p] = fmt.Sprintf("address %v of netns %d was removed", addr, cookie)
			}
		}
		if p.outbound && own[cookie] < len(p.Addrs) {
			wrong[p] = fmt.Sprintf("address of netns %d was removed from its own", cookie)
		}
	}
	var problems error
	for p, what := range wrong {
		if err := d.updateAddrs(p); err != nil {
			problems = errors.Join(problems, err)
			continue
		}
		repaired = append(repaired, what)
	}
	return repaired, problems
}

// each calls f with the entries of m.
func each[K, V any](m *ebpf.Map, f func(K, V)) error {
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		f(key, value)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("walk %v: %w", m, err)
	}
	return nil
}
