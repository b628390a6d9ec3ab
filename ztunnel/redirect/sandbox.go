// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Sandbox is what steering has to know of a pod.
type Sandbox struct {
	NS         *netns.NS    // open until the sandbox is left; required
	Addrs      []netip.Addr // all of its addresses, the primary one of a family first; required
	ProbePorts []uint16     // that kubelet may reach unsteered; default none
	Listeners  Listeners    // as Listen returns them; required
}

func (s Sandbox) primary(is func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(s.Addrs, is); i >= 0 {
		return s.Addrs[i]
	}
	return netip.Addr{}
}

// pod is a sandbox and how far it is enrolled.
type pod struct {
	Sandbox
	anchor            *anchor
	inbound, outbound bool
	crowded           bool // it has more devices than are steered: see Routing.Excess
}

// Steered reports what the kernel steers of a netns, for this run or since an
// earlier one: as long as that has nobody to listen, it is refused.
func (d *Datapath) Steered(cookie netns.Cookie) (inbound, outbound bool) {
	var entry meshPod
	_, err := os.Stat(d.pins.pod(cookie))
	return err == nil, d.mesh.Pods.Lookup(uint64(cookie), &entry) == nil
}

// IsOwn reports whether an address is one of an enrolled pod's own, to which it
// connects unsteered.
func (d *Datapath) IsOwn(cookie netns.Cookie, addr netip.Addr) bool {
	key := meshPodAddr{Netns: uint64(cookie), Addr: wireAddr(addr)}
	var one uint8
	return lookup(d.mesh.OwnIps, &key, &one) == nil
}

// SteerInbound hands connections that arrive in the sandbox to its listeners.
// Those that are open stay as they are. Done again, it takes new listeners,
// addresses and probe ports. If it fails, a sandbox that was steered before
// still is, and so is refused, and another is as if it never had been.
func (d *Datapath) SteerInbound(s Sandbox) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	before, _ := d.Steered(s.NS.Cookie())
	p := d.podOf(s)
	// What an earlier run knew as the pod's own may be another's by now, and
	// from here on somebody listens for what the pod opens.
	err := d.dropOwnIPs(p.Sandbox)
	if err == nil {
		err = d.fillInbound(p.Sandbox)
	}
	if err == nil {
		err = p.anchor.open(d.mesh.InboundLookup)
	}
	if err != nil && !before {
		err = errors.Join(err, d.unsteerInbound(s.NS.Cookie()))
	}
	if err != nil {
		return fmt.Errorf("steer inbound of netns %d: %w", s.NS.Cookie(), err)
	}
	p.inbound = true
	return nil
}

// UnsteerInbound lets arriving connections reach the pod's own listeners
// again. A pod that is not steered is no error.
func (d *Datapath) UnsteerInbound(cookie netns.Cookie) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.unsteerInbound(cookie); err != nil {
		return fmt.Errorf("unsteer inbound of netns %d: %w", cookie, err)
	}
	return nil
}

// SteerOutbound steers the connections that the sandbox opens from now on.
// If it fails, it leaves what SteerInbound would.
func (d *Datapath) SteerOutbound(s Sandbox) error {
	crowded, err := d.isRouted(s) // before d.mu: it takes as long as the pod has devices
	d.mu.Lock()
	defer d.mu.Unlock()
	_, before := d.Steered(s.NS.Cookie())
	p := d.podOf(s)
	if err == nil {
		p.crowded = crowded
		err = d.fillPod(p)
	}
	if err != nil && !before {
		err = errors.Join(err, d.unsteerOutbound(s.NS.Cookie()))
	}
	if err != nil {
		return fmt.Errorf("steer outbound of netns %d: %w", s.NS.Cookie(), err)
	}
	p.outbound = true
	return nil
}

// UnsteerOutbound lets the sandbox open its connections itself again.
func (d *Datapath) UnsteerOutbound(cookie netns.Cookie) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.unsteerOutbound(cookie); err != nil {
		return fmt.Errorf("unsteer outbound of netns %d: %w", cookie, err)
	}
	return nil
}

// UpdateProbePorts replaces the ports that kubelet may reach unsteered.
func (d *Datapath) UpdateProbePorts(cookie netns.Cookie, ports []uint16) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.pods[cookie]
	if !ok || !p.inbound {
		return fmt.Errorf("probe ports of netns %d: not steered", cookie)
	}
	p.ProbePorts = slices.Clone(ports)
	if err := d.fillProbePorts(p.Sandbox); err != nil {
		return fmt.Errorf("probe ports of netns %d: %w", cookie, err)
	}
	return nil
}

// podOf requires that d.mu is held.
func (d *Datapath) podOf(s Sandbox) *pod {
	cookie := s.NS.Cookie()
	p, ok := d.pods[cookie]
	if !ok {
		p = &pod{anchor: &anchor{name: fmt.Sprintf("sk_lookup of netns %d", cookie), pin: d.pins.pod(cookie)}}
		d.pods[cookie] = p
	}
	p.Sandbox = s
	p.anchor.attach = func() (l link.Link, err error) {
		err = s.NS.Fd(func(fd int) error {
			l, err = link.AttachNetNs(fd, d.mesh.InboundLookup)
			return err
		})
		return l, err
	}
	p.anchor.attached = func(i *link.Info) bool {
		ns := i.NetNs()
		return ns != nil && uint64(ns.NetnsInode) == s.NS.Inode()
	}
	return p
}

func (d *Datapath) fillInbound(s Sandbox) error {
	cookie := uint64(s.NS.Cookie())
	for kind, ln := range s.Listeners.all() {
		key := meshListenerKey{Netns: cookie, Kind: kind}
		if ln == nil {
			if err := del(d.mesh.Listeners, key); err != nil {
				return fmt.Errorf("remove listener: %w", err)
			}
			continue
		}
		err := withFd(ln, func(fd int) error { return d.mesh.Listeners.Put(key, uint64(fd)) })
		if err != nil {
			return fmt.Errorf("add listener %v: %w", ln.Addr(), full(d.mesh.Listeners, err))
		}
	}
	if err := d.fillPodIPs(s); err != nil {
		return err
	}
	return d.fillProbePorts(s)
}

func (d *Datapath) fillProbePorts(s Sandbox) error {
	cookie := uint64(s.NS.Cookie())
	want := make(map[meshPodPort]bool)
	for _, port := range s.ProbePorts {
		want[meshPodPort{Netns: cookie, Port: wirePort(port)}] = true
	}
	for key := range want {
		if err := d.mesh.ProbePorts.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("add probe port %d: %w", wirePort(key.Port), full(d.mesh.ProbePorts, err))
		}
	}
	return sweep(d.mesh.ProbePorts, func(key meshPodPort, _ *uint8) bool {
		return key.Netns == cookie && !want[key]
	})
}

// ErrNotRouted says that a netns is not, or no more, as Route leaves it: a device may have
// come since.
var ErrNotRouted = errors.New("not routed")

// isRouted has the kernel's word for it that stand-ins are local before a connection
// is sent to one.
func (d *Datapath) isRouted(s Sandbox) (crowded bool, err error) {
	found, err := d.CheckRoute(s.NS, s.Addrs)
	if err == nil && len(found.Missing) > 0 {
		err = fmt.Errorf("%w: no %s", ErrNotRouted, strings.Join(found.Missing, ", no "))
	}
	return found.Excess > 0, err
}

// fillPod says which addresses are the pod's own, and where its connections go.
func (d *Datapath) fillPod(p *pod) error {
	if err := d.fillOwnIPs(p.Sandbox); err != nil {
		return err
	}
	if err := d.mesh.Pods.Put(uint64(p.NS.Cookie()), d.entry(p)); err != nil {
		return fmt.Errorf("add pod: %w", full(d.mesh.Pods, err))
	}
	return nil
}

// entry says where connections go: to the port of the outbound listeners. A
// family without an address is refused at once, although its listener stays for
// when there is one again.
func (d *Datapath) entry(p *pod) (e meshPod) {
	s := p.Sandbox
	e.StandIns = standInID(d.standIns)
	if p.crowded {
		e.StandIns &^= uncrowded
	}
	port := func(ln *net.TCPListener) uint16 { return wirePort(ln.Addr().(*net.TCPAddr).AddrPort().Port()) }
	if addr, ln := s.primary(netip.Addr.Is4), s.Listeners.Outbound4; ln != nil && addr.IsValid() {
		e.Addr4, e.Port4 = wireAddr(addr), port(ln)
	}
	if addr, ln := s.primary(netip.Addr.Is6), s.Listeners.Outbound6; ln != nil && addr.IsValid() {
		e.Addr6, e.Port6 = wireAddr(addr), port(ln)
	}
	return e
}

// unsteerInbound takes the program away first: what it does not find, it
// refuses.
func (d *Datapath) unsteerInbound(cookie netns.Cookie) error {
	a := &anchor{name: fmt.Sprintf("sk_lookup of netns %d", cookie), pin: d.pins.pod(cookie)}
	if p, ok := d.pods[cookie]; ok {
		a, p.inbound = p.anchor, false
		d.drop(cookie)
	}
	return errors.Join(a.remove(), d.forgetInbound(func(c netns.Cookie) bool { return c == cookie }))
}

func (d *Datapath) unsteerOutbound(cookie netns.Cookie) error {
	if p, ok := d.pods[cookie]; ok {
		p.outbound = false
		d.drop(cookie)
	}
	return d.forgetOutbound(func(c netns.Cookie) bool { return c == cookie })
}

// drop forgets a pod of which nothing is steered any more.
func (d *Datapath) drop(cookie netns.Cookie) {
	if p := d.pods[cookie]; !p.inbound && !p.outbound {
		delete(d.pods, cookie)
	}
}

// forgetInbound removes the entries of the netns that gone names, and of no
// others: an address may have passed to another pod already.
func (d *Datapath) forgetInbound(gone func(netns.Cookie) bool) error {
	return errors.Join(
		sweep(d.mesh.PodIps, func(_ meshAddr, owner *uint64) bool { return gone(netns.Cookie(*owner)) }),
		sweep(d.mesh.ProbePorts, func(key meshPodPort, _ *uint8) bool { return gone(netns.Cookie(key.Netns)) }),
		sweep(d.mesh.Listeners, func(key meshListenerKey, _ *uint64) bool { return gone(netns.Cookie(key.Netns)) }),
		sweep(d.mesh.ForwardGuard, func(key meshPodPort, _ *uint8) bool { return gone(netns.Cookie(key.Netns)) }),
		sweep(d.mesh.Inner, func(key meshFlow, _ *uint64) bool { return gone(netns.Cookie(key.Netns)) }),
	)
}

func (d *Datapath) forgetOutbound(gone func(netns.Cookie) bool) error {
	return errors.Join(
		sweep(d.mesh.Pods, func(cookie uint64, _ *meshPod) bool { return gone(netns.Cookie(cookie)) }),
		sweep(d.mesh.OwnIps, func(key meshPodAddr, _ *uint8) bool { return gone(netns.Cookie(key.Netns)) }),
		sweep(d.mesh.RefusedUntil, func(key meshPodEndpoint, _ *uint64) bool { return gone(netns.Cookie(key.Netns)) }),
		sweep(d.mesh.OriginalDst, func(key meshFlow, _ *meshPublished) bool { return gone(netns.Cookie(key.Netns)) }),
	)
}

// del deletes a key that may be absent.
func del(m *ebpf.Map, key any) error {
	return ignoreMissing(m.Delete(key))
}

func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// sweep deletes the entries that match. Keys are collected first: a hash map
// that shrinks under an iterator starts it over.
func sweep[K comparable, V any](m *ebpf.Map, match func(K, *V) bool) error {
	var key K
	var value V
	var found []K
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if match(key, &value) {
			found = append(found, key)
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("walk %v: %w", m, err)
	}
	for _, key := range found {
		if err := del(m, key); err != nil {
			return fmt.Errorf("delete from %v: %w", m, err)
		}
	}
	return nil
}
