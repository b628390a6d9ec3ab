// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"slices"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/events"
)

// Repair is something that another hand removed and that was restored.
type Repair struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	Pod  string    `json:"pod,omitempty"` // empty: it concerns all
}

// maxRepairs is how many are remembered.
const maxRepairs = 16

// repairs are the last ones.
type repairs struct {
	mu   sync.Mutex // a leaf
	last []Repair   // the youngest last
}

// repaired counts what another hand removed, of one pod or of all, and tells of it.
func (p *Pods) repaired(what, pod string) {
	p.Metrics.Repaired(what)
	p.Events.Tell(&events.Event{Kind: events.Repaired, What: what, Pod: pod})
	p.repairs.mu.Lock()
	defer p.repairs.mu.Unlock()
	if len(p.repairs.last) == maxRepairs {
		p.repairs.last = slices.Delete(p.repairs.last, 0, 1)
	}
	p.repairs.last = append(p.repairs.last, Repair{time.Now(), what, pod})
}

// Repairs are the last things that another hand removed, the youngest last.
func (p *Pods) Repairs() []Repair {
	p.repairs.mu.Lock()
	defer p.repairs.mu.Unlock()
	return append([]Repair{}, p.repairs.last...)
}
