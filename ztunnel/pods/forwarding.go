// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// guard is what stands between strangers and the netns to which a pod
// forwards (docker in docker, a virtual machine behind NAT).
type guard uint8

const (
	guardUnknown guard = iota // an earlier run may have left one
	guardOpen                 // none: the pod does not forward, or may
	guardClosed               // strangers are refused as the pod's policies say
)

// forwarding is what is known of a member that may forward.
type forwarding struct {
	behind atomic.Pointer[[]string] // devices by which the pod forwards to another netns; written under mu

	mu      sync.Mutex // held while it is looked at; a leaf
	guard   guard
	guarded []int // devices, by index
}

func (f *forwarding) devices() []string {
	if behind := f.behind.Load(); behind != nil {
		return *behind
	}
	return nil
}

func (f *forwarding) known() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.guard != guardUnknown
}

// guardForwarding is a step of steering: see watchForwarding.
func (p *Pods) guardForwarding(ctx context.Context, m *member) error {
	w, known := p.Registry.ByUID(m.PodUID)
	if !known {
		return nil // Verify comes by
	}
	err := p.watchForwarding(m, w)
	if err != nil { // some devices may have the guard already
		err = errors.Join(err, p.unguardForwarding(ctx, m))
	}
	return err
}

// unguardForwarding does nothing if there is no guard any more.
func (p *Pods) unguardForwarding(_ context.Context, m *member) error {
	f := &m.forwarding
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.adopted || f.guard == guardOpen {
		return nil
	}
	if err := p.Datapath.UnguardForwarding(m.ns); err != nil {
		return err
	}
	f.guard = guardOpen
	return nil
}

// watchForwarding says when a pod begins or ceases to forward to a netns
// behind it. Nothing of that netns has an identity, and what the pod forwards
// reaches no socket of its own: where its policies refuse plaintext, a guard
// refuses it before. It is called when the pod's netns changes, too, and so does
// without pod.mu: whoever ends the following of a netns holds that.
func (p *Pods) watchForwarding(m *member, w workload.Workload) error {
	m.forwarding.mu.Lock()
	defer m.forwarding.mu.Unlock()
	err := p.keepGuard(m, w)
	if err != nil {
		m.forwarding.guard = guardUnknown // so the pod is not confirmed
	}
	return err
}

// keepGuard requires that m.forwarding.mu is held.
func (p *Pods) keepGuard(m *member, w workload.Workload) error {
	f := &m.forwarding
	behind, err := redirect.Forwards(m.ns, m.unmapped())
	if err != nil {
		return err
	}
	if !slices.Equal(behind, f.devices()) {
		p.sayForwarding(m, behind, w.MayForward)
		f.behind.Store(&behind)
	}
	if len(behind) == 0 || w.MayForward {
		if f.guard == guardOpen {
			return nil
		}
		if err := p.Datapath.UnguardForwarding(m.ns); err != nil {
			return err
		}
		f.guard, f.guarded = guardOpen, nil
		return nil
	}
	others, ports := p.Policy.RefusesPlaintext(w)
	now, wrong, err := p.Datapath.GuardForwarding(m.ns, redirect.ForwardGuard{Refuse: others, Ports: ports}, f.guarded)
	f.guarded = now
	if err != nil {
		return err
	}
	f.guard = guardClosed
	if wrong != "" {
		p.repaired("guard", m.sandbox.String())
		p.Log.Error("steering was removed by another hand and is restored", logWhat, wrong)
	}
	return nil
}

func (p *Pods) sayForwarding(m *member, behind []string, allowed bool) {
	if len(behind) == 0 {
		p.Log.Info("pod forwards no more", logPod, m.sandbox.String())
		return
	}
	p.Log.Warn("pod forwards to a network namespace behind it: what runs there has no identity, and what it sends leaves in plaintext",
		logPod, m.sandbox.String(), logDevices, behind, logAllowed, allowed)
}

func (m *member) unmapped() (all []netip.Addr) {
	for _, addr := range m.ips() {
		all = append(all, addr.Unmap())
	}
	return all
}
