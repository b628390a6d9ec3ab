// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
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
	p.sayMisplaced()
}

// repair asks the kernel whether every enrolled pod is steered and restores
// what another hand removed.
func (p *Pods) repair(ctx context.Context) error {
	repaired, err := p.Datapath.Verify(ctx)
	p.noteKubelet()
	for _, what := range repaired {
		p.Metrics.Repaired(kindOf(what))
		p.Log.Error("steering was removed by another hand and is restored", logWhat, what)
	}
	running := sync.OnceValue(processes)
	p.rounds.each(p.all(), func(pod *pod) {
		pod.setConfirmed(p.confirmed(pod, err == nil, running))
	})
	return err
}

// noteKubelet logs when the kubelet's cgroup comes or goes.
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

// confirmed refreshes pod, and reports whether it is enrolled and the kernel steers it;
// only then may neighbours skip the tunnel. A pod that is joining or leaving is not
// confirmed. sound is false while shared steering is broken.
func (p *Pods) confirmed(pod *pod, sound bool, running func() []process) bool {
	if !pod.mu.TryLock() {
		return false
	}
	defer pod.mu.Unlock()
	if pod.member == nil {
		return false
	}
	err := p.refresh(pod.member)
	if err != nil {
		p.Log.Error("following the netns of a pod", logPod, pod.String(), logError, err)
	}
	ok := sound && err == nil && p.steered(pod.member) && pod.member.forwarding.known()
	if ok {
		p.neighbours.add(pod.member)
	} else {
		p.neighbours.remove(pod.member)
	}
	p.watchHooks(pod, running)
	return ok && pod.hooks == proven
}
