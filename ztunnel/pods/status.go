// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// How a sandbox stands.
const (
	stateEnrolled    = "enrolled"
	stateUnprotected = "unprotected"
	statePending     = "pending"
	stateOutside     = "outside"
	stateUndecided   = "undecided"
	stateLost        = "lost"
	stateDeleted     = "deleted"
	stateUnexplained = "unexplained"
)

// State is one sandbox in the configuration dump.
type State struct {
	State       string             `json:"state"` // one of the words above
	Reason      string             `json:"reason,omitempty"`
	Forwards    []string           `json:"forwards,omitempty"` // devices that lead to a netns behind the pod
	Identity    string             `json:"identity,omitempty"`
	Certificate *certs.Certificate `json:"certificate,omitempty"` // of an enrolled pod
	Sandbox     sandbox            `json:"sandbox"`
	Addresses   *Addresses         `json:"addresses,omitempty"`
	Tunnels     []hbone.Tunnel     `json:"tunnels,omitempty"`
	Connections Connections        `json:"connections"`
	LastRefused []proxy.Refusal    `json:"lastRefused,omitempty"` // the youngest last
	Verified    time.Time          `json:"verified,omitzero"`     // when the kernel last agreed that it is in the mesh; zero: it does not
	Info        Names              `json:"info"`
}

// Connections are the open ones, as Istio's ztunnel has them in its dump.
type Connections struct {
	Inbound  []proxy.Connection `json:"inbound"`
	Outbound []proxy.Connection `json:"outbound"`
	Omitted  int                `json:"omitted,omitempty"` // younger ones, which are not shown
}

// Names are those of the pod, as Istio's ztunnel has them in its dump.
type Names struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	TrustDomain    string `json:"trustDomain"`    // of an enrolled pod
	ServiceAccount string `json:"serviceAccount"` // of an enrolled pod
}

// Addresses are those that the netns of an enrolled pod holds now.
type Addresses struct {
	Steered []netip.Addr          `json:"steered"`
	Refused map[netip.Addr]string `json:"refused,omitempty"` // and why
	Excess  int                   `json:"excess,omitempty"`  // refused likewise, beyond the limit of one pod
	Crowded int                   `json:"crowded,omitempty"` // devices beyond the limit: what is bound to a device is refused
}

// Dump is the state of every sandbox by pod UID, of one that is deleted only if
// its pod has no other; and of what is steered and nobody explains, by netns.
func (p *Pods) Dump() map[string]State {
	states := map[string]State{}
	for _, pod := range p.all() {
		s := pod.sandbox()
		if _, other := states[s.PodUID]; !other || !s.deleted() {
			states[s.PodUID] = p.state(pod, s)
		}
	}
	for _, l := range p.leftovers() {
		states[fmt.Sprintf("netns-%d", l.Cookie)] = State{State: stateUnexplained, Sandbox: sandbox{Cookie: l.Cookie, Inode: l.Inode},
			Reason: "it is steered, and no record and no process says whose it is"}
	}
	return states
}

func (p *Pods) state(pod *pod, s sandbox) State {
	now := pod.shown.Load()
	state := State{Sandbox: s, Info: Names{Name: s.Name, Namespace: s.Namespace}}
	state.State, state.Reason = p.standingOf(s, now)
	if m := now.member; m != nil {
		state.Identity, state.Info.TrustDomain = m.id.String(), m.id.TrustDomain().Name()
		if account, err := identity.Parse(m.id); err == nil {
			state.Info.ServiceAccount = account.Name
		}
		c := &state.Connections
		c.Inbound, c.Outbound, c.Omitted = m.carrier.pod.Connections()
		state.Forwards, state.LastRefused = m.forwarding.devices(), m.carrier.pod.LastRefused()
		if at := pod.confirmedAt.Load(); at != nil {
			state.Verified = *at
		}
		state.Addresses, state.Tunnels = m.addresses.state(), m.carrier.told()
		certificate := p.Certs.Certificate(m.id)
		state.Certificate = &certificate
	}
	return state
}

// standingOf says in a word how a sandbox stands, and why.
func (p *Pods) standingOf(s sandbox, now *standing) (state, reason string) {
	w, known := p.workload(s)
	switch {
	case now.member != nil && now.astray != "":
		return stateUnprotected, now.astray
	case now.member != nil:
		return stateEnrolled, now.unconfirmed
	case s.deleted():
		return stateDeleted, "its netns is not gone yet, and is refused"
	case now.lost:
		return stateLost, "no process and no mount leads to its netns, which is not gone: it is refused"
	case known && p.wanted(w):
		return statePending, now.failed
	case now.adopted && p.Registry.All().Stored:
		return stateUndecided, "the API server is away, and the state file may be older than the label that put it into the mesh: it is refused as before"
	case now.adopted:
		return stateUndecided, "no label says whether it is in the mesh: it is refused as before"
	}
	return stateOutside, cmp.Or(now.failed, w.Unsteerable)
}

func (a *addresses) state() *Addresses {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &Addresses{Steered: a.applied, Refused: a.refused, Excess: a.excess, Crowded: a.crowded}
}

// Enrollment counts how many pods labels want, we enrolled, the kernel
// confirmed, and have a certificate that is renewed in time.
func (p *Pods) Enrollment() (e metrics.Enrollment) {
	for _, w := range p.Registry.Local(p.Node) {
		if p.wanted(w) {
			e.Intended++
		}
	}
	e.Unsteerable = len(p.Registry.Unsteerable())
	for _, pod := range p.all() {
		switch now := pod.shown.Load(); {
		case now.member == nil:
		case now.astray != "":
			e.Unprotected++
		default:
			p.count(&e, now.member, pod.isConfirmed())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Unexplained = len(p.unexplained)
	return e
}

// count adds an enrolled pod.
func (p *Pods) count(e *metrics.Enrollment, m *member, confirmed bool) {
	e.Enrolled++
	if confirmed {
		e.Verified++
	}
	if len(m.forwarding.devices()) > 0 {
		e.Forwarding++
	}
	if p.Certs.Certificate(m.id).State == certs.Valid {
		e.Certified++
	}
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

// Handshakes is how many may be under way with all pods, and how many are.
func (p *Pods) Handshakes() (most, underWay int) { return p.gate.Stats() }

// Misplaced says that this ztunnel has another node's name: sandboxes are made
// here for pods that are placed elsewhere, and no pod is placed here. It is ""
// otherwise.
func (p *Pods) Misplaced() string {
	if len(p.Registry.Local(p.Node)) > 0 {
		return ""
	}
	p.mu.Lock()
	uids := []string{p.stray}
	p.mu.Unlock()
	for _, pod := range p.all() {
		uids = append(uids, pod.sandbox().PodUID)
	}
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

// sayMisplaced logs a change.
func (p *Pods) sayMisplaced() {
	now := p.Misplaced()
	switch {
	case now == p.misplaced:
	case now == "":
		p.Log.Info("this node has pods of its own name", logNode, p.Node)
	default:
		p.Log.Error("this ztunnel has the name of another node (-node-name)", logError, now)
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
