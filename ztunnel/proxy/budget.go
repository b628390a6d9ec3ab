// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/quota"
)

// Budget is what the connections of all pods may use of this process, in shares
// (package quota). Before places run out, what is idle gives its own back (yield.go).
type Budget struct {
	descriptors resource
	dials       resource
	waits       resource
	records     recordLimit
	room        *quota.Resource // bytes in the kernel, for relays in bulk
	turns       *turns          // of the processors

	others   atomic.Int64 // descriptors that are not in the budget
	measured atomic.Int64 // when, in nanoseconds since start
	start    time.Time
}

// Share is one pod's part of a Budget. The nil Share has no bounds.
type Share struct {
	Descriptors *Part
	dials       *Part
	waits       *Part
	records     *recordLimit // one for all pods
	room        *quota.Part
	turns       *podTurns
}

const (
	// dialsMost bounds what waits for destinations that do not answer: each dial
	// is a goroutine, two descriptors and up to ten seconds.
	dialsMost = 16 << 10
	// waitsMost bounds what waits for the registry to learn of its source: each is asked
	// about at each snapshot, for up to sourceWithin.
	waitsMost = 1 << 10
	// leastPart is what a pod gets while there is any left.
	leastPart = 16
	// measureEvery is how old the count of other descriptors may be.
	measureEvery = time.Second
)

// NewBudget returns a Budget of this process's limit of descriptors.
func NewBudget() *Budget {
	b := &Budget{
		dials:       resource{name: "dials under way", Resource: quota.New(dialsMost, leastPart)},
		waits:       resource{name: "connections that wait for their source to be known", Resource: quota.New(waitsMost, leastPart)},
		descriptors: resource{name: "descriptors", Resource: quota.New(0, leastPart)},
		room:        quota.New(roomOfAll, 0),
		turns:       newTurns(),
		start:       time.Now(),
	}
	b.measure()
	b.descriptors.now, b.descriptors.lately = b.measure, b.remeasure
	return b
}

// Share returns a part of everything for a pod that goes by name in errors.
func (b *Budget) Share(name string) *Share {
	return &Share{Descriptors: b.descriptors.part(name), dials: b.dials.part(name), waits: b.waits.part(name), records: &b.records, room: b.room.Part(), turns: b.turns.pod()}
}

// Stats returns how much there is of each resource, and how much of it is used.
func (b *Budget) Stats() (size, used map[string]float64) {
	b.remeasure()
	size, used = map[string]float64{}, map[string]float64{}
	for name, r := range map[string]*quota.Resource{"descriptors": b.descriptors.Resource, "dials": b.dials.Resource, "waits": b.waits.Resource, "unsent": b.room} {
		size[name], used[name] = float64(r.Size()), float64(r.Used())
	}
	return size, used
}

// remeasure follows the limit and the descriptors that are not in the budget,
// at most once in a while.
func (b *Budget) remeasure() {
	now, last := int64(time.Since(b.start)), b.measured.Load()
	if now-last > int64(measureEvery) && b.measured.CompareAndSwap(last, now) {
		b.measure()
	}
}

// measure leaves out what serves everybody: listeners, maps, pipes, the admin
// sockets, and the reserve.
func (b *Budget) measure() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	if open := openDescriptors(); open > 0 {
		b.others.Store(max(0, open-b.descriptors.Used()))
	}
	b.descriptors.Resize(int64(limit.Cur-reserved(limit.Cur)) - b.others.Load())
}

// openDescriptors is how many descriptors this process has, 0 if the kernel
// does not say so at once (before Linux 6.2). To count them takes tens of
// milliseconds when there are many. Then only the reserve is left out.
func openDescriptors() int64 {
	info, err := os.Stat("/proc/self/fd")
	if err != nil {
		return 0
	}
	return info.Size()
}

// resource is one thing that the budget divides.
type resource struct {
	name string
	*quota.Resource
	now, lately func() // bring its size up to date, the latter if it is old; nil: it is fixed
	yielding    yielding
}

// Part is what one pod holds of a resource. The nil Part has no bounds.
type Part struct {
	of    *resource
	pod   string
	quota *quota.Part

	mu    sync.Mutex     // a leaf, but for quota's
	peers map[peer]int64 // of what arrives: how many each has
}

func (r *resource) part(pod string) *Part { return &Part{of: r, pod: pod, quota: r.Part()} }

// Take takes one, or says why not.
func (p *Part) Take() error {
	if p == nil {
		return nil
	}
	if p.of.lately != nil {
		p.of.lately()
	}
	p.press()
	if p.quota.Take(1) {
		return nil
	}
	if p.of.now != nil {
		p.of.now() // the limit may have been raised
		if p.quota.Take(1) {
			return nil
		}
	}
	left := max(0, p.of.Size()-p.of.Used())
	return fail(Limit, fmt.Errorf("pod %s has %d %s, and %d are left for all: %w", p.pod, p.quota.Held(), p.of.name, left, errShare))
}

// Give gives one back.
func (p *Part) Give() {
	if p != nil {
		p.quota.Add(-1)
	}
}

// errShare ends what would take more than a pod's share.
var errShare = fmt.Errorf("%w: a pod has no more than %d times what is left for the others", syscall.EMFILE, quota.Generous)

func (s *Share) descriptors() *Part {
	if s == nil {
		return nil
	}
	return s.Descriptors
}

func (s *Share) dialing() *Part {
	if s == nil {
		return nil
	}
	return s.dials
}

func (s *Share) waiting() *Part {
	if s == nil {
		return nil
	}
	return s.waits
}

func (s *Share) lending() *quota.Part {
	if s == nil {
		return nil
	}
	return s.room
}

func (s *Share) beginning() *podTurns {
	if s == nil {
		return nil
	}
	return s.turns
}

func (s *Share) logging() *recordLimit {
	if s == nil {
		return nil
	}
	return s.records
}
