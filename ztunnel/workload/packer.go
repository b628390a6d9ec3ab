// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"hash/maphash"
	"slices"
)

// seed is that of all hashes of this process: nobody outside can choose names that
// collide.
var seed = maphash.MakeSeed()

// Packer packs workloads, and finds what they have in common with those that it
// packed before. It is for one goroutine at a time.
type Packer struct {
	shared map[uint64][]*Shared // by a hash of theirs
}

// NewPacker returns a Packer that has packed nothing.
func NewPacker() *Packer { return &Packer{shared: map[uint64][]*Shared{}} }

// Pack packs w, whose slices nobody will write to.
func (k *Packer) Pack(w Workload) *Packed {
	p := k.pack(w)
	both := p.Name + p.UID // one piece of memory has less to round up than two
	p.Name, p.UID = both[:len(p.Name)], both[len(p.Name):]
	return p
}

// Replace releases old, and packs what it is now: w, of the same name. What did not
// change stays where it is in memory.
func (k *Packer) Replace(old *Packed, w Workload) *Packed {
	p := k.pack(w)
	p.Name = old.Name
	if p.UID == old.UID {
		p.UID = old.UID
	}
	if slices.Equal(p.Addrs, old.Addrs) {
		p.Addrs = old.Addrs
	}
	k.Release(old)
	return p
}

func (k *Packer) pack(w Workload) *Packed {
	return &Packed{
		UID: w.UID, Name: w.Name, Node: w.Node, Addrs: w.Addrs, created: w.Created.Unix(), Shared: k.share(w),
		Meshed: w.Meshed, Undecided: w.Undecided, HostNetwork: w.HostNetwork, Static: w.Static,
		Ready: w.Ready, Terminated: w.Terminated, Daemon: w.Daemon, MayForward: w.MayForward,
	}
}

// Release lets go of what p shares with others, if there are none any more. Who has
// p may keep it.
func (k *Packer) Release(p *Packed) {
	if p.users--; p.users > 0 {
		return
	}
	hash := p.Shared.hash()
	left := slices.DeleteFunc(k.shared[hash], func(s *Shared) bool { return s == p.Shared })
	if k.shared[hash] = left; len(left) == 0 {
		delete(k.shared, hash)
	}
}

// share returns the one Shared that says what w does.
func (k *Packer) share(w Workload) *Shared {
	s := sharedOf(w)
	hash := s.hash()
	if i := slices.IndexFunc(k.shared[hash], s.equal); i >= 0 {
		s = k.shared[hash][i]
	} else {
		k.shared[hash] = append(k.shared[hash], s)
	}
	s.users++
	return s
}

func sharedOf(w Workload) *Shared {
	return &Shared{
		Namespace: w.Namespace, ServiceAccount: w.ServiceAccount, ID: w.ID, Labels: w.Labels, Unsteerable: w.Unsteerable,
		Ports: w.Ports, HostPorts: w.HostPorts, Declared: w.Declared,
		ProbePorts: w.ProbePorts, ForeignProbes: w.ForeignProbes, TakenProbes: w.TakenProbes,
		Owner: w.Owner, CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
	}
}

// hash is the same for those that are equal.
func (s *Shared) hash() uint64 {
	return maphash.Comparable(seed, [...]string{s.Namespace, s.ServiceAccount, s.Owner, s.Unsteerable, string(s.Labels)})
}
