// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// known is the Concerns of one arrangement of policies, each made when it is first
// asked for: a node has few of a cluster's workloads.
type known struct {
	mu    sync.RWMutex
	byWho map[whom]*entry
	swept int // how many the last sweep left

	building  sync.Mutex // held while one is made, and guards what follows; taken before mu
	before    map[whom]*Concern
	compiled  made[*compiled]
	rehearsed made[*dryRun]
	alike     map[string][]*Concern // by the AuthorizationPolicies that select
}

// whom is all of a workload that a policy asks for.
type whom struct {
	namespace string
	labels    workload.Labels
}

type policyName struct{ namespace, name string }

type entry struct {
	concern *Concern
	made    bool        // for somebody who asked; else because somebody did before
	used    atomic.Bool // again, since the last sweep
}

// minSwept bounds how many Concerns of workloads that are gone are kept.
const minSwept = 1024

// newKnown knows nothing. What was in use before is used again where it says the same.
func newKnown(before map[whom]*Concern) *known {
	k := &known{before: before, byWho: map[whom]*entry{}, alike: map[string][]*Concern{}}
	k.compiled = made[*compiled]{byName: map[policyName]*compiled{}, now: map[int]*compiled{},
		make: func(p *AuthorizationPolicy, _ *compiled) *compiled { return compile(*p) }}
	k.rehearsed = made[*dryRun]{byName: map[policyName]*dryRun{}, now: map[int]*dryRun{}, make: newDryRun}
	for _, c := range before {
		k.compiled.keep(c.policies)
		k.rehearsed.keep(c.dryRuns)
	}
	return k
}

// settle forgets what was before. Nobody has asked yet for what it knows.
func (k *known) settle() {
	k.building.Lock()
	defer k.building.Unlock()
	k.before = nil
	for _, e := range k.byWho {
		e.made = false
	}
}

// get returns what is known, or nil.
func (k *known) get(who whom) *Concern {
	k.mu.RLock()
	e := k.byWho[who]
	k.mu.RUnlock()
	if e == nil {
		return nil
	}
	if !e.used.Load() { // else the cores would fight for its cache line
		e.used.Store(true)
	}
	return e.concern
}

// used returns those that were asked for.
func (k *known) used() map[whom]*Concern {
	k.mu.RLock()
	defer k.mu.RUnlock()
	used := make(map[whom]*Concern, len(k.byWho))
	for who, e := range k.byWho {
		if e.made || e.used.Load() {
			used[who] = e.concern
		}
	}
	return used
}

// concern returns what s says of dst.
func (s *scopes) concern(dst workload.Workload) *Concern {
	who := whom{dst.Namespace, dst.Labels}
	if c := s.known.get(who); c != nil {
		return c
	}
	return s.known.find(s, who)
}

// find makes what s says of a workload, or finds one that says the same: of the same
// workload before, or of another now.
func (k *known) find(s *scopes, who whom) *Concern {
	k.building.Lock()
	defer k.building.Unlock()
	if c := k.get(who); c != nil {
		return c // made meanwhile
	}
	dst := workload.Workload{Namespace: who.namespace, Labels: who.labels}
	what := said{peers: s.modes(dst)}
	enforced, dryRuns := s.authz.selecting(&dst), s.dryRuns.selecting(&dst)
	for _, i := range enforced {
		what.policies = append(what.policies, k.compiled.of(i, &s.authz.all[i]))
	}
	for _, i := range dryRuns {
		what.dryRuns = append(what.dryRuns, k.rehearsed.of(i, &s.dryRuns.all[i]))
	}
	c := k.same(who, fmt.Sprint(enforced, dryRuns), what)
	k.put(who, c)
	return c
}

func (k *known) same(who whom, which string, what said) *Concern {
	if c := k.before[who]; c != nil && c.says(what) {
		if !slices.Contains(k.alike[which], c) {
			k.alike[which] = append(k.alike[which], c)
		}
		return c
	}
	for _, c := range k.alike[which] {
		if c.says(what) {
			return c
		}
	}
	c := newConcern(what)
	k.alike[which] = append(k.alike[which], c)
	return c
}

// made is what is made of each policy: one T for as long as the policy says the same. To
// find that out may take long, and is done once in a snapshot, however many workloads the
// policy selects.
type made[T interface{ written() *AuthorizationPolicy }] struct {
	make   func(p *AuthorizationPolicy, before T) T
	byName map[policyName]T // of the snapshot before, too
	now    map[int]T        // of this snapshot, by place in authzScopes
}

func (m *made[T]) keep(all []T) {
	for _, t := range all {
		p := t.written()
		m.byName[policyName{p.Namespace, p.Name}] = t
	}
}

func (m *made[T]) of(place int, p *AuthorizationPolicy) T {
	if t, ok := m.now[place]; ok {
		return t
	}
	name := policyName{p.Namespace, p.Name}
	t, ok := m.byName[name]
	if !ok || !reflect.DeepEqual(t.written(), p) {
		t = m.make(p, t)
		m.byName[name] = t
	}
	m.now[place] = t
	return t
}

// put keeps c, and forgets what nobody asks for any more if much of that may be kept.
func (k *known) put(who whom, c *Concern) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.byWho) >= 2*k.swept+minSwept {
		k.alike = map[string][]*Concern{}
		for old, e := range k.byWho {
			if !e.used.Swap(false) {
				delete(k.byWho, old)
			}
		}
		k.swept = len(k.byWho)
	}
	k.byWho[who] = &entry{concern: c, made: true}
}
