// SPDX-License-Identifier: Apache-2.0

// Package deny is the deny set: what gets no certificate any more, and whose
// certificates nobody takes, before they expire.
//
//	entry.go    what can be denied, and how that is written in YAML
//	deny.go     the set in force
//	file.go     follows a file
//	subject.go  what of certificates can be denied
//
// The set is one YAML list, a file or the key deny.yaml of a ConfigMap:
//
//   - node: node-7
//     until: 2026-12-24T00:00:00Z
//     reason: stolen from the rack
//   - id: spiffe://cluster.local/ns/shop/sa/web
//   - serial: 4f1d02c3a5
//   - spki: <SHA-256 of a SubjectPublicKeyInfo, 64 hexadecimal digits>
//   - issuer: <subject key identifier of an issuer, in hexadecimal digits>
//
// Whoever writes it replaces it whole: a file by rename. An empty set is [].
package deny

import (
	"fmt"
	"sync"
	"time"
)

// Set is the one in force. It is safe for concurrent use.
type Set struct {
	mu         sync.Mutex // guards what follows
	known      bool
	generation uint64
	entries    []Entry
	by         map[key][]Entry
	changed    chan struct{} // closed by the next Replace
	trouble    string
}

// key is what an entry denies.
type key struct {
	kind  Kind
	value string
}

// NewSet returns one that is not known yet.
func NewSet() *Set { return &Set{changed: make(chan struct{})} }

// Replace puts other entries in force, and says what came and what went. Entries that
// Parse returned are good. version is the source's own number for them, so that all who
// follow one source count alike; 0: it has none. The generation never decreases.
func (s *Set) Replace(version uint64, entries []Entry) (added, removed []Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = ""
	if s.known && version <= s.generation && len(missing(entries, s.entries))+len(missing(s.entries, entries)) == 0 {
		return nil, nil
	}
	return s.put(max(s.generation+1, version), entries)
}

// Copy puts another program's set in force as that numbers it, and says what came and
// what went. For Entries that New returned or Parse.
func (s *Set) Copy(generation uint64, entries []Entry) (added, removed []Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = ""
	return s.put(generation, entries)
}

// put needs mu held.
func (s *Set) put(generation uint64, entries []Entry) (added, removed []Entry) {
	by := make(map[key][]Entry, len(entries))
	for _, e := range entries {
		by[e.key()] = append(by[e.key()], e)
	}
	added, removed = missing(entries, s.entries), missing(s.entries, entries)
	s.generation, s.known, s.entries, s.by = generation, true, entries, by
	close(s.changed)
	s.changed = make(chan struct{})
	return added, removed
}

// missing are those of some that others do not have.
func missing(some, others []Entry) (out []Entry) {
	has := make(map[Entry]bool, len(others))
	for _, e := range others {
		has[e] = true
	}
	for _, e := range some {
		if !has[e] {
			out = append(out, e)
		}
	}
	return out
}

// Entries returns what is in force, for reading only, and a number that grows with
// each change; 0: nothing is known yet. The channel is closed by the next change.
func (s *Set) Entries() (generation uint64, entries []Entry, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation, s.entries, s.changed
}

// Empty reports whether nothing is in force, entries that have ended aside.
func (s *Set) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries) == 0
}

// Unknown is why nothing is known yet, nil if it is.
func (s *Set) Unknown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known {
		return nil
	}
	if s.trouble == "" {
		return fmt.Errorf("the deny set is not known yet")
	}
	return fmt.Errorf("the deny set is not known yet: %s", s.trouble)
}

// Trouble is why the set in force is not what was written last, empty if it is.
func (s *Set) Trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// fail keeps what is in force, and reports whether the reason is new.
func (s *Set) fail(err error) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh = s.trouble != err.Error()
	s.trouble = err.Error()
	return fresh
}

// Match returns an entry that denies the subject at that time.
func (s *Set) Match(subject Subject, now time.Time) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range []key{{KindNode, subject.Node}, {KindID, subject.ID}, {KindSPKI, subject.SPKI}, {KindIssuer, subject.Issuer}, {KindSerial, subject.Serial}} {
		if k.value == "" {
			continue
		}
		for _, e := range s.by[k] {
			if e.InForce(now) {
				return e, true
			}
		}
	}
	return Entry{}, false
}
