// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Refusal is the access record of a connection that was refused or broken off, in the
// configuration dump.
type Refusal struct {
	Time        time.Time      `json:"time"`
	Direction   string         `json:"direction"`
	Result      Word           `json:"result"`
	Error       string         `json:"error,omitempty"`
	Policy      string         `json:"policy,omitempty"`
	Source      RefusalEnd     `json:"source"`
	Destination RefusalEnd     `json:"destination"`
	Asked       netip.AddrPort `json:"asked,omitzero"` // what the app connected to: of a Service, its address
}

// RefusalEnd is one end of it, as far as it is known.
type RefusalEnd struct {
	Address   netip.AddrPort `json:"address,omitzero"`
	Namespace string         `json:"namespace,omitempty"`
	Pod       string         `json:"pod,omitempty"`
	Identity  string         `json:"identity,omitempty"` // proven
}

// remembered is how many refusals a pod shows, and maxSaid how long the reason of one is.
const (
	remembered = 8
	maxSaid    = 500
)

// refusals are the last of a pod. Its zero value is ready.
type refusals struct {
	mu   sync.Mutex // a leaf
	last []Refusal  // the youngest last
}

// add keeps what a record would say of c, whether or not it is written. It keeps the text of
// an error, not the error: that may hold the certificates of a peer.
func (r *refusals) add(c *connection, e *outcome) {
	refusal := Refusal{
		Time: e.at, Direction: string(c.direction), Result: e.word, Policy: e.policy,
		Source: c.src.refusal(), Destination: c.dst.refusal(), Asked: c.asked, Error: said(e.err),
	}
	if c.direction == inbound {
		refusal.Asked = c.target()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.last) == remembered {
		copy(r.last, r.last[1:])
		r.last = r.last[:remembered-1]
	}
	r.last = append(r.last, refusal)
}

func (e *end) refusal() RefusalEnd {
	w := e.known()
	return RefusalEnd{Address: e.addr, Namespace: w.Namespace, Pod: w.Name, Identity: e.identity}
}

// LastRefused returns the last connections of the pod that were refused or broken off by
// us, the youngest last.
func (p *Pod) LastRefused() []Refusal {
	p.refusals.mu.Lock()
	defer p.refusals.mu.Unlock()
	return slices.Clone(p.refusals.last)
}

// said is the text of err, cut to maxSaid bytes.
func said(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if len(text) > maxSaid {
		text = strings.Clone(text[:maxSaid])
	}
	return text
}
