// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"strings"
	"sync"
)

// verify finds out which sandboxes are gone, and asks the kernel about the others.
func (p *Pods) verify(ctx context.Context) {
	running := sync.OnceValue(processes)
	p.rounds.each(p.all(), func(pod *pod) {
		if err := p.watch(pod, running); err != nil {
			p.Log.Error("looking after a sandbox", logPod, pod.String(), logError, err)
		}
	})
	if err := p.reconcileKernel(); err != nil {
		p.Log.Error("looking for what is steered and not known", logError, err)
	}
	if err := p.repair(ctx); err != nil {
		p.Log.Error("verifying steering", logError, err)
	}
	p.noteKubelet()
	p.sayMisplaced()
}

// repair asks the kernel whether every enrolled pod is steered and restores
// what another hand removed.
func (p *Pods) repair(ctx context.Context) error {
	err := p.restore(ctx)
	running := sync.OnceValue(processes)
	p.rounds.each(p.all(), func(pod *pod) { _ = p.confirm(pod, err, running) })
	return err
}

// restore is repair of what lies outside the netns of pods.
func (p *Pods) restore(ctx context.Context) error {
	repaired, err := p.Datapath.Verify(ctx)
	for _, what := range repaired {
		p.repaired(kindOf(what), "")
		p.Log.Error("steering was removed by another hand and is restored", logWhat, what)
	}
	return err
}

// noteKubelet logs when the kubelet's cgroup comes or goes. Only Run's goroutine
// calls it.
func (p *Pods) noteKubelet() {
	why := ""
	if err := p.Datapath.Kubelet(); err != nil {
		why = err.Error()
	}
	switch {
	case why == p.noKubelet:
	case why == "":
		p.Log.Info("the kubelet's cgroup is found, its probes reach the pods")
	default:
		p.Log.Warn("the kubelet's cgroup is not found, probes are treated like all other connections", logError, why)
	}
	p.noKubelet = why
}

// kindOf is what was repaired, without saying of whom: a label of a metric must
// not grow with the pods that come and go.
func kindOf(what string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(what, "pin of "), " ")
	return kind
}

// confirm refreshes pod, and returns why it is not enrolled or the kernel does not
// steer it; neighbours skip the tunnel only if nothing is wrong. A pod that is joining
// or leaving is waited for. shared is what is wrong with the steering of all pods.
func (p *Pods) confirm(pod *pod, shared error, running func() []process) error {
	defer pod.lock()()
	m := pod.member
	if m == nil {
		pod.setConfirmed(false)
		return errors.New("it is not in the mesh")
	}
	err := p.refresh(m)
	if err != nil {
		p.notFollowed(pod.String(), err)
	}
	err = errors.Join(err, shared, p.steered(m))
	if err == nil && !m.forwarding.known() {
		err = errors.New("nobody knows whether it forwards to another netns")
	}
	if err == nil {
		p.neighbours.add(m)
	} else {
		p.neighbours.remove(m)
	}
	p.watchHooks(pod, running)
	pod.setConfirmed(err == nil && pod.hooks == proven)
	switch {
	case err != nil:
		pod.unconfirmed = err.Error()
	case pod.hooks == unproven:
		pod.unconfirmed = "neither a cgroup nor a process of the pod was found yet, below which the programs would have to run"
	default:
		pod.unconfirmed = ""
	}
	return err
}
