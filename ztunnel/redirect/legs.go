// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// legLinger is how long the kernel may take to complete a handshake on its
// own side after connect() returned, before the leg's entry goes. Normally
// sockops has deleted it by then; it does not if the app left the cgroup.
const legLinger = time.Second

// legs are the legs to apps that are being opened, or were a moment ago.
type legs struct {
	mu   sync.Mutex
	open map[meshFlow]struct{}
	done []doneLeg // oldest first
}

type doneLeg struct {
	flow meshFlow
	at   time.Time
}

// begin reserves a flow; false if another dial has it.
func (l *legs) begin(flow meshFlow) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.open[flow]; taken {
		return false
	}
	if l.open == nil {
		l.open = make(map[meshFlow]struct{})
	}
	l.open[flow] = struct{}{}
	return true
}

// abort ends the reservation of a flow.
func (l *legs) abort(flow meshFlow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, flow)
}

func (l *legs) finish(flow meshFlow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, doneLeg{flow, time.Now()})
}

// expired takes the legs that were opened long enough ago. Their flows are
// still reserved: abort ends that, once their entries are gone.
func (l *legs) expired() []doneLeg {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.done) && time.Since(l.done[n].at) > legLinger {
		n++
	}
	old := l.done[:n:n]
	l.done = l.done[n:]
	return old
}

func (l *legs) has(flow meshFlow) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.open[flow]
	return ok
}

func (d *Datapath) sweepLegs() {
	for _, leg := range d.legs.expired() {
		// What is left of it expires in the kernel, too.
		_ = del(d.mesh.Inner, unsafe.Pointer(&leg.flow))
		d.legs.abort(leg.flow)
	}
}

// IsInner says whether a connection that an inbound listener accepted is one
// of ztunnel's own legs to the app. It must be refused, or ztunnel would talk
// to itself.
func (d *Datapath) IsInner(cookie netns.Cookie, src, dst netip.AddrPort) bool {
	flow := wireFlow(cookie, src, dst)
	var since uint64
	return d.legs.has(flow) || lookup(d.mesh.Inner, &flow, &since) == nil
}
