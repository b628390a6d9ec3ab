// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"net/netip"
	"slices"

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

// guardForwarding is a step of steering: see watchForwarding.
func (p *Pods) guardForwarding(_ context.Context, m *member) error {
	w, known := p.Registry.ByUID(m.PodUID)
	if !known {
		return nil // Verify comes by
	}
	return p.watchForwarding(m, w)
}

func (p *Pods) unguardForwarding(_ context.Context, m *member) error {
	if m.adopted || m.guard == guardOpen {
		return nil
	}
	m.guard = guardOpen
	return p.Datapath.UnguardForwarding(m.ns)
}

// watchForwarding says when a pod begins or ceases to forward to a netns
// behind it. Nothing of that netns has an identity, and what the pod forwards
// reaches no socket of its own: where its policies refuse plaintext, a guard
// refuses it before. Its pod.mu is held.
func (p *Pods) watchForwarding(m *member, w workload.Workload) error {
	err := p.keepGuard(m, w)
	if err != nil {
		m.guard = guardUnknown // so the pod is not confirmed
	}
	return err
}

func (p *Pods) keepGuard(m *member, w workload.Workload) error {
	behind, err := redirect.Forwards(m.ns, m.unmapped())
	if err != nil {
		return err
	}
	if !slices.Equal(behind, m.behind) {
		p.sayForwarding(m, behind, w.MayForward)
		m.behind = behind
	}
	if len(behind) == 0 || w.MayForward {
		if m.guard == guardOpen {
			return nil
		}
		if err := p.Datapath.UnguardForwarding(m.ns); err != nil {
			return err
		}
		m.guard, m.guards = guardOpen, nil
		return nil
	}
	others, ports := p.Policy.RefusesPlaintext(w)
	now, wrong, err := p.Datapath.GuardForwarding(m.ns, redirect.ForwardGuard{Refuse: others, Ports: ports}, m.guards)
	m.guards = now
	if err != nil {
		return err
	}
	m.guard = guardClosed
	if wrong != "" {
		p.Metrics.Repaired("guard")
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
