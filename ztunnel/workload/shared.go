// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// shared is workloads as whoever looked them up has them: one of each, as thousands of
// connections to few peers ask for the same, and keep it for as long as they are open. The
// index's own form, Packed, is smaller and has to be unpacked.
type shared struct {
	workloads sync.Map // *Workload by *Packed
	size      atomic.Int64
}

// sharedMost bounds how many an index keeps, of half a kilobyte each. What is asked for
// beyond is the caller's own.
const sharedMost = 1024

// of returns the workload that p is; nil for nil.
func (s *shared) of(p *Packed) *Workload {
	if p == nil {
		return nil
	}
	if w, ok := s.workloads.Load(p); ok {
		return w.(*Workload)
	}
	return s.unpack(p)
}

func (s *shared) unpack(p *Packed) *Workload {
	w := new(p.Workload())
	if s.size.Load() >= sharedMost {
		return w
	}
	first, known := s.workloads.LoadOrStore(p, w)
	if !known {
		s.size.Add(1)
	}
	return first.(*Workload)
}

// SharedByUID is ByUID for a caller that does not write to the workload, which others have,
// too. Nil: there is no such pod.
func (r *Registry) SharedByUID(uid string) *Workload {
	idx := r.index.Load()
	return idx.shared.of(idx.uid(uid))
}

// SharedByAddr is ByAddr likewise. Nil: no pod has the address.
func (r *Registry) SharedByAddr(addr netip.Addr) *Workload {
	idx := r.index.Load()
	return idx.shared.of(idx.addr(addr.Unmap()))
}

// nobody is who is at a destination that is no workload.
var nobody Workload
