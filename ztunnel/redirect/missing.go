// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Missing asks the kernel what of the steering of a netns is not there at this moment,
// and puts nothing right: that is Verify's. It is empty if all is there.
func (d *Datapath) Missing(cookie netns.Cookie) (wrong []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pods[cookie]
	if p == nil || !p.inbound || !p.outbound {
		return []string{fmt.Sprintf("netns %d is not steered", cookie)}
	}
	for _, a := range slices.Concat(d.anchors, []*anchor{p.anchor}) {
		if what := a.missing(); what != "" {
			wrong = append(wrong, what)
		}
	}
	for kind, ln := range p.Listeners.all() {
		if ln == nil {
			continue
		}
		what, err := d.verifyListener(uint64(cookie), kind, ln)
		if err != nil {
			what = err.Error()
		}
		if what != "" {
			wrong = append(wrong, what)
		}
	}
	if what := d.missingEntry(p); what != "" {
		wrong = append(wrong, what)
	}
	for _, addr := range p.Addrs {
		var owner uint64
		if err := d.mesh.PodIps.Lookup(wireAddr(addr), &owner); err != nil {
			wrong = append(wrong, fmt.Sprintf("address %v of netns %d is not steered: %v", addr, cookie, err))
		}
	}
	return append(wrong, d.strangeExclusions()...)
}

// strangeExclusions are destinations that leave in plaintext though no option says so; d.mu
// is held.
func (d *Datapath) strangeExclusions() (wrong []string) {
	cidrs, err := keys[meshCidr](d.mesh.ExcludedCidrs)
	ports, err2 := keys[uint16](d.mesh.ExcludedPorts)
	if err := errors.Join(err, err2); err != nil {
		return []string{err.Error()}
	}
	for _, p := range d.opts.ExcludeCIDRs {
		delete(cidrs, wireCIDR(p))
	}
	for _, port := range d.opts.ExcludePorts {
		delete(ports, wirePort(port))
	}
	for c := range cidrs {
		wrong = append(wrong, "exclusion of "+goCIDR(c).String()+" was added")
	}
	for p := range ports {
		wrong = append(wrong, fmt.Sprintf("exclusion of port %d was added", wirePort(p)))
	}
	return wrong
}

// missing says that the link is not attached, or runs another program.
func (a *anchor) missing() string {
	if a.link == nil || !a.holds(a.link) {
		return a.name + " is detached"
	}
	runs, err := a.runs()
	switch {
	case err != nil:
		return err.Error()
	case !runs:
		return a.name + " runs another program"
	}
	return ""
}

// missingEntry says that the connect hooks do not know the netns as they should; d.mu is
// held.
func (d *Datapath) missingEntry(p *pod) string {
	var entry meshPod
	switch err := d.mesh.Pods.Lookup(uint64(p.NS.Cookie()), &entry); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return fmt.Sprintf("entry of netns %d was removed", p.NS.Cookie())
	case err != nil:
		return fmt.Sprintf("look up netns %d: %v", p.NS.Cookie(), err)
	case entry != d.entry(p):
		return fmt.Sprintf("entry of netns %d was changed", p.NS.Cookie())
	}
	return ""
}
