// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// many is an issuer that takes batches, and remembers them.
type many struct {
	*issuer
	mu      sync.Mutex
	batches [][]Request
	answer  func(Request) error // if not nil: what is refused
	wish    time.Duration       // renewals are wished for after
	gate    func(ids []Request) // if not nil: called before each answer
}

func (m *many) IssueAll(ctx context.Context, requests []Request) []Result {
	m.mu.Lock()
	m.batches = append(m.batches, requests)
	answer, wish, gate := m.answer, m.wish, m.gate
	m.mu.Unlock()
	if gate != nil {
		gate(requests)
	}
	results := make([]Result, len(requests))
	for i, r := range requests {
		if answer != nil {
			if results[i].Err = answer(r); results[i].Err != nil {
				continue
			}
		}
		results[i].Issued, results[i].Err = m.Issue(ctx, r.ID, r.CSR, r.TTL)
		results[i].Issued.RenewAfter = wish
	}
	return results
}

func (m *many) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// sizes are those of the batches since the last call.
func (m *many) sizes() (sizes []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.batches {
		sizes = append(sizes, len(b))
	}
	m.batches = nil
	return sizes
}

func service(n int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/s%d", n))
}

func newMany(t *testing.T, ttl time.Duration) (*rig, *many) {
	t.Helper()
	m := &many{issuer: &issuer{ca: newCA(t, td)}}
	return run(t, Config{TTL: ttl}, m.issuer, m), m
}

func holdMany(t *testing.T, r *rig, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		t.Cleanup(r.Hold(service(n)))
	}
}

// A001-6: 300 identities that are due together take three requests.
func TestWhatIsDueTogetherIsAskedForTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &many{issuer: &issuer{ca: newCA(t, td)}}
		s := New(Config{TrustDomain: td, Issuer: m, Log: quiet})
		for n := range 300 {
			defer s.Hold(service(n))()
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		pass(time.Second)
		sizes := m.sizes()
		slices.Sort(sizes)
		if !slices.Equal(sizes, []int{300 - 2*identityv1.MaxBatch, identityv1.MaxBatch, identityv1.MaxBatch}) {
			t.Errorf("batches of %v", sizes)
		}
		if held := s.Stats().Held[Valid]; held != 300 {
			t.Errorf("%d are valid", held)
		}
		stop()
		<-done
	})
}

func TestEachOfABatchIsAnsweredByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := newMany(t, time.Hour)
		m.set(func() {
			m.answer = func(q Request) error {
				switch q.ID {
				case service(1):
					return &Problem{Reason: Refused, Sentence: "not this one"}
				case service(2):
					return &Problem{Reason: tooManyRequests, Sentence: "later", After: 20 * time.Second}
				}
				return nil
			}
		})
		holdMany(t, r, 0, 4)
		synctest.Wait()
		for n, want := range []State{Valid, Missing, Missing, Valid} {
			if got := r.Certificate(service(n)).State; got != want {
				t.Errorf("%d is %s, want %s", n, got, want)
			}
		}
		if text := r.Certificate(service(1)).Error; !strings.Contains(text, "not this one") {
			t.Errorf("it says %q", text)
		}
		m.sizes()
		m.set(func() { m.answer = nil })
		pass(10 * time.Second)
		if r.Certificate(service(1)).State != Valid || r.Certificate(service(2)).State != Missing {
			t.Error("what the CA wants to be asked later is asked for sooner, or what it does not, not")
		}
		pass(11 * time.Second)
		if r.Certificate(service(2)).State != Valid {
			t.Error("it is not asked for again when the CA wants it")
		}
	})
}

// The CA does not wait for a pod of which it has not heard while others of the batch do.
func TestWhatABatchDoesNotWaitForIsAskedForAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := newMany(t, time.Hour)
		m.set(func() {
			m.answer = func(q Request) error {
				m.mu.Lock()
				defer m.mu.Unlock()
				if q.ID == service(1) && len(m.batches[len(m.batches)-1]) > 1 {
					return &Problem{Reason: notPlaced, Sentence: "a batch does not wait", Alone: true}
				}
				return nil
			}
		})
		r.Store.mu.Lock() // so that they are due together
		for n := range 4 {
			r.entries[service(n)] = &entry{id: service(n), holds: 1, due: time.Now(), changed: make(chan struct{})}
		}
		r.Store.mu.Unlock()
		r.poke()
		synctest.Wait()
		if sizes := m.sizes(); !slices.Equal(sizes, []int{4, 1}) {
			t.Errorf("batches of %v", sizes)
		}
		if c := r.Certificate(service(1)); c.State != Valid || c.Error != "" || len(r.Stats().Failed) != 0 {
			t.Errorf("%+v, %v", c, r.Stats().Failed)
		}
	})
}

func TestTheMostUrgentGoFirst(t *testing.T) {
	now := time.Now()
	s := New(Config{Issuer: &many{}})
	valid, gone := &svid{until: now.Add(time.Hour)}, &svid{until: now.Add(-time.Hour)}
	add := func(name string, e *entry) {
		e.id, e.due = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/"+name), now.Add(-time.Minute)
		s.entries[e.id] = e
	}
	add("renewal", &entry{current: valid})
	add("first", &entry{})
	add("awaited", &entry{waiting: 1})
	add("expired", &entry{current: gone})
	add("expired-too", &entry{current: gone})
	var waves []string
	for {
		w, _ := s.form(now)
		if w == nil {
			break
		}
		var names []string
		for _, e := range w.entries {
			names = append(names, e.id.Path()[len("/ns/shop/sa/"):])
		}
		slices.Sort(names)
		waves = append(waves, strings.Join(names, "+"))
	}
	if want := []string{"expired+expired-too", "awaited", "first", "renewal"}; !slices.Equal(waves, want) {
		t.Errorf("%q, want %q", waves, want)
	}
}

// Of renewals that are due together, as after an outage, the certificate that ends first is
// renewed first, however long it has been due.
func TestWhatEndsFirstIsRenewedFirst(t *testing.T) {
	now := time.Now()
	s := New(Config{Issuer: &issuer{}})
	for n, left := range []time.Duration{3 * time.Minute, time.Minute, 2 * time.Minute} {
		e := &entry{id: service(n), due: now.Add(-time.Duration(3-n) * time.Minute), current: &svid{until: now.Add(left)}}
		s.entries[e.id] = e
	}
	var got []spiffeid.ID
	for w, _ := s.form(now); w != nil; w, _ = s.form(now) {
		got = append(got, w.entries[0].id)
	}
	if want := []spiffeid.ID{service(1), service(2), service(0)}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// One that goes while it is asked for, of a wave, does not take the others along.
func TestReleaseOfOneDoesNotEndTheRequestForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := newMany(t, time.Hour)
		open := make(chan struct{})
		m.set(func() { m.gate = func([]Request) { <-open } })
		r.Store.mu.Lock()
		for n := range 2 {
			r.entries[service(n)] = &entry{id: service(n), holds: 1, due: time.Now(), changed: make(chan struct{})}
		}
		first := r.entries[service(0)]
		r.Store.mu.Unlock()
		r.poke()
		synctest.Wait()
		r.release(first)
		close(open)
		synctest.Wait()
		if r.Certificate(service(0)).State != Missing || r.Certificate(service(1)).State != Valid {
			t.Errorf("%v, %v", r.Certificate(service(0)), r.Certificate(service(1)))
		}
		if sizes := m.sizes(); !slices.Equal(sizes, []int{2}) {
			t.Errorf("batches of %v", sizes)
		}
	})
}
