// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Origin is what a Registry says of an identity that comes from an address.
type Origin int

// The origins.
const (
	// Home: a pod of that identity has the address; or the address is a node's, to which some
	// network translates those of its pods, and a pod of that identity runs there.
	Home Origin = iota
	// Unknown: nobody known has the address.
	Unknown
	// Foreign: others have the address.
	Foreign
)

// OriginOf compares an identity with who is at an address.
func (r *Registry) OriginOf(id spiffeid.ID, addr netip.Addr) Origin {
	idx := r.index.Load()
	addr = addr.Unmap()
	if w := idx.addr(addr); w != nil {
		if w.ID == id {
			return Home
		}
		return Foreign
	}
	node, is := idx.nodes[addr]
	switch {
	case !is:
		return Unknown
	case idx.runs.on(idx, node, id):
		return Home
	}
	return Foreign
}

// NodeAt returns the node that has the pod of that address, or that has the address itself;
// "": nobody known has it.
func (r *Registry) NodeAt(addr netip.Addr) string {
	idx := r.index.Load()
	if w := idx.addr(addr.Unmap()); w != nil {
		return w.Node
	}
	return idx.nodes[addr.Unmap()]
}

// runs is which identities run on which nodes. Few clusters ask for that, so it is made of
// a snapshot when somebody does.
type runs struct {
	once sync.Once
	all  map[run]struct{}
}

type run struct {
	node string
	id   spiffeid.ID
}

func (r *runs) on(idx *index, node string, id spiffeid.ID) bool {
	r.once.Do(func() {
		r.all = make(map[run]struct{})
		for _, w := range idx.mesh.Workloads {
			if !w.Terminated {
				r.all[run{w.Node, w.ID}] = struct{}{}
			}
		}
	})
	_, is := r.all[run{node, id}]
	return is
}
