// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Concern is what the policies in force say of a workload. Workloads of which the
// same is said share one, and it lasts for as long as they say the same.
type Concern struct {
	said
	deny, allow *index
	// notAllowed is for whatever no ALLOW policy lets in; nil: there is none.
	notAllowed *Denied
	told       told
}

// said is what policies say of a workload.
type said struct {
	policies []*compiled // AuthorizationPolicies that select it, mesh-wide ones first
	dryRuns  []*dryRun   // those that are not enforced
	peers    peerModes
}

// AllowInbound answers for the workload as Set.AllowInbound does.
func (c *Concern) AllowInbound(r *Request) error {
	if r.Dst.UID == "" {
		return errUnknown // its namespace and labels are unknown, so what applies to it is too
	}
	if r.foreign() {
		return c.allowForeign(r)
	}
	if len(c.policies) > 0 {
		q := ask(r)
		if rule := c.deny.find(&q); rule != nil {
			return rule.denied
		}
		if c.notAllowed != nil && c.allow.find(&q) == nil {
			return c.notAllowed
		}
	}
	return c.plaintextRefused(r)
}

// plaintextRefused is for a connection that nothing else refuses.
func (c *Concern) plaintextRefused(r *Request) error {
	if r.Peer.IsZero() {
		if v := c.peers.at(r.Port); v.plaintext != nil {
			return v.plaintext
		}
	}
	return nil
}

// peerModes are the effective modes of a workload's ports.
type peerModes struct {
	ports  map[uint16]verdict // those that a policy names
	others verdict
}

type verdict struct {
	mode      Mode
	by        string  // the object that set it
	plaintext *Denied // nil: plaintext is accepted
}

func (p *peerModes) at(port uint16) verdict {
	if v, ok := p.ports[port]; ok {
		return v
	}
	return p.others
}

// modes is mode for every port.
func (s *scopes) modes(dst workload.Workload) peerModes {
	ask := func(port uint16) verdict {
		mode, by := s.mode(dst, port)
		v := verdict{mode: mode, by: by}
		if !mode.Plaintext() {
			v.plaintext = &Denied{Policy: by, Reason: mode.String() + ", and the connection is plaintext"}
		}
		return v
	}
	p := peerModes{others: ask(0)} // no port is 0
	if own, ok := first(s.workloads[dst.Namespace], dst); ok && len(own.Ports) > 0 {
		p.ports = make(map[uint16]verdict, len(own.Ports))
		for port := range own.Ports {
			p.ports[port] = ask(port)
		}
	}
	return p
}

func newConcern(what said) *Concern {
	c := &Concern{said: what}
	var deny, allow []*rule
	allowing := 0
	for _, p := range c.policies {
		if p.policy.Action != Allow {
			deny = append(deny, p.rules...)
			continue
		}
		allow = append(allow, p.rules...)
		if allowing++; allowing == 1 {
			c.notAllowed = &Denied{Policy: p.policy.String()}
		}
	}
	c.deny, c.allow = newIndex(deny), newIndex(allow)
	switch {
	case allowing == 1:
		c.notAllowed.Reason = "no rule allows it"
	case allowing > 1:
		c.notAllowed.Reason = fmt.Sprintf("no rule of it or of %d more allows it", allowing-1)
	}
	return c
}

func (s *said) says(what said) bool {
	return slices.Equal(s.policies, what.policies) && slices.Equal(s.dryRuns, what.dryRuns) && reflect.DeepEqual(s.peers, what.peers)
}
