// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// State is one sandbox in the configuration dump.
type State struct {
	State       string             `json:"state"` // enrolled, pending or outside
	Reason      string             `json:"reason,omitempty"`
	Forwards    []string           `json:"forwards,omitempty"` // devices that lead to a netns behind the pod
	Identity    string             `json:"identity,omitempty"`
	Certificate *certs.Certificate `json:"certificate,omitempty"` // of an enrolled pod
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
			certificate := p.Certs.Certificate(m.id)
			state.Certificate = &certificate
		}
		pod.mu.Unlock()
		states[pod.PodUID] = state
	}
	return states
}

// Enrollment counts how many pods labels want, we enrolled, the kernel
// confirmed, and have a certificate that is renewed in time.
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
		id, behind, ok := pod.enrolledAs()
		if !ok {
			continue
		}
		e.Enrolled++
		if len(behind) > 0 {
			e.Forwarding++
		}
		if p.Certs.Certificate(id).State == certs.Valid {
			e.Certified++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Verified = p.verified
	return e
}

// Tunnels counts what all pods' tunnels carry and carried.
func (p *Pods) Tunnels() metrics.Tunnels {
	p.mu.Lock()
	total, serving := p.ended, maps.Clone(p.serving)
	p.mu.Unlock()
	for m := range serving {
		outbound, inbound := m.carrier.counts()
		total.Outbound.Add(outbound)
		total.Inbound.Add(inbound)
	}
	return total
}

// Misplaced says that this ztunnel has another node's name: sandboxes are made
// here for pods that are placed elsewhere, and no pod is placed here. It is ""
// otherwise.
func (p *Pods) Misplaced() string {
	if len(p.Registry.Local(p.Node)) > 0 {
		return ""
	}
	p.mu.Lock()
	uids := []string{p.stray}
	for _, pod := range p.byContainer {
		uids = append(uids, pod.PodUID)
	}
	p.mu.Unlock()
	nodes := map[string]bool{}
	for _, uid := range uids {
		if w, known := p.Registry.ByUID(uid); known && w.Node != "" && w.Node != p.Node {
			nodes[w.Node] = true
		}
	}
	if len(nodes) == 0 {
		return ""
	}
	return fmt.Sprintf("no pod is placed on node %q, but the sandboxes here are of pods of node %s",
		p.Node, strings.Join(slices.Sorted(maps.Keys(nodes)), ", "))
}

// enrolledAs is the identity that the pod has in the mesh, and the devices by
// which it forwards.
func (pod *pod) enrolledAs() (id spiffeid.ID, behind []string, ok bool) {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	if pod.member == nil {
		return id, nil, false
	}
	return pod.member.id, pod.member.behind, true
}

// sayMisplaced logs a change.
func (p *Pods) sayMisplaced() {
	now := p.Misplaced()
	switch {
	case now == p.misplaced:
	case now == "":
		p.Log.Info("this node has pods of its own name", "node", p.Node)
	default:
		p.Log.Error("this ztunnel has the name of another node (-node-name)", "error", now)
	}
	p.misplaced = now
}

// setStray keeps the last pod that was turned away because it is another node's:
// it is not recorded, and may be the only one there is.
func (p *Pods) setStray(w workload.Workload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stray = w.UID
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
