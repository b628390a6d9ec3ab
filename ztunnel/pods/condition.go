// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// What a Condition's Status is beside the words of State.
const (
	Verified    = "verified"    // served, steered, confirmed by the kernel a moment ago, and certified
	Uncertified = "uncertified" // as Verified, but without a certificate, so that its connections are refused
	Deleted     = stateDeleted  // about to end: nothing new is to be told
)

// Condition is what users are told of one pod of this node.
type Condition struct {
	UID, Namespace, Name string
	// Status is Verified, Uncertified, or the word of State, of which enrolled says
	// that the kernel has not confirmed it. "": the pod is not in the mesh, and no
	// label wants it there.
	Status   string
	Why      string // it is not Verified; "" if that is not known yet
	Identity string // SPIFFE ID of a pod in the mesh
	Warnings []Warning
}

// Warning is something that is wrong with a pod and does not change its Status.
type Warning struct {
	Reason   string // in CamelCase, as of an Event
	Sentence string
}

// Conditions are those of all pods of this node of which there is something to tell.
func (p *Pods) Conditions() []Condition {
	all := conditions{}
	for _, pod := range p.all() {
		s := pod.sandbox()
		if c := all.of(s.PodUID, s.Namespace, s.Name); c.Status == "" || !s.deleted() {
			p.describe(c, pod, s)
		}
	}
	p.describeRest(all)
	for _, w := range p.Registry.ProbingOthers(p.Node) {
		for _, probe := range w.ForeignProbes {
			all.ofWorkload(w).warn("ProbeElsewhere", "a probe names another host, %s, where it is not exempt from policy", foreign(probe))
		}
	}
	out := make([]Condition, 0, len(all))
	for c := range maps.Values(all) {
		out = append(out, *c)
	}
	return out
}

// conditions are those that are being made, by the pods' UIDs.
type conditions map[string]*Condition

func (all conditions) ofWorkload(w workload.Workload) *Condition {
	return all.of(w.UID, w.Namespace, w.Name)
}

func (all conditions) of(uid, namespace, name string) *Condition {
	if all[uid] == nil {
		all[uid] = &Condition{UID: uid, Namespace: namespace, Name: name}
	}
	return all[uid]
}

func (c *Condition) warn(reason, format string, args ...any) {
	w := Warning{reason, fmt.Sprintf(format, args...)}
	if !slices.Contains(c.Warnings, w) {
		c.Warnings = append(c.Warnings, w)
	}
}

// describe tells of a pod by its sandbox.
func (p *Pods) describe(c *Condition, pod *pod, s sandbox) {
	now := pod.shown.Load()
	c.Status, c.Why = p.standingOf(s, now)
	if c.Status == stateOutside && c.Why == "" {
		c.Status = ""
	}
	m := now.member
	if m == nil {
		return
	}
	c.Identity = m.id.String()
	if behind := m.forwarding.devices(); len(behind) > 0 {
		c.warn("ForwardsTraffic", "it forwards to a network namespace behind it (%s): what runs there has no identity, and what it sends leaves in plaintext",
			strings.Join(behind, ", "))
	}
	certificate := p.Certs.Certificate(m.id)
	if certificate.State == certs.Overdue {
		c.warn("CertificateOverdue", "its certificate is not renewed: %s", certificate.Error)
	}
	if c.Status != stateEnrolled {
		return
	}
	switch {
	case pod.isConfirmed() && (certificate.State == certs.Valid || certificate.State == certs.Overdue):
		c.Status, c.Why = Verified, ""
	case pod.isConfirmed():
		c.Status, c.Why = Uncertified, certificate.Error
	case c.Why == "" && pod.confirmedAt.Load() != nil:
		c.Why = "to look at its netns takes so long that the kernel's word is too old"
	}
}

// describeRest tells of pods without a sandbox that is known, and of probes.
func (p *Pods) describeRest(all conditions) {
	p.mu.Lock()
	unfound := p.unfound
	p.mu.Unlock()
	for _, w := range p.Registry.Local(p.Node) {
		if all[w.UID] == nil && p.wanted(w) {
			c := all.ofWorkload(w)
			c.Status, c.Why = statePending, unfound[w.String()]
		}
		for _, t := range w.TakenProbes {
			all.ofWorkload(w).warn("ProbeNotExempt", "probes of port %d are not exempt from policy: the probe of pod %s leads there, or may", t.Port, t.By)
		}
	}
	for _, w := range p.Registry.Unsteerable() {
		c := all.ofWorkload(w)
		c.Status, c.Why = stateOutside, w.Unsteerable
	}
}
