// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"

	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
)

// State is one sandbox in the configuration dump.
type State struct {
	State       string             `json:"state"` // enrolled, pending or outside
	Reason      string             `json:"reason,omitempty"`
	Forwards    []string           `json:"forwards,omitempty"` // devices that lead to a netns behind the pod
	Identity    string             `json:"identity,omitempty"`
	Sandbox     sandbox            `json:"sandbox"`
	Connections []proxy.Connection `json:"connections,omitempty"`
}

// Dump is the state of every sandbox by pod UID.
func (p *Pods) Dump() map[string]State {
	states := map[string]State{}
	for _, pod := range p.all() {
		w, known := p.Registry.ByUID(pod.PodUID)
		state := State{State: "outside", Sandbox: pod.sandbox}
		if known && p.wanted(w) {
			state.State = "pending"
		}
		pod.mu.Lock()
		state.Reason = cmp.Or(pod.failed, w.Unsteerable)
		if m := pod.member; m != nil {
			state.State, state.Identity = "enrolled", m.id.String()
			state.Connections, state.Forwards = m.carrier.pod.Connections(), m.behind
		}
		pod.mu.Unlock()
		states[pod.PodUID] = state
	}
	return states
}

// Enrollment counts how many pods labels want, we enrolled, and the kernel
// confirmed.
func (p *Pods) Enrollment() (e metrics.Enrollment) {
	for _, w := range p.Registry.Local(p.Node) {
		if p.wanted(w) {
			e.Intended++
		}
		if w.Unsteerable != "" && !w.Terminated {
			e.Unsteerable++
		}
	}
	for _, pod := range p.all() {
		pod.mu.Lock()
		if pod.member != nil {
			e.Enrolled++
			if len(pod.member.behind) > 0 {
				e.Forwarding++
			}
		}
		pod.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Verified = p.verified
	return e
}

// Loaded reports whether the records of an earlier run are taken over.
func (p *Pods) Loaded() bool {
	select {
	case <-p.loaded:
		return true
	default:
		return false
	}
}
