// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
)

// Verify asks the kernel whether everything is attached, pinned and filled in
// as it should be, and puts right what is not. It returns what was wrong:
// until then connections may have passed by ztunnel, so each is an alarm.
//
// A process that hands its pods to a newer one must stop calling it: what the
// newer one changes, it would change back.
func (d *Datapath) Verify(ctx context.Context) (repaired []string, err error) {
	d.sweepLegs()
	d.mu.Lock()
	defer d.mu.Unlock()
	var problems []error
	check := func(wrong string, err error) {
		if err != nil {
			problems = append(problems, err)
		} else if wrong != "" {
			repaired = append(repaired, wrong)
		}
	}
	check("", d.pins.make())
	for _, a := range d.anchors {
		check(a.verify())
	}
	for _, p := range d.pods {
		if ctx.Err() != nil {
			return repaired, errors.Join(append(problems, ctx.Err())...)
		}
		if p.inbound {
			check(d.verifyInbound(p))
			check(p.anchor.verify())
		}
		if p.outbound {
			check(d.verifyOutbound(p))
		}
	}
	return repaired, errors.Join(problems...)
}

func (d *Datapath) verifyInbound(p *pod) (wrong string, err error) {
	cookie := uint64(p.NS.Cookie())
	var owner uint64
	for _, addr := range p.Addrs {
		if err := d.outbound.PodIps.Lookup(wireAddr(addr), &owner); errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Sprintf("address %v of netns %d was removed", addr, cookie), d.fillInbound(p.Sandbox)
		} else if err != nil {
			return "", fmt.Errorf("look up address %v: %w", addr, err)
		}
	}
	for kind, ln := range p.Listeners.inbound() {
		if ln == nil {
			continue
		}
		var socket uint64
		if err := d.outbound.Listeners.Lookup(outboundListenerKey{Netns: cookie, Kind: kind}, &socket); errors.Is(err, ebpf.ErrKeyNotExist) {
			if err := d.fillInbound(p.Sandbox); !errors.Is(err, net.ErrClosed) {
				return fmt.Sprintf("listener %v of netns %d was removed", ln.Addr(), cookie), err
			}
			return "", nil // its owner closed it: the pod is being left, and refused until then
		} else if err != nil {
			return "", fmt.Errorf("look up listener %v: %w", ln.Addr(), err)
		}
	}
	return "", nil
}

func (d *Datapath) verifyOutbound(p *pod) (wrong string, err error) {
	cookie := uint64(p.NS.Cookie())
	var entry outboundPod
	err = d.outbound.Pods.Lookup(cookie, &entry)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return "", fmt.Errorf("look up netns %d: %w", cookie, err)
	}
	if err == nil && entry == p.entry() {
		return "", nil
	}
	return fmt.Sprintf("entry of netns %d was changed", cookie), d.fillOutbound(p.Sandbox)
}
