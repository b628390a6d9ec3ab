// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Set is the policies in force. Readers load one arrangement, and are not held up.
type Set struct{ world atomic.Pointer[world] }

// NewSet returns a set without policies.
func NewSet() *Set {
	s := &Set{}
	s.world.Store(newWorld(nil, nil))
	return s
}

// world is the policies of one snapshot, with what namespaces are.
type world struct {
	policies   []Policy
	namespaces map[string]workload.Namespace // all; nobody writes to it
	ruled      map[string]*ruled             // those that have policies
	spaces     spaces
}

func newWorld(policies []Policy, namespaces map[string]workload.Namespace) *world {
	return &world{policies: policies, namespaces: namespaces, ruled: map[string]*ruled{}, spaces: spaces{known: map[string]*space{}}}
}

// ruled is a namespace with policies. It outlives snapshots that do not change them.
type ruled struct {
	mode     Mode
	policies []*Policy

	mu       sync.RWMutex
	concerns map[workload.Labels]*Concern
	alike    map[string]*Concern          // by a bit for each policy that selects
	before   map[workload.Labels]*Concern // of the policies before these, to be used again
	large    largeSides
}

// maxConcerns bounds how many sets of labels of a namespace are remembered.
const maxConcerns = 1024

// Replace puts the policies of a snapshot in force, with its namespaces. Nobody writes to
// either any more. It is for one goroutine at a time.
func (s *Set) Replace(policies []Policy, namespaces map[string]workload.Namespace) {
	old := s.world.Load()
	next := newWorld(policies, namespaces)
	next.keep(&old.spaces)
	same := len(policies) == len(old.policies) && (len(policies) == 0 || &policies[0] == &old.policies[0])
	by := map[string][]*Policy{}
	if !same {
		for i := range policies {
			by[policies[i].Namespace] = append(by[policies[i].Namespace], &policies[i])
		}
	} else {
		for name, r := range old.ruled {
			by[name] = r.policies
		}
	}
	for name, of := range by {
		mode, _ := ModeOf(namespaces[name].Labels)
		if of[0].Enforced {
			mode = Enforce
		}
		next.ruled[name] = old.ruled[name].become(of, mode)
	}
	s.world.Store(next)
}

// become returns what a namespace is with these policies: r, if that says the same.
func (r *ruled) become(policies []*Policy, mode Mode) *ruled {
	next := &ruled{mode: mode, policies: policies, concerns: map[workload.Labels]*Concern{}, alike: map[string]*Concern{}}
	if r == nil {
		return next
	}
	if r.mode == mode && slices.EqualFunc(r.policies, policies, samePolicy) {
		return r
	}
	if r.mode == mode {
		r.mu.RLock()
		defer r.mu.RUnlock()
		next.before = maps.Clone(r.concerns)
	}
	return next
}

func samePolicy(a, b *Policy) bool { return a == b || reflect.DeepEqual(a, b) }

// Concern returns what the policies say of a pod, nil if none selects it. It is the same
// for as long as they say the same. That does not tell who has the labels that they name.
func (s *Set) Concern(pod *workload.Workload) *Concern {
	return s.world.Load().concern(pod)
}

func (w *world) concern(pod *workload.Workload) *Concern {
	r := w.ruled[pod.Namespace]
	if r == nil || r.mode == Off {
		return nil
	}
	r.mu.RLock()
	c, known := r.concerns[pod.Labels]
	r.mu.RUnlock()
	if known {
		return c
	}
	return r.find(pod.Labels)
}

func (r *ruled) find(labels workload.Labels) *Concern {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, known := r.concerns[labels]; known {
		return c // made meanwhile
	}
	var selecting []*Policy
	which := make([]byte, len(r.policies)/8+1)
	for i, p := range r.policies {
		if p.Pods.MatchesPod(labels) {
			selecting = append(selecting, p)
			which[i/8] |= 1 << (i % 8)
		}
	}
	if len(r.concerns) >= maxConcerns {
		clear(r.concerns)
		clear(r.alike)
	}
	c, known := r.alike[string(which)]
	if !known {
		if c = r.before[labels]; c == nil || !slices.EqualFunc(c.policies, selecting, samePolicy) {
			c = newConcern(selecting, r.mode, &r.large)
		}
		r.alike[string(which)] = c
	}
	r.concerns[labels] = c
	return c
}

// All returns the policies in force; the caller must not write to them.
func (s *Set) All() []Policy { return s.world.Load().policies }

// Modes returns the mode of each namespace that has policies.
func (s *Set) Modes() map[string]Mode {
	out := map[string]Mode{}
	for name, r := range s.world.Load().ruled {
		out[name] = r.mode
	}
	return out
}
